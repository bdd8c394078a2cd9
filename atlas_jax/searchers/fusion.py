"""Fusion of hybrid search: the candidates of a dense searcher and of BM25, put into one order."""

import dataclasses

import numpy as np

from atlas_jax.searchers import host_searcher
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.searchers.host_searcher import HostRetrieved

_RANK_CONSTANT = 60  # Cormack, Clarke and Buettcher 2009


@dataclasses.dataclass(frozen=True)
class Mix:
    """The formula of the sum: what is added up, and BM25's share of it, 0 to 1 (see SearchConfig)."""

    fusion: str = 'reciprocal_rank'
    lexical_weight: float = 0.5

    @classmethod
    def of(cls, config: SearchConfig) -> 'Mix':
        """Returns the mix that a configuration sets; equal shares of ranks where it sets none."""
        weight = cls.lexical_weight if config.lexical_weight is None else config.lexical_weight
        return cls(config.fusion or cls.fusion, weight)


@dataclasses.dataclass(frozen=True)
class Candidates:
    """The results of both sides, each query's dense ones first; a passage that both found has the worths of both at either place.

    ids      [batch, n] int32
    dense    [batch, n] float64  what the dense side gives; 0 where it lacks the passage
    lexical  [batch, n] float64  what BM25 gives
    first    [batch, n] bool     False at empty places and where a passage stands for the second time
    """

    ids: np.ndarray
    dense: np.ndarray
    lexical: np.ndarray
    first: np.ndarray

    def scores(self, lexical_weight: float) -> np.ndarray:
        """Returns the fused scores [batch, n] float32, -inf where `first` is False."""
        fused = (1 - lexical_weight) * self.dense + lexical_weight * self.lexical
        return np.where(self.first, fused, -np.inf).astype(np.float32)


def candidates(dense: HostRetrieved, lexical: HostRetrieved, fusion: str) -> Candidates:
    """Joins two result lists [batch, n] of each query, best first; the two may differ in n. `fusion` is as in SearchConfig."""
    dense_worths, lexical_worths = _worths(dense.scores, fusion), _worths(lexical.scores, fusion)
    dense_found, lexical_found = np.isfinite(dense.scores), np.isfinite(lexical.scores)
    # [batch, dense n, lexical n]: places of the same passage; a side never names one twice
    same = (dense.passage_ids[:, :, None] == lexical.passage_ids[:, None, :]) & dense_found[:, :, None] & lexical_found[:, None, :]
    return Candidates(
        np.concatenate([dense.passage_ids, lexical.passage_ids], axis=1),
        np.concatenate([dense_worths, np.where(same, dense_worths[:, :, None], 0).sum(axis=1)], axis=1),
        np.concatenate([np.where(same, lexical_worths[:, None, :], 0).sum(axis=2), lexical_worths], axis=1),
        np.concatenate([dense_found, lexical_found & ~same.any(axis=1)], axis=1))


def fuse(dense: HostRetrieved, lexical: HostRetrieved, top_k: int, mix: Mix) -> HostRetrieved:
    """Puts two result lists of each query into one [batch, top_k]; a passage that one side lacks gets nothing from that side.

    Args:
      dense, lexical: [batch, n] results, best first; the two may differ in n.
      top_k: columns of the result.
      mix: the formula.
    """
    joined = candidates(dense, lexical, mix.fusion)
    return host_searcher.best(joined.scores(mix.lexical_weight), joined.ids, top_k)


def _worths(scores: np.ndarray, fusion: str) -> np.ndarray:
    """Converts a side's scores [batch, candidates] to the numbers that are added up, of the same shape; 0 at empty places."""
    found = np.isfinite(scores)
    if fusion == 'reciprocal_rank':
        return np.where(found, 1 / (_RANK_CONSTANT + 1 + np.arange(scores.shape[1])), 0)
    greatest = np.where(found, scores, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    least = np.where(found, scores, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    spread = np.where(greatest > least, greatest - least, 1)
    scaled = np.where(found, scores, 0) - np.where(np.isfinite(least), least, 0)
    # Candidates whose scores are all equal get 1 each, as the best of several would.
    return np.where(found, np.where(greatest > least, scaled / spread, 1), 0)
