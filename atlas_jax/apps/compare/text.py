"""Real text as the token arrays of a comparison: questions, the passages that an index finds for
them, and their targets.
"""

import os
from typing import Any

import jax
import numpy as np

from atlas_jax import errors, types
from atlas_jax.answering import api, prepare
from atlas_jax.apps.compare import token_arrays as compare_inputs
from atlas_jax.steps import retrieve
from atlas_jax.steps import spec as spec_lib
from atlas_jax.steps.compile import compile_step
from atlas_jax.tasks import task as task_lib


def from_text(data: str | os.PathLike, index: str | os.PathLike, store: str | os.PathLike | None,
              reader: str | None, retriever: str | None, model: str | None, n_context: int,
              batch: int, batches: int, force: bool = False) -> compare_inputs.Arrays:
    """Makes arrays of the first `batches` times `batch` questions, each with the `n_context`
    retrieved passages.

    Args:
      data: questions with answers, JSON lines.
      index: the index folder.
      store: the passages of the index; None finds the store that the index was built from.
      reader, retriever, model: a model folder, or a reader's and a retriever's.
      n_context, batch, batches: passages of a question, questions of a batch, number of batches.
      force: True uses the index even if another model built it.

    Raises:
      ConfigError: there are too few questions, or too few passages in the index.
      InputFileError, IndexFolderError, ModelFolderError: a file or folder is missing or broken.
    """
    atlas = api.ModelSource(model, reader, retriever).load(api.Atlas)
    examples = task_lib.read_examples(data, atlas.task)[:batches * batch]
    if len(examples) < batches * batch:
        raise errors.ConfigError(f'{data}: {len(examples)} questions, but {batches} batches of '
                                 f'{batch} need {batches * batch}; take fewer')
    # Training's own preparation, so that the comparison runs on the inputs of a train step.
    distill = spec_lib.DistillConfig(retriever_n_context=n_context)
    prepared = prepare.prepare_examples(atlas, examples, api.Index.open(index, store, force=force),
                                        n_context, batch, distill=distill)
    step = compile_step(_assemble, prepared.spec)
    # Put on the device once: host arrays would be copied for every batch. Retrieval needs no
    # reader.
    params = jax.device_put(
        {name: values for name, values in atlas.params.items() if name != 'reader'})
    parts = []
    for _, (part, found) in prepared.run(step, params, examples, batch):
        # Length 0 marks a slot without a passage, because every reader input ends in eos.
        if (np.asarray(found.reader_lengths) == 0).any():
            raise errors.ConfigError(f'{index}: fewer than {n_context} passages for a question; '
                                     'lower --n_context')
        parts.append(_arrays(part, found))
    return compare_inputs.check(
        {name: np.stack([arrays[name] for arrays in parts]) for name in parts[0]}, data)


def _assemble(spec: spec_lib.StepSpec, params: dict[str, Any], batch: types.Batch,
              knowledge: types.Knowledge | None,
              retrieved: types.Retrieved | None) -> tuple[types.Batch, types.ReaderInputs]:
    return batch, retrieve.retrieve_and_assemble(params['retriever'], batch, knowledge, spec,
                                                 retrieved, params.get('passage_encoder'))


def _arrays(batch: types.Batch, found: types.ReaderInputs) -> compare_inputs.Arrays:
    """Returns one batch and its passages in the layout of apps/compare/token_arrays.py, without the
    first axis.
    """
    # Joint training embeds passages, so they exist.
    assert found.retriever_tokens is not None and found.retriever_lengths is not None
    arrays: compare_inputs.Arrays = {}
    rows = {'reader': (found.reader_tokens, found.reader_lengths),
            'passage': (found.retriever_tokens, found.retriever_lengths),
            'query': (batch.retriever_query_tokens, batch.retriever_query_lengths)}
    for name, (ids, lengths) in rows.items():
        mask = np.arange(ids.shape[-1]) < np.asarray(lengths)[..., None]
        arrays |= {
            f'{name}_ids': np.where(mask, np.asarray(ids), 0),
            f'{name}_mask': mask.astype(np.int32)}
    # Every row holds a question; there are no padding examples.
    arrays['target_ids'] = np.asarray(batch.decoder_target_tokens, np.int32)
    arrays['target_mask'] = np.asarray(np.asarray(batch.decoder_loss_weights) > 0, np.int32)
    query_lengths = np.asarray(batch.reader_query_lengths)
    width = int(query_lengths.max(initial=1))
    arrays['query_mask_reader'] = (np.arange(width) < query_lengths[:, None]).astype(np.int32)
    return arrays
