"""Fits the mix of hybrid search to questions whose passages are known, and saves it beside the
index as hybrid.json.
"""

import dataclasses
import hashlib
import math
import os
from collections.abc import Sequence
from typing import Annotated

import numpy as np

from atlas_jax import errors
from atlas_jax.index.embedding_index import EmbeddingIndex
from atlas_jax.io import schema, versioned_folder
from atlas_jax.io.folder import Folder
from atlas_jax.runtime import notes
from atlas_jax.searchers import fusion
from atlas_jax.searchers.config import FUSIONS, SearchConfig
from atlas_jax.searchers.fusion import Mix
from atlas_jax.searchers.host_searcher import HostRetrieved

FILE = 'hybrid.json'
LEAST_QUESTIONS = 20  # four in a fold; fewer give no reliable choice
_FOLDS = 5
# Questions fused at a time. With a hundred candidates on each side they need 1.3 million pairs.
_CHUNK = 128
_DENSE, _LEXICAL = Mix('reciprocal_rank', 0.0), Mix('reciprocal_rank', 1.0)
_MIXES = (_DENSE, _LEXICAL, *(Mix(name, share / 20) for name in FUSIONS for share in range(1, 20)))


@dataclasses.dataclass(frozen=True)
class Fit:
    """A fitted mix.

    Attributes:
      mix: the formula; its weight is 0 or 1 if no mix is better than one side alone.
      reciprocal_ranks: 1 / rank of the first relevant passage of each question, by a mix fitted to
        the other folds; 0 if none was found.
      dense, lexical: the same for each side alone.
    """

    mix: Mix
    reciprocal_ranks: tuple[float, ...]
    dense: tuple[float, ...]
    lexical: tuple[float, ...]


def fit(dense: HostRetrieved, lexical: HostRetrieved, dense_relevant: np.ndarray,
        lexical_relevant: np.ndarray, seed: int = 0) -> Fit:
    """Chooses the formula and BM25's share by the mean reciprocal rank.

    Each fifth of the questions is ranked by the mix that is best on the others. The mix is taken
    only if these ranks beat those of the better side by more than the standard error of the paired
    difference. Otherwise the better side alone is taken.

    Args:
      dense, lexical: [questions, n] results of each side, best first.
      dense_relevant, lexical_relevant: [questions, n] bool, True for passages that answer.
      seed: Seeds the assignment of questions to folds.

    Raises:
      ConfigError: fewer than LEAST_QUESTIONS questions.
    """
    count = len(dense.scores)
    if count < LEAST_QUESTIONS:
        raise errors.ConfigError(f'{count} questions are too few to fit hybrid search; give at '
                                 f'least {LEAST_QUESTIONS}')
    found = _reciprocal_ranks(dense, lexical, dense_relevant, lexical_relevant)
    folds = np.random.default_rng(seed).permutation(count) % _FOLDS
    held_out = np.zeros(count)
    for fold in range(_FOLDS):
        held_out[folds == fold] = found[_best(found[:, folds != fold])][folds == fold]
    # The better side is chosen on all questions, which favours it.
    side = _best(found[:2])
    gain = held_out - found[side]
    chosen = _best(found)
    # On few questions some mix is best by chance. One standard error excludes that in five cases of
    # six.
    if gain.mean() <= gain.std() / math.sqrt(count) or chosen < 2:
        chosen, held_out = side, found[side]
    return Fit(_MIXES[chosen], tuple(held_out.tolist()), tuple(found[0].tolist()),
               tuple(found[1].tolist()))


_Share = Annotated[float, schema.Number(0, 1)]


@dataclasses.dataclass(frozen=True)
class SavedFit:
    """The content of hybrid.json.

    fusion, lexical_weight       the mix
    metric                       metric of the dense search
    questions, questions_sha256  number of questions, and SHA-256 of their file
    mrr, dense_mrr, lexical_mrr  mean reciprocal rank of the mix and of each side
    model_fingerprint, rows_digest, deleted, store_fingerprint
                                 the version of the index and its store
    """

    fusion: Annotated[str, schema.one_of(FUSIONS, f'one of {", ".join(FUSIONS)}')]
    lexical_weight: _Share
    metric: str
    questions: int
    questions_sha256: str
    mrr: _Share
    dense_mrr: _Share
    lexical_mrr: _Share
    model_fingerprint: str
    rows_digest: str
    deleted: str
    store_fingerprint: str


KIND = versioned_folder.FolderKind[SavedFit](
    'a hybrid fit', SavedFit, errors.IndexFolderError, 'atlas-jax index compare --fit', file=FILE,
    checksum='sha256', remedy='delete it, or fit again with `atlas-jax index compare --fit`')


