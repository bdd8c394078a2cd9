"""Sorting and filtering of search results on the host, by the rules of the searchers in the graph."""

from collections.abc import Callable

import numpy as np

from atlas_jax import types


def best(scores: np.ndarray, ids: np.ndarray, top_k: int) -> types.Retrieved:
    """The best of candidates [batch, n] in any order: highest score first, ties by the lower id; -inf and 0 past the last.

    Args:
      scores: [batch, n] float; -inf for what is none.
      ids: [batch, n] int.
      top_k: columns of the result; may exceed n.
    """
    missing = max(top_k - scores.shape[1], 0)
    scores = np.pad(scores.astype(np.float32), ((0, 0), (0, missing)), constant_values=-np.inf)
    ids = np.pad(ids.astype(np.int32), ((0, 0), (0, missing)))
    order = np.lexsort((ids, -scores), axis=-1)[:, :top_k]
    scores, ids = np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1)
    return types.Retrieved(scores=scores, passage_ids=np.where(scores > -np.inf, ids, 0).astype(np.int32))


def best_of_all(scores: np.ndarray, top_k: int) -> types.Retrieved:
    """The best of a score for every row, scores [rows] float; a batch of one. Ties by the lower id."""
    top_k_or_all = min(top_k, len(scores))
    least = np.partition(scores, len(scores) - top_k_or_all)[len(scores) - top_k_or_all] if top_k_or_all else 0
    ids = np.flatnonzero(scores >= least)  # more than top_k where several tie for the last place
    return best(scores[None, ids], ids[None], top_k)


def is_excluded(ids: np.ndarray, excluded: np.ndarray | None) -> np.ndarray:
    """Which of ids [batch, n] stand in their query's excluded [batch, m]: [batch, n] bool."""
    if excluded is None:
        return np.zeros(ids.shape, bool)
    return (ids[:, :, None] == np.asarray(excluded)[:, None, :]).any(axis=-1)


def fetch_until_enough(fetch: Callable[[int], tuple[np.ndarray, np.ndarray]], rows: int, valid: np.ndarray, top_k: int,
                       excluded: np.ndarray | None) -> types.Retrieved:
    """Searches with more and more results until top_k of them are neither deleted nor excluded, or there are no more rows.

    Args:
      fetch: gives the best n of all rows: (scores, ids), each [batch, n].
      rows: rows that there are.
      valid: [rows] bool, False for deleted ones.
      top_k: passages a query gets.
      excluded: [batch, m] int, -1 for none.
    """
    wanted = min(top_k, int(valid.sum()) - (0 if excluded is None else excluded.shape[1]))
    fetched = top_k + (0 if excluded is None else excluded.shape[1])
    while True:
        fetched = min(fetched, rows)
        scores, ids = fetch(fetched)
        found = valid[ids] & ~is_excluded(ids, excluded) & np.isfinite(scores)
        if fetched == rows or (found.sum(axis=1) >= wanted).all():
            return best(np.where(found, scores, -np.inf), ids, top_k)
        fetched *= 4
