"""Real text as the token arrays of a comparison: questions, the passages that an index finds for them, and their targets."""

import os

import jax
import numpy as np

from atlas_jax import api, errors
from atlas_jax.compare import inputs as compare_inputs
from atlas_jax.input import pipeline
from atlas_jax.steps import retrieve
from atlas_jax.steps import spec as spec_lib
from atlas_jax.tasks import task as task_lib


def from_text(data: str | os.PathLike, index: str | os.PathLike, store: str | os.PathLike | None, reader: str | None, retriever: str | None,
              model: str | None, n_context: int, batch: int, batches: int) -> compare_inputs.Arrays:
    """Arrays of the first `batches` times `batch` questions, each with the `n_context` passages found for it.

    Raises ConfigError where the questions are too few or the index has too few passages; InputFileError, IndexFolderError and
    ModelFolderError as their readers do.
    """
    atlas = api.ModelSource(model, reader, retriever).load(api.Atlas)
    examples = task_lib.read_examples(data, atlas.task)[:batches * batch]
    if len(examples) < batches * batch:
        raise errors.ConfigError(f'{data}: {len(examples)} questions, but {batches} batches of {batch} need {batches * batch}; take fewer')
    opened = api.Index.open(index, store)
    encoder = atlas.encoder()
    lengths = opened.token_lengths(encoder.fit_queries(examples))
    config = atlas.config.__class__(atlas.config.reader, atlas.config.retriever, atlas.config.inputs, n_context)
    distill = spec_lib.DistillConfig(retriever_n_context=n_context)
    mesh = atlas.mesh
    spec = spec_lib.make_spec(config, atlas.segments, mesh, lengths, batch, distill)
    knowledge = opened.knowledge(atlas, retriever_tokens=True)
    find = jax.jit(lambda params, part: retrieve.retrieve_and_assemble(params, part, knowledge, spec))
    parts = []
    for part in pipeline.evaluation_batches(examples, encoder, batch):
        found = jax.device_get(find(jax.device_put(atlas.params['retriever']), part))
        if not np.isfinite(found.retrieved.scores).all():
            raise errors.ConfigError(f'{index}: fewer than {n_context} passages for a question; lower --n_context')
        parts.append(_arrays(part, found))
    return compare_inputs.check({name: np.stack([part[name] for part in parts]) for name in parts[0]}, data)


def _arrays(batch, found) -> compare_inputs.Arrays:
    """One batch and what was found for it, without the first axis."""
    arrays = {}
    for name, ids, lengths in (('reader', found.reader_tokens, found.reader_lengths),
                               ('passage', found.retriever_tokens, found.retriever_lengths),
                               ('query', batch.retriever_query_tokens, batch.retriever_query_lengths)):
        mask = np.arange(ids.shape[-1]) < lengths[..., None]
        arrays |= {f'{name}_ids': np.where(mask, ids, 0), f'{name}_mask': mask.astype(np.int32)}
    arrays['target_ids'] = np.asarray(batch.decoder_target_tokens, np.int32)
    arrays['target_mask'] = np.asarray(batch.decoder_loss_weights > 0, np.int32)
    width = int(batch.reader_query_lengths.max(initial=1))
    arrays['query_mask_reader'] = (np.arange(width) < batch.reader_query_lengths[:, None]).astype(np.int32)
    return arrays
