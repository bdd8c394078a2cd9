"""Fusion for hybrid search: sorts the candidates of a dense searcher and of BM25 together."""

import dataclasses

import numpy as np

from atlas_jax.searchers import host_searcher
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.searchers.host_searcher import HostRetrieved

_RANK_CONSTANT = 60  # Cormack, Clarke and Buettcher 2009


@dataclasses.dataclass(frozen=True)
class Mix:
    """The formula of the sum: the quantity that is added up, and BM25's share, 0 to 1 (see
    SearchConfig).
    """

    fusion: str = 'reciprocal_rank'
    lexical_weight: float = 0.5

    @classmethod
    def of(cls, config: SearchConfig) -> 'Mix':
        """Returns the mix of a configuration; equal shares of ranks by default."""
        weight = cls.lexical_weight if config.lexical_weight is None else config.lexical_weight
        return cls(config.fusion or cls.fusion, weight)


@dataclasses.dataclass(frozen=True)
class Candidates:
    """The results of both sides, each query's dense ones first. A passage that both sides found has
    both worths at both places.

    ids      [batch, n] int32
    dense    [batch, n] float64  the worth that the dense side adds; 0 if it lacks the passage
    lexical  [batch, n] float64  the worth that BM25 adds; 0 if it lacks the passage
    first    [batch, n] bool     False at empty places and where a passage appears again
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
    """Joins two result lists [batch, n], best first; the two may differ in n. `fusion` is that of
    SearchConfig.
    """
    dense_worths, lexical_worths = _worths(dense.scores, fusion), _worths(lexical.scores, fusion)
    dense_found, lexical_found = np.isfinite(dense.scores), np.isfinite(lexical.scores)
    # [batch, dense n, lexical n]: places of the same passage; a side never names a passage twice
    same = dense.passage_ids[:, :, None] == lexical.passage_ids[:, None, :]
    same &= dense_found[:, :, None] & lexical_found[:, None, :]
    return Candidates(
        np.concatenate([dense.passage_ids, lexical.passage_ids], axis=1),
        np.concatenate(
            [dense_worths, np.where(same, dense_worths[:, :, None], 0).sum(axis=1)], axis=1),
        np.concatenate([np.where(same, lexical_worths[:, None, :], 0).sum(axis=2), lexical_worths],
                       axis=1),
        np.concatenate([dense_found, lexical_found & ~same.any(axis=1)], axis=1))


def fuse(dense: HostRetrieved, lexical: HostRetrieved, top_k: int, mix: Mix) -> HostRetrieved:
    """Fuses two result lists into one [batch, top_k]; a side adds 0 for a passage that it lacks.

    Args:
      dense, lexical: [batch, n] results, best first; the two may differ in n.
      top_k: columns of the result.
      mix: the formula.
    """
    joined = candidates(dense, lexical, mix.fusion)
    return host_searcher.best(joined.scores(mix.lexical_weight), joined.ids, top_k)


def _worths(scores: np.ndarray, fusion: str) -> np.ndarray:
    """Returns the numbers that a side adds, [batch, candidates], from its scores of the same shape;
    0 at empty places.
    """
    found = np.isfinite(scores)
    if fusion == 'reciprocal_rank':
        return np.where(found, 1 / (_RANK_CONSTANT + 1 + np.arange(scores.shape[1])), 0)
    greatest = np.where(found, scores, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    least = np.where(found, scores, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    spread = np.where(greatest > least, greatest - least, 1)
    scaled = np.where(found, scores, 0) - np.where(np.isfinite(least), least, 0)
    # Where all scores are equal, each candidate gets 1, like the best of several.
    return np.where(found, np.where(greatest > least, scaled / spread, 1), 0)
