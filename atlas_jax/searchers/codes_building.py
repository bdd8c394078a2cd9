"""Makes the codes of an index in one pass over its rows, and measures on the way how many true neighbours they find."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from atlas_jax import errors, types
from atlas_jax.index.embedding_index import EmbeddingIndex
from atlas_jax.io import lock
from atlas_jax.io.folder import Folder
from atlas_jax.runtime import progress
from atlas_jax.searchers import code as code_lib
from atlas_jax.searchers import codes as codes_lib
from atlas_jax.searchers import codes_files

_BYTES = 96  # finds .97 of the true 20 among a million clustered rows (docs/search.md)
TOP_K = 20  # the recall is of the true 20
_BLOCKS = 128  # of neighbouring rows that a sample is made of: rows one by one would read the whole index
_QUERIES = 256
_PERTURBED = 0.5  # a held-out query is a passage with so much of another one's distance from the mean
_LEAST_CANDIDATES = 40  # that two ways of sharing bits are compared by, on a sample


@dataclasses.dataclass(frozen=True)
class Settings:
    """How codes are made.

    Attributes:
      bytes_a_row: of the code; its factor takes four more. None takes 96, or as many as so few numbers have room for.
      rescore: candidates that a search scores exactly, by which the recall is measured.
      sample: rows that the code is fitted to.
      min_recall: least share of the true 20 that must be found.
      accept_recall: takes codes that find fewer.
      metric: of the searches, max_inner_product or cosine.

    Raises ConfigError for a number out of its range.
    """

    bytes_a_row: int | None = None
    rescore: int = 300
    sample: int = 65_536
    min_recall: float = 0.97
    accept_recall: bool = False
    metric: str = 'max_inner_product'

    def __post_init__(self):
        for name, least in (('bytes_a_row', 1), ('rescore', TOP_K), ('sample', 1)):
            if (value := getattr(self, name)) is not None and value < least:
                raise errors.ConfigError(f'{name.removesuffix("_a_row")} is {getattr(self, name)}; it must be at least {least}')
        if not 0 <= self.min_recall <= 1:
            raise errors.ConfigError(f'min_recall is {self.min_recall}; it must lie between 0 and 1')


def compress(index: EmbeddingIndex, settings: Settings, queries: np.ndarray | None = None,
             show_progress: bool = True) -> codes_files.Description:
    """Makes the codes of an index, or adds those of rows that it got since; see docs/search.md.

    Codes that were made with the same settings are kept: rows are encoded by the code that was fitted then. Otherwise a code is fitted
    again. A run that is killed leaves the codes before.

    Args:
      index: the index.
      settings: how.
      queries: [n, dim] float32, to measure the recall with; None takes passages of the index, perturbed.
      show_progress: whether to show a bar.

    Raises:
      ConfigError: too few passages, or more bits than the embeddings have room for.
      IndexFolderError: the recall is below its limit, or another process is writing. DiskFullError, StorageError.
    """
    if settings.bytes_a_row is None:
        settings = dataclasses.replace(settings, bytes_a_row=min(_BYTES, code_lib.MOST_BITS * index.dim // 8))
    folder = codes_files.folder_of(index.path)
    with lock.writing(folder, 'codes', errors.IndexFolderError):
        before = _read_if_whole(index)
        codes_files.remove_unnamed(folder, before)
        # Asked-for questions are measured anew, whatever was measured before.
        same = before is not None and _continues(before, index) and (before.bits, before.rescore, before.metric) == (
            8 * types.required(settings.bytes_a_row), settings.rescore, settings.metric)
        if queries is None and before is not None and same:
            return _extend(index, folder, before, show_progress)
        return _make(index, folder, settings, 1 + (before.revision if before else 0), queries, show_progress)


def extend_if_there(index: EmbeddingIndex, show_progress: bool = True) -> codes_files.Description | None:
    """Encodes the rows that an index got since its codes were made, by the same code; None where there are none to go on with.

    Raises IndexFolderError: another process is writing. DiskFullError, StorageError.
    """
    before = _read_if_whole(index)
    if before is None or not _continues(before, index) or before.rows == len(index):
        return None
    folder = codes_files.folder_of(index.path)
    with lock.writing(folder, 'codes', errors.IndexFolderError):
        return _extend(index, folder, before, show_progress)


def _read_if_whole(index: EmbeddingIndex) -> codes_files.Description | None:
    try:
        return codes_files.read(index.path)
    except errors.IndexFolderError:
        return None


def _continues(before: codes_files.Description, index: EmbeddingIndex) -> bool:
    return before.model_fingerprint == index.model_fingerprint and index.digest_of(before.rows) == before.rows_digest


def _extend(index: EmbeddingIndex, folder: Folder, before: codes_files.Description, show_progress: bool) -> codes_files.Description:
    if before.rows == len(index):
        return before
    code, revision = codes_files.SavedCodes(index.path, before).code, before.revision + 1
    # The last part may have room, and is written again with what follows it.
    kept = before.parts if before.rows % codes_files.PART_ROWS == 0 else before.parts[:-1]
    with _bar(len(index) - sum(part.rows for part in kept), show_progress) as bar:
        parts = [_write(index, folder, code, before.metric, first, revision, bar)[0]
                 for first in range(len(kept) * codes_files.PART_ROWS, len(index), codes_files.PART_ROWS)]
    after = dataclasses.replace(before, revision=revision, rows=len(index), rows_digest=index.rows_digest, parts=(*kept, *parts))
    codes_files.write(index.path, after)
    return after


def _make(index: EmbeddingIndex, folder: Folder, settings: Settings, revision: int, queries: np.ndarray | None,
          show_progress: bool) -> codes_files.Description:
    sample = code_lib.normalised(_sample(index, settings.sample), settings.metric)
    if queries is None:
        queries = _perturbed(sample)
    queries = code_lib.normalised(queries, settings.metric)
    code, weight = _fitted(sample, settings, queries, len(index))
    watch = _Recall(code, queries, settings.rescore)
    parts = []
    with _bar(len(index), show_progress) as bar:
        for first in range(0, len(index), codes_files.PART_ROWS):
            part, vectors, words, factors = _write(index, folder, code, settings.metric, first, revision, bar)
            parts.append(part)
            watch.see(first, vectors, words, np.where(index.deleted[first:first + part.rows], 0, factors))
    recall = watch.recall()
    if recall < settings.min_recall and not settings.accept_recall:
        codes_files.remove_unnamed(folder, _read_if_whole(index))
        raise errors.IndexFolderError(
            f'{index.path}: codes of {settings.bytes_a_row} bytes find {recall:.3f} of the true {TOP_K} among {settings.rescore} '
            f'candidates, less than --min_recall {settings.min_recall}; give more --bytes or --rescore, or --accept_recall')
    made = codes_files.Description(
        revision=revision, rows=len(index), rows_digest=index.rows_digest, model_fingerprint=index.model_fingerprint,
        metric=settings.metric, weight=weight, dim=index.dim, planes=code.planes,
        code_sha256=codes_files.write_code(folder, code, revision), fitted_revision=revision, fitted_rows=len(index),
        recall_at_20=f'{recall:.4f}', rescore=settings.rescore, queries=len(queries), parts=tuple(parts))
    codes_files.write(index.path, made)
    return made


def _bar(rows: int, show: bool) -> tqdm.tqdm:
    return progress.bar(rows, 'encoding', ' passages', show=show)


def _write(index: EmbeddingIndex, folder: Folder, code: code_lib.Code, metric: str, first: int, revision: int,
           bar: tqdm.tqdm) -> tuple[codes_files.Part, np.ndarray, np.ndarray, np.ndarray]:
    """Encodes and writes a part; returns it with its vectors [rows, dim], words and factors."""
    vectors = code_lib.normalised(index.read(first, min(first + codes_files.PART_ROWS, len(index))), metric)
    words, factors = code_lib.encode(code, vectors)
    part = codes_files.write_part(folder, first, revision, words, factors)
    bar.update(len(vectors))
    return part, vectors, words, factors


def _sample(index: EmbeddingIndex, count: int) -> np.ndarray:
    """Returns about `count` rows [n, dim] float32 that are not deleted, from blocks all over the index."""
    rows = np.arange(len(index))
    if len(index) > count:
        size = max(count // _BLOCKS, 1)
        starts = np.linspace(0, len(index) - size, min(_BLOCKS, count)).astype(np.int64)
        rows = np.unique(starts[:, None] + np.arange(size))
    rows = rows[~index.deleted[rows]]
    return np.concatenate([np.zeros((0, index.dim), np.float32),
                           *(index.embeddings(part) for part in np.array_split(rows, _BLOCKS) if len(part))])


def _perturbed(sample: np.ndarray) -> np.ndarray:
    """Returns held-out queries [n, dim]: passages, each moved by a part of another's distance from the mean."""
    generator = np.random.default_rng(0)
    chosen, others = (generator.integers(0, max(len(sample), 1), min(_QUERIES, len(sample))) for _ in range(2))
    return sample[chosen] + _PERTURBED * (sample[others] - sample.mean(axis=0))


