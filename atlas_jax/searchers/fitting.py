"""Fits the mix of hybrid search to questions whose passages are known, and keeps it beside the index, as hybrid.json."""

import dataclasses
import functools
import hashlib
import math
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from atlas_jax import errors
from atlas_jax.index.embedding_index import EmbeddingIndex
from atlas_jax.io import manifest, untrusted
from atlas_jax.io.folder import Folder
from atlas_jax.searchers import fusion
from atlas_jax.searchers.config import FUSIONS, SearchConfig
from atlas_jax.searchers.fusion import Mix
from atlas_jax.searchers.host_searcher import HostRetrieved

FILE = 'hybrid.json'
LEAST_QUESTIONS = 20  # fewer than four in a fold say nothing
_VERSION = 1
_FOLDS = 5
_CHUNK = 128  # questions joined at a time: a hundred candidates a side need 1.3 million pairs for them
_DENSE, _LEXICAL = Mix('reciprocal_rank', 0.0), Mix('reciprocal_rank', 1.0)
_MIXES = (_DENSE, _LEXICAL, *(Mix(name, share / 20) for name in FUSIONS for share in range(1, 20)))


@dataclasses.dataclass(frozen=True)
class Fit:
    """A mix that was fitted.

    Attributes:
      mix: the formula; the pure weights 0 or 1 where no mix is better than one side alone.
      reciprocal_ranks: per question, 1 / rank of its first relevant passage by a mix fitted to the other folds; 0 where none was found.
      dense, lexical: per question, the same of either side alone.
    """

    mix: Mix
    reciprocal_ranks: tuple[float, ...]
    dense: tuple[float, ...]
    lexical: tuple[float, ...]


def fit(dense: HostRetrieved, lexical: HostRetrieved, dense_relevant: np.ndarray, lexical_relevant: np.ndarray, seed: int = 0) -> Fit:
    """Chooses what is added up and BM25's share by the mean reciprocal rank.

    Each fifth of the questions is ranked by the mix that is best on the others. Only if these ranks beat the better side's by more than the
    standard error of the paired difference is there a mix; otherwise the better side alone is taken.

    Args:
      dense, lexical: [questions, n] results of either side, best first.
      dense_relevant, lexical_relevant: [questions, n] bool, True for passages that answer.
      seed: of the folds.

    Raises:
      ConfigError: fewer than LEAST_QUESTIONS questions.
    """
    count = len(dense.scores)
    if count < LEAST_QUESTIONS:
        raise errors.ConfigError(f'{count} questions are too few to fit hybrid search; give at least {LEAST_QUESTIONS}')
    found = _reciprocal_ranks(dense, lexical, dense_relevant, lexical_relevant)
    folds = np.random.default_rng(seed).permutation(count) % _FOLDS
    held_out = np.zeros(count)
    for fold in range(_FOLDS):
        held_out[folds == fold] = found[_best(found[:, folds != fold])][folds == fold]
    # The better side is known from all questions, so its ranks are, if anything, flattered.
    side = _best(found[:2])
    gain = held_out - found[side]
    chosen = _best(found)
    # On few questions some mix is the best by chance: one standard error keeps that out in five cases of six.
    if gain.mean() <= gain.std() / math.sqrt(count) or chosen < 2:
        chosen, held_out = side, found[side]
    return Fit(_MIXES[chosen], tuple(held_out.tolist()), tuple(found[0].tolist()), tuple(found[1].tolist()))


def save(index: EmbeddingIndex, store_fingerprint: str, fitted: Fit, config: SearchConfig, questions_sha256: str = '') -> None:
    """Writes the mix beside the index, with the versions it belongs to and a checksum. Raises DiskFullError, StorageError."""
    body = {'version': _VERSION, **dataclasses.asdict(fitted.mix), 'metric': config.metric, 'questions': len(fitted.reciprocal_ranks),
            'questions_sha256': questions_sha256, 'mrr': float(np.mean(fitted.reciprocal_ranks)),
            'dense_mrr': float(np.mean(fitted.dense)), 'lexical_mrr': float(np.mean(fitted.lexical)),
            **_versions(index, store_fingerprint)}
    Folder(index.path).write_json(FILE, {**body, 'sha256': manifest.digest(body)})


