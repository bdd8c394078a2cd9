"""Real text as the token arrays of a comparison: questions, the passages that an index finds for them, and their targets."""

import os
from typing import Any

import jax
import numpy as np

from atlas_jax import api, errors, types
from atlas_jax.compare import inputs as compare_inputs
from atlas_jax.steps import prepare, retrieve
from atlas_jax.steps import spec as spec_lib
from atlas_jax.steps.compile import compile_step
from atlas_jax.tasks import task as task_lib


def from_text(data: str | os.PathLike, index: str | os.PathLike, store: str | os.PathLike | None, reader: str | None, retriever: str | None,
              model: str | None, n_context: int, batch: int, batches: int, force: bool = False) -> compare_inputs.Arrays:
    """Makes arrays of the first `batches` times `batch` questions, each with the `n_context` passages found for it.

    Args:
      data: questions with answers, JSON lines.
      store: the passages of the index; None finds the store the index was built from.
      reader, retriever, model: a model folder, or a reader's and a retriever's.
      force: uses the index even if another model built it.

    Raises:
      ConfigError: the questions are too few, or the index has too few passages.
      InputFileError, IndexFolderError, ModelFolderError: a file or folder is missing or broken.
    """
    atlas = api.ModelSource(model, reader, retriever).load(api.Atlas)
    examples = task_lib.read_examples(data, atlas.task)[:batches * batch]
    if len(examples) < batches * batch:
        raise errors.ConfigError(f'{data}: {len(examples)} questions, but {batches} batches of {batch} need {batches * batch}; take fewer')
    # Training's own preparation: the comparison then runs on what a train step would read and score.
    distill = spec_lib.DistillConfig(retriever_n_context=n_context)
    prepared = prepare.prepare(atlas, examples, api.Index.open(index, store, force=force), n_context, batch, distill=distill)
    step = compile_step(_assemble, prepared.spec)
    # Once: host arrays would be copied at every batch. The reader is not needed to find passages.
    params = jax.device_put({name: values for name, values in atlas.params.items() if name != 'reader'})
    parts = []
    for _, (part, found) in prepared.run(step, params, examples, batch):
        if (np.asarray(found.reader_lengths) == 0).any():  # a slot without a passage: every reader input ends in eos
            raise errors.ConfigError(f'{index}: fewer than {n_context} passages for a question; lower --n_context')
        parts.append(_arrays(part, found))
    return compare_inputs.check({name: np.stack([arrays[name] for arrays in parts]) for name in parts[0]}, data)


def _assemble(spec: spec_lib.StepSpec, params: dict[str, Any], batch: types.Batch, knowledge: types.Knowledge | None,
              retrieved: types.Retrieved | None) -> tuple[types.Batch, types.ReaderInputs]:
    return batch, retrieve.retrieve_and_assemble(params['retriever'], batch, knowledge, spec, retrieved, params.get('passage_encoder'))


def _arrays(batch: types.Batch, found: types.ReaderInputs) -> compare_inputs.Arrays:
    """Lays out one batch and its passages as compare/inputs.py, without the first axis."""
    assert found.retriever_tokens is not None and found.retriever_lengths is not None  # joint training embeds passages
    arrays: compare_inputs.Arrays = {}
    for name, ids, lengths in (('reader', found.reader_tokens, found.reader_lengths),
                               ('passage', found.retriever_tokens, found.retriever_lengths),
                               ('query', batch.retriever_query_tokens, batch.retriever_query_lengths)):
        mask = np.arange(ids.shape[-1]) < np.asarray(lengths)[..., None]
        arrays |= {f'{name}_ids': np.where(mask, np.asarray(ids), 0), f'{name}_mask': mask.astype(np.int32)}
    # Fillers do not occur: there are as many questions as rows.
    arrays['target_ids'] = np.asarray(batch.decoder_target_tokens, np.int32)
    arrays['target_mask'] = np.asarray(np.asarray(batch.decoder_loss_weights) > 0, np.int32)
    query_lengths = np.asarray(batch.reader_query_lengths)
    width = int(query_lengths.max(initial=1))
    arrays['query_mask_reader'] = (np.arange(width) < query_lengths[:, None]).astype(np.int32)
    return arrays
