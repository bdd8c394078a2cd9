"""Hybrid search: the candidates of a dense searcher and of BM25, put into one order."""

import numpy as np

from atlas_jax import types
from atlas_jax.searchers import host_top_k, protocol
from atlas_jax.searchers.config import SearchConfig

_RANK_CONSTANT = 60  # Cormack, Clarke and Buettcher 2009


class Hybrid:
    """A HostSearcher made of two; its scores are the fused ones. See protocol.HostSearcher."""

    needs_embeddings = True

    def __init__(self, dense: protocol.HostSearcher, lexical: protocol.HostSearcher, config: SearchConfig):
        self.dense, self.lexical, self.config = dense, lexical, config

    def search(self, queries: protocol.HostQueries, top_k: int, excluded: np.ndarray | None = None) -> types.Retrieved:
        """See protocol.HostSearcher."""
        candidates = max(self.config.fusion_candidates, top_k)
        dense, lexical = (side.search(queries, candidates, excluded) for side in (self.dense, self.lexical))
        return fuse(dense, lexical, top_k, self.config.fusion, self.config.lexical_weight)


def fuse(dense: types.Retrieved, lexical: types.Retrieved, top_k: int, fusion: str, lexical_weight: float) -> types.Retrieved:
    """Two result lists of each query as one; a passage that one side lacks gets nothing from that side.

    Args:
      dense, lexical: numpy arrays, best first.
      top_k: columns of the result.
      fusion: reciprocal_rank or weighted.
      lexical_weight: the lexical side's share, 0 to 1.
    """
    sides = ((dense, 1 - lexical_weight), (lexical, lexical_weight))
    ids = np.concatenate([np.asarray(side.passage_ids) for side, _ in sides], axis=1)
    parts = np.concatenate([weight * _parts(np.asarray(side.scores), fusion) for side, weight in sides], axis=1)
    found = np.concatenate([np.isfinite(np.asarray(side.scores)) for side, _ in sides], axis=1)
    # [batch, candidates, candidates]: each candidate gets what every entry of the same passage is worth; the first entry stays.
    same = (ids[:, :, None] == ids[:, None, :]) & found[:, None, :] & found[:, :, None]
    scores = np.where(same, parts[:, None, :], 0).sum(axis=-1)
    first = found & (same.argmax(axis=-1) == np.arange(ids.shape[1]))
    return host_top_k.best(np.where(first, scores, -np.inf), ids, top_k)


def _parts(scores: np.ndarray, fusion: str) -> np.ndarray:
    """What a side gives to each of its candidates, [batch, candidates]; 0 where there is none."""
    found = np.isfinite(scores)
    if fusion == 'reciprocal_rank':
        return np.where(found, 1 / (_RANK_CONSTANT + 1 + np.arange(scores.shape[1])), 0)
    greatest = np.where(found, scores, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    least = np.where(found, scores, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    spread = np.where(greatest > least, greatest - least, 1)
    scaled = np.where(found, scores, 0) - np.where(np.isfinite(least), least, 0)
    return np.where(found, np.where(greatest > least, scaled / spread, 1), 0)