def save(index: EmbeddingIndex, store_fingerprint: str, fitted: Fit, config: SearchConfig,
         questions_sha256: str = '') -> None:
    """Writes the mix beside the index, with the versions it belongs to and a checksum.

    Raises DiskFullError, StorageError.
    """
    KIND.write(Folder(index.path), SavedFit(
        fitted.mix.fusion, fitted.mix.lexical_weight, config.metric, len(fitted.reciprocal_ranks),
        questions_sha256, float(np.mean(fitted.reciprocal_ranks)), float(np.mean(fitted.dense)),
        float(np.mean(fitted.lexical)), **_versions(index, store_fingerprint)))


def read(path: str | os.PathLike) -> SavedFit | None:
    """Reads the fit in the index folder `path`; None if there is none.

    Raises IndexFolderError: it is damaged. StorageError.
    """
    return KIND.read_if_there(Folder(path))


def apply(config: SearchConfig, indexes: Sequence[tuple[EmbeddingIndex, str]]) -> SearchConfig:
    """Returns the configuration with the mix that was fitted for all indexes, if it wants one and
    there is one.

    A fit stays in use after the index's rows changed, but not for another retriever. Both print one
    line on standard error.

    Args:
      config: configuration of the search.
      indexes: each index with its store's fingerprint.

    Raises:
      IndexFolderError: a fit is damaged. StorageError.
    """
    if not config.wants_fit:
        return config
    mixes = {_current(index, store_fingerprint, config) for index, store_fingerprint in indexes}
    mix = mixes.pop() if len(mixes) == 1 else None
    if mixes:
        notes.say_once('the indexes were not fitted alike, so hybrid search gives BM25 and the '
                       'retriever equal shares; set lexical_weight')
    return config if mix is None else dataclasses.replace(config, fusion=mix.fusion,
                                                          lexical_weight=mix.lexical_weight)


def _current(index: EmbeddingIndex, store_fingerprint: str, config: SearchConfig) -> Mix | None:
    saved = read(index.path)
    if saved is None:
        return None
    place, again = f'{index.path}/{FILE}', 'fit again with `atlas-jax index compare --fit`'
    now = _versions(index, store_fingerprint)
    if (saved.model_fingerprint, saved.metric) != (now['model_fingerprint'], config.metric):
        # The share weighs one retriever against BM25; another retriever needs its own.
        notes.say_once(f'{place}: stale: it was fitted for another retriever or metric, so hybrid '
                       f'search gives both sides equal shares; {again}')
        return None
    if any(getattr(saved, name) != value for name, value in now.items()):
        notes.say_once(f'{place}: stale: the index has changed since it was fitted; it is still '
                       f'used; {again}')
    return Mix(saved.fusion, saved.lexical_weight)


def _versions(index: EmbeddingIndex, store_fingerprint: str) -> dict[str, str]:
    # Deletions do not change rows_digest, but they change the search results.
    deleted = hashlib.sha256(np.packbits(index.deleted).tobytes()).hexdigest()[:16]
    return {
        'model_fingerprint': index.model_fingerprint, 'rows_digest': index.rows_digest,
        'deleted': deleted, 'store_fingerprint': store_fingerprint}


def _reciprocal_ranks(dense: HostRetrieved, lexical: HostRetrieved, dense_relevant: np.ndarray,
                      lexical_relevant: np.ndarray) -> np.ndarray:
    """Returns [mixes, questions] float64: 1 / rank of the first relevant passage by each of _MIXES,
    0 if none was found.
    """
    relevant, parts = np.concatenate([dense_relevant, lexical_relevant], axis=1), []
    for start in range(0, len(relevant), _CHUNK):
        rows = slice(start, start + _CHUNK)
        first, second = (HostRetrieved(side.scores[rows], side.passage_ids[rows])
                         for side in (dense, lexical))
        joined = {name: fusion.candidates(first, second, name) for name in FUSIONS}
        parts.append(
            np.stack([
                _first_reciprocal_rank(joined[mix.fusion].ids,
                                       joined[mix.fusion].scores(mix.lexical_weight),
                                       relevant[rows]) for mix in _MIXES]))
    return np.concatenate(parts, axis=1)


def _first_reciprocal_rank(ids: np.ndarray, scores: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Returns the reciprocal rank of the first relevant candidate of each question, [questions];
    ties go to the lower id, as in host_searcher.best.
    """
    relevant = relevant & np.isfinite(scores)
    best = np.where(relevant, scores, -np.inf).max(axis=1, keepdims=True)
    lowest = np.where(relevant & (scores == best), ids,
                      np.iinfo(np.int32).max).min(axis=1, keepdims=True)
    ahead = (scores > best) | ((scores == best) & (ids < lowest))
    return np.where(relevant.any(axis=1), 1 / (1 + (ahead & np.isfinite(scores)).sum(axis=1)), 0)


def _best(found: np.ndarray) -> int:
    """Returns the row of [mixes, questions] with the greatest mean. Ties go to the first row, and
    so to one side alone.
    """
    return int(found.mean(axis=1).argmax())
