"""Search indexes with a model's own queries: what it would read, without reading it."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from atlas_jax import api
from atlas_jax.corpus.passages import Passage
from atlas_jax.searchers import config as search_config
from atlas_jax.steps import prepare
from atlas_jax.tasks import task as task_lib


@dataclasses.dataclass(frozen=True)
class Found:
    """A passage, its score (what the searcher orders by: the inner product with the query unless told otherwise), its index's folder."""

    passage: Passage
    score: float
    index: str = ''


def search(atlas: api.Atlas, index: api.Index | Sequence[api.Index], questions: Sequence[str], top_k: int,
           search: search_config.SearchConfig | str | None = None) -> list[list[Found]]:
    """The `top_k` passages that are found for each question, best first; fewer where there are fewer.

    Args:
      atlas: whose queries and passages these are.
      index: what to search, several indexes together.
      questions: plain questions.
      top_k: passages a question gets.
      search: how, or the name of a searcher; None is exact.

    Raises:
      IndexFolderError: another model built the index. StoreError: its passages are missing or damaged.
      ConfigError: an unknown searcher, or its package is missing.
    """
    if not questions:
        return []
    examples = [task_lib.ask(atlas.task, question, i) for i, question in enumerate(questions)]
    size = atlas.whole_batch(len(examples))
    prepared = prepare.prepare(atlas, examples, index, top_k, size, search=search)
    [(_, retrieved)] = prepared.search(atlas.device_params(), examples, size)

    def found(row: int, score: float) -> Found:
        part, place = prepared.index.locate(row, atlas.mesh)
        return Found(part.store[place], score, str(part.index.path))

    return [[found(int(row), float(score)) for row, score in zip(*pair, strict=True) if np.isfinite(score)]
            for pair in zip(retrieved.passage_ids[:len(questions)], retrieved.scores[:len(questions)], strict=True)]