def _fitted(sample: np.ndarray, settings: Settings, queries: np.ndarray, rows: int) -> tuple[code_lib.Code, str]:
    """Returns the code of the weighting that finds more of the sample's true neighbours, and the weighting's name."""
    # As many candidates a row as the whole index has, or two codes would look alike.
    candidates = min(max(settings.rescore * len(sample) // max(rows, 1), _LEAST_CANDIDATES), settings.rescore)
    found = {}
    for weight in code_lib.WEIGHTS:
        code = code_lib.fit(sample, 8 * types.required(settings.bytes_a_row), weight)
        watch = _Recall(code, queries, candidates)
        for first in range(0, len(sample), codes_files.PART_ROWS):
            part = sample[first:first + codes_files.PART_ROWS]
            watch.see(first, part, *code_lib.encode(code, part))
        found[weight] = watch.recall(), code
    best = max(found, key=lambda weight: found[weight][0])
    return found[best][1], best


class _Recall:
    """Watches rows go by and counts how many of the true nearest are among the candidates by their codes."""

    def __init__(self, code: code_lib.Code, queries: np.ndarray, candidates: int):
        self._queries, self._candidates, self._code = queries, candidates, code
        self._weights = jnp.asarray(queries @ code.turn).astype(jnp.bfloat16)
        nothing = np.full((len(queries), 0), -np.inf, np.float32), np.zeros((len(queries), 0), np.int64)
        self._true, self._found = nothing, nothing

    def see(self, first_row: int, vectors: np.ndarray, words: np.ndarray, factors: np.ndarray) -> None:
        """Adds rows [n, dim] with their words and factors [n]; a factor of 0 marks a deleted one."""
        rows = len(factors)
        padded = np.pad(factors, (0, codes_lib.BLOCK * 2 * len(words) - rows)).reshape(-1, codes_lib.BLOCK).T
        estimated = np.asarray(_estimates(words, padded, self._weights, self._code.planes))[:, :rows]
        exact = np.where(factors > 0, self._queries @ vectors.T, -np.inf)
        self._true = _best(self._true, exact, first_row, TOP_K)
        self._found = _best(self._found, estimated, first_row, self._candidates)

    def recall(self) -> float:
        """Returns the share of the true nearest that was found."""
        there = np.isfinite(self._true[0])
        hits = sum(np.isin(true[valid], found).sum() for true, valid, found in zip(self._true[1], there, self._found[1], strict=True))
        return float(hits / max(there.sum(), 1))


_estimates = jax.jit(codes_lib.estimates, static_argnames='planes')


def _best(so_far: tuple[np.ndarray, np.ndarray], scores: np.ndarray, first_row: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the best `count` scores [queries, n] and their rows, of those so far and of new ones, in any order."""
    scores = np.concatenate([so_far[0], scores], axis=1)
    rows = np.concatenate([so_far[1], np.broadcast_to(np.arange(first_row, first_row + scores.shape[1] - so_far[1].shape[1]),
                                                      (len(scores), scores.shape[1] - so_far[1].shape[1]))], axis=1)
    if scores.shape[1] <= count:
        return scores, rows
    chosen = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    return np.take_along_axis(scores, chosen, axis=1), np.take_along_axis(rows, chosen, axis=1)
