"""The retrieval map: a question, its found passages and some others, as points in a plane."""

import dataclasses
from typing import Any

import jax
import numpy as np

from atlas_jax.answering import api, prepare
from atlas_jax.steps import search as search_step
from atlas_jax.tasks import task as task_lib

# Number of other passages, and of runs of neighbours that they come from.
_OTHERS, _RUNS = 200, 10


@dataclasses.dataclass(frozen=True)
class Point:
    """A point of the map: the question (without docid), a found passage (with rank) or another one.
    """

    x: float
    y: float
    docid: str | None = None
    title: str = ''
    rank: int | None = None


def points(atlas: api.Atlas, index: api.Index, question: str, found: list[str]) -> list[Point]:
    """Returns the points of the question, of the passages found, best first, and of others, which
    are always the same.
    """
    alive = np.flatnonzero(~index.index.deleted)
    rows_found = index.store.rows_of(found)
    others = np.setdiff1d(alive, rows_found)
    if len(others) > _OTHERS:
        # Runs of neighbours, because rows are read in chunks of thousands.
        starts = np.linspace(0, len(others) - _OTHERS // _RUNS, _RUNS).astype(int)
        others = np.unique(
            np.concatenate([others[start:start + _OTHERS // _RUNS] for start in starts]))
    rows = np.concatenate([rows_found, others]).astype(np.int64)
    vectors = np.concatenate([
        query_embedding(atlas, index, question)[None],
        index.index.embeddings(rows)])
    placed = project(vectors)
    texts = [index.store[int(row)] for row in rows]
    named = [(text.docid, text.full_title, number + 1 if number < len(found) else None)
             for number, text in enumerate(texts)]
    return [
        Point(float(x), float(y), *name)
        for (x, y), name in zip(placed, [(None, question, None), *named], strict=True)]


def query_embedding(atlas: api.Atlas, index: api.Index, question: str) -> np.ndarray:
    """Returns the question's embedding for searching, [dim] float32."""
    example, size = task_lib.ask(atlas.task, question, 0), atlas.whole_batch(1)
    prepared = prepare.prepare_examples(atlas, [example], index, 1, size)
    batch, _ = prepared.batch([example], size, atlas.params)
    embed: Any = search_step.query_embedder(prepared.searched or prepared.spec)
    return np.asarray(jax.device_get(embed(atlas.device_params()['retriever'], batch)))[0]


def project(vectors: np.ndarray) -> np.ndarray:
    """Projects [n, dim] vectors on their two principal axes. Returns coordinates [n, 2] from -1 to
    1.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    # The sign of an axis is arbitrary. Without a rule, maps of two questions could be mirrored.
    largest = np.abs(axes[:2]).argmax(axis=1)[:, None]
    axes = axes[:2] * np.sign(np.take_along_axis(axes[:2], largest, axis=1))
    plane = centred @ axes.T
    # A single vector, or vectors on a line, lack an axis.
    plane = np.pad(plane, ((0, 0), (0, 2 - plane.shape[1])))
    return plane / max(np.abs(plane).max(), 1e-12)
