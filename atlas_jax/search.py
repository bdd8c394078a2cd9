"""Search indexes with a model's own queries: what it would read, without reading it."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import numpy as np

from atlas_jax import api, index_group
from atlas_jax.corpus.passages import Passage
from atlas_jax.input import pipeline
from atlas_jax.searchers import config as search_config
from atlas_jax.tasks import protocol
from atlas_jax.training import host_path, retrieve, train_step
from atlas_jax.training import spec as spec_lib


@dataclasses.dataclass(frozen=True)
class Found:
    """A passage, its score (what the searcher orders by: the inner product with the query unless told otherwise), its index's folder."""

    passage: Passage
    score: float
    index: str = ''


def search(atlas: api.Atlas, index: api.Index | Sequence[api.Index], questions: Sequence[str], top_k: int,
           search: search_config.SearchConfig | str | None = None) -> list[list[Found]]:
    """The `top_k` passages that are found for each question, best first; fewer where there are fewer.

    Raises:
      IndexFolderError: another model built the index. StoreError: its passages are missing or damaged.
      ConfigError: an unknown searcher, or its package is missing.
    """
    if not questions:
        return []
    examples = [protocol.ask(atlas.task, question, i) for i, question in enumerate(questions)]
    group = index_group.of(index)
    encoder = atlas.encoder()
    lengths = group.token_lengths(encoder.fit_queries(examples))
    batch_size = -(-len(examples) // atlas.mesh.size) * atlas.mesh.size
    config = dataclasses.replace(atlas.config, n_context=top_k)
    spec = spec_lib.make_spec(config, atlas.segments, atlas.mesh, lengths, batch_size, search=search_config.of(search))
    batch = jax.device_put(next(pipeline.evaluation_batches(examples, encoder, batch_size)), train_step.batch_sharding(atlas.mesh))
    knowledge, searcher = group.for_step(atlas, spec)
    params = {name: atlas.params[name] for name in ('retriever', 'passage_encoder') if name in atlas.params}
    retrieved = None if searcher is None else host_path.find(params['retriever'], batch, host_path.texts(examples), searcher, spec)
    if searcher is None or spec.reranked:
        retrieved = jax.device_get(_finder(spec)(params, batch, knowledge, retrieved))

    def found(row: int, score: float) -> Found:
        part, place = group.locate(row, atlas.mesh)
        return Found(part.store[place], score, str(part.index.path))

    scores, ids = np.asarray(retrieved.scores)[:len(questions)], np.asarray(retrieved.passage_ids)[:len(questions)]
    return [[found(int(row), float(score)) for row, score in zip(*pair, strict=True) if np.isfinite(score)]
            for pair in zip(ids, scores, strict=True)]


@functools.lru_cache(maxsize=8)
def _finder(spec: spec_lib.StepSpec):
    def find(params, batch, knowledge, retrieved):
        passage_params = params.get('passage_encoder', params['retriever'])
        return retrieve.find(params['retriever'], batch, knowledge, spec, retrieved, passage_params)

    return jax.jit(find)