def read(path: str | os.PathLike) -> dict[str, Any] | None:
    """Reads what `save` wrote into the index folder `path`; None if there is nothing.

    Raises:
      IndexFolderError: it is damaged. StorageError.
    """
    folder, remedy = Folder(path), 'delete it, or fit again with `atlas-jax index compare --fit`'
    try:
        body = untrusted.parse_json(folder.read(FILE))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as problem:
        raise errors.IndexFolderError(f'{folder}/{FILE}: cannot be read ({problem}); {remedy}') from problem
    checksum = body.pop('sha256', None) if isinstance(body, dict) else None
    if not isinstance(body, dict) or checksum != manifest.digest(body):
        raise errors.IndexFolderError(f'{folder}/{FILE}: damaged (its checksum does not match); {remedy}')
    if body.get('version') != _VERSION:
        raise errors.IndexFolderError(f'{folder}/{FILE}: format {body.get("version")}, this version of atlas_jax reads {_VERSION}; '
                                      f'{remedy}')
    # The checksum tells damage, not malice: whoever writes the file can also write that.
    share = body.get('lexical_weight')
    if body.get('fusion') not in FUSIONS or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise errors.IndexFolderError(f'{folder}/{FILE}: holds no mix (fusion {str(body.get("fusion"))[:40]!r}, lexical_weight '
                                      f'{str(share)[:40]}); {remedy}')
    return body


def apply(config: SearchConfig, indexes: Sequence[tuple[EmbeddingIndex, str]]) -> SearchConfig:
    """Returns the configuration with the mix that was fitted for the indexes, where it wants one and there is one for all of them.

    A fit from before the index's rows changed still serves; one for another retriever does not. Standard error says so once.

    Args:
      config: of the search.
      indexes: each index with its store's fingerprint.

    Raises:
      IndexFolderError: a fit is damaged. StorageError.
    """
    if not config.wants_fit:
        return config
    mixes = {_current(index, store_fingerprint, config) for index, store_fingerprint in indexes}
    mix = mixes.pop() if len(mixes) == 1 else None
    if mixes:
        _say('the indexes were not fitted alike, so hybrid search gives BM25 and the retriever equal shares; set lexical_weight')
    return config if mix is None else dataclasses.replace(config, fusion=mix.fusion, lexical_weight=mix.lexical_weight)


def _current(index: EmbeddingIndex, store_fingerprint: str, config: SearchConfig) -> Mix | None:
    body = read(index.path)
    if body is None:
        return None
    place, again = f'{index.path}/{FILE}', 'fit again with `atlas-jax index compare --fit`'
    now = _versions(index, store_fingerprint)
    if body.get('model_fingerprint') != now['model_fingerprint'] or body.get('metric') != config.metric:
        # A share weighs one retriever against BM25 and says nothing of another one.
        _say(f'{place}: stale, for it was fitted for another retriever or metric; hybrid search gives both sides equal shares; {again}')
        return None
    if any(body.get(name) != value for name, value in now.items()):
        _say(f'{place}: stale, for the index has changed since it was fitted; it is still used; {again}')
    return Mix(body['fusion'], body['lexical_weight'])


def _versions(index: EmbeddingIndex, store_fingerprint: str) -> dict[str, str]:
    # Deletions change no row's digest, yet they change what is searched.
    deleted = hashlib.sha256(np.packbits(index.deleted).tobytes()).hexdigest()[:16]
    return {'model_fingerprint': index.model_fingerprint, 'rows_digest': index.rows_digest, 'deleted': deleted,
            'store_fingerprint': store_fingerprint}


def _reciprocal_ranks(dense: HostRetrieved, lexical: HostRetrieved, dense_relevant: np.ndarray,
                      lexical_relevant: np.ndarray) -> np.ndarray:
    """Returns [mixes, questions] float64: 1 / rank of the first relevant passage by each of _MIXES, 0 where there is none."""
    relevant, parts = np.concatenate([dense_relevant, lexical_relevant], axis=1), []
    for start in range(0, len(relevant), _CHUNK):
        rows = slice(start, start + _CHUNK)
        first, second = (HostRetrieved(side.scores[rows], side.passage_ids[rows]) for side in (dense, lexical))
        joined = {name: fusion.candidates(first, second, name) for name in FUSIONS}
        parts.append(np.stack([_of_first(joined[mix.fusion].ids, joined[mix.fusion].scores(mix.lexical_weight), relevant[rows])
                               for mix in _MIXES]))
    return np.concatenate(parts, axis=1)


def _of_first(ids: np.ndarray, scores: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Returns [questions] the reciprocal rank of the first relevant candidate; ties go to the lower id, as in host_searcher.best."""
    relevant = relevant & np.isfinite(scores)
    best = np.where(relevant, scores, -np.inf).max(axis=1, keepdims=True)
    lowest = np.where(relevant & (scores == best), ids, np.iinfo(np.int32).max).min(axis=1, keepdims=True)
    ahead = (scores > best) | ((scores == best) & (ids < lowest))
    return np.where(relevant.any(axis=1), 1 / (1 + (ahead & np.isfinite(scores)).sum(axis=1)), 0)


def _best(found: np.ndarray) -> int:
    """Returns the row of [mixes, questions] with the greatest mean; ties go to the first, and so to one side alone."""
    return int(found.mean(axis=1).argmax())


@functools.cache  # once a process: a searcher is asked for again and again
def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
