"""Passages that the batch brings: an example's own, or retrieved ones that the host assembled."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax import errors, types
from atlas_jax.models import atlas
from atlas_jax.steps import buckets
from atlas_jax.steps import spec as spec_lib
from atlas_jax.tokenizers.formats import Segment

Array = jax.Array

# the format of an input that is assembled already
WHOLE = (Segment('text'),)


def make_given_spec(config: atlas.AtlasConfig, closed_book: tuple[Segment, ...] | None,
              mesh: jax.sharding.Mesh, reader_lengths: np.ndarray, retriever_lengths: np.ndarray,
              batch_size: int, distill: spec_lib.DistillConfig | None = None,
              **options) -> spec_lib.StepSpec:
    """Makes the spec for batches that bring their passages.

    Args:
      config, mesh, batch_size, distill, options: see spec.make_step_spec.
      closed_book: segments of the closed-book format; not used where passages are read.
      reader_lengths, retriever_lengths: [n] int, token counts of assembled inputs; no input may
        exceed the largest.

    Raises:
      ConfigError: the same errors as spec.make_step_spec.
    """
    segments = atlas.Segments(reader=WHOLE,
                              closed_book=WHOLE if closed_book is None else closed_book,
                              retriever=WHOLE)
    # The inputs contain their queries, so a query adds 0 tokens.
    lengths = types.TokenLengths(np.asarray(reader_lengths), np.asarray(retriever_lengths),
                                 np.zeros(1, np.int64))
    spec = spec_lib.make_step_spec(config, segments, mesh, lengths, batch_size, distill, **options)
    if spec.search.rerank_candidates:
        raise errors.ConfigError('re-ranking needs formats whose fields stand between spaces, and '
                                 'passages that are searched for; set '
                                 'SearchConfig.rerank_candidates to 0')
    # Passages are also embedded without a gradient: to score them, or by a frozen encoder.
    limit = int(np.max(retriever_lengths, initial=1))
    scored = buckets.capacities(np.asarray(retriever_lengths),
                                batch_size * max(spec.top_k, 1) // mesh.size, limit, mesh.size)
    return dataclasses.replace(spec, reranked=() if spec.embeds_passages else scored)


def inputs_of(batch: types.Batch, spec: spec_lib.StepSpec, retrieved: types.Retrieved | None,
              embed_queries: Callable[[], Array],
              embed_passages: Callable[[Array, Array], Array]) -> types.ReaderInputs:
    """Returns the reader inputs of a batch with passage_tokens, and scores the examples' own
    passages.

    Args:
      batch: a batch with top_k passages per example (one in a closed book), in reading order.
      spec: spec from `make_given_spec`.
      retrieved: the retrieved passages; None if they are the examples' own.
      embed_queries: returns query embeddings [batch, dim].
      embed_passages: embeds tokens [batch, n, width] with lengths [batch, n] by the passage
        encoder; returns [batch, n, dim].
    """
    lengths = types.required(batch.passage_lengths)
    inputs = types.ReaderInputs(reader_tokens=types.required(batch.passage_tokens),
                                reader_lengths=lengths)
    if spec.closed_book:
        return inputs
    # Examples bring different numbers of passages; length 0 marks empty slots.
    there, n = lengths > 0, spec.passages_scored  # [batch, top_k]
    if spec.embeds_passages:
        inputs = inputs.replace(
            retriever_tokens=types.required(batch.retriever_passage_tokens)[:, :n],
            retriever_lengths=types.required(batch.retriever_passage_lengths)[:, :n])
    if retrieved is not None:
        return inputs.replace(retrieved=retrieved)
    scores = jnp.zeros(there.shape, jnp.float32)
    if spec.reranked and (n or spec.distill is None):
        embeddings = embed_passages(types.required(batch.retriever_passage_tokens),
                                    types.required(batch.retriever_passage_lengths))
        scores = jnp.einsum('bd,bnd->bn', embed_queries(), embeddings)  # b batch, n passages, d dim
        inputs = inputs.replace(passage_embeddings=embeddings[:, :n] if n else None)
    # Own passages have no rows in an index; their ids are their places.
    places = jnp.broadcast_to(jnp.arange(there.shape[1], dtype=jnp.int32), there.shape)
    return inputs.replace(
        retrieved=types.Retrieved(scores=jnp.where(there, scores, -jnp.inf), passage_ids=places))
