"""Search an index with a model's own queries: what it would read, without reading it."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from atlas_jax import api
from atlas_jax.corpus.passages import Passage
from atlas_jax.input import pipeline
from atlas_jax.searchers import exact
from atlas_jax.tasks import protocol
from atlas_jax.training import retrieve, train_step
from atlas_jax.training import spec as spec_lib


@dataclasses.dataclass(frozen=True)
class Found:
    """A passage and its score, the inner product with the query."""

    passage: Passage
    score: float


def search(atlas: api.Atlas, index: api.Index, questions: Sequence[str], top_k: int) -> list[list[Found]]:
    """The `top_k` passages nearest to each question, best first; fewer where the index has fewer.

    Raises:
      IndexFolderError: another model built the index. StoreError: its passages are missing or damaged.
    """
    if not questions:
        return []
    examples = [protocol.ask(atlas.task, question, i) for i, question in enumerate(questions)]
    encoder = atlas.encoder()
    query_lengths = encoder.fit_queries(examples)
    batch_size = -(-len(examples) // atlas.mesh.size) * atlas.mesh.size
    spec = spec_lib.make_spec(atlas.config, atlas.segments, atlas.mesh, api.no_passages(query_lengths), batch_size)
    batch = jax.device_put(next(pipeline.evaluation_batches(examples, encoder, batch_size)), train_step.batch_sharding(atlas.mesh))
    arrays = index.knowledge(atlas).index

    @jax.jit
    def nearest(params, batch, arrays):
        return exact.search(arrays, retrieve.embed_queries(params, batch, spec), top_k, spec.mesh)

    retrieved = jax.device_get(nearest(atlas.params['retriever'], batch, arrays))
    return [[Found(index.store[int(row)], float(score)) for row, score in zip(rows, scores, strict=True) if np.isfinite(score)]
            for rows, scores in zip(retrieved.passage_ids[:len(questions)], retrieved.scores[:len(questions)], strict=True)]
