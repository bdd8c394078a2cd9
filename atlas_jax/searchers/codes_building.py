"""Makes the codes of an index in one pass over its rows, and measures in the same pass how many
true neighbours they find.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from atlas_jax import errors, types
from atlas_jax.index.embedding_index import EmbeddingIndex
from atlas_jax.io.folder import Folder
from atlas_jax.options import check_options, option
from atlas_jax.runtime import progress
from atlas_jax.searchers import code as code_lib
from atlas_jax.searchers import codes as codes_lib
from atlas_jax.searchers import codes_files

_BYTES = 96  # finds .97 of the true 20 among a million clustered rows (docs/search.md)
TOP_K = 20  # recall is measured on the true 20
# Blocks of neighbouring rows in a sample. Single rows from everywhere would read the whole index.
_BLOCKS = 128
_QUERIES = 256
# A held-out query is a passage plus this share of another passage's offset from the mean.
_PERTURBED = 0.5
_LEAST_CANDIDATES = 40  # least candidates when a sample compares ways to distribute the bits


@dataclasses.dataclass(frozen=True)
class CodesSettings:
    """Settings for making codes.

    Attributes:
      bytes_a_row: bytes of a row's code; its factor takes four more. None takes 96, or as many as
        the embedding has room for.
      rescore: candidates that a search scores exactly; the recall is measured with them.
      sample: rows that the code is fitted to.
      min_recall: least share of the true 20 that must be found.
      accept_recall: accepts codes that find fewer.
      metric: metric of the searches, max_inner_product or cosine.

    Raises ConfigError for a number out of its range.
    """

    bytes_a_row: int | None = option(None, least=1, name='bytes')
    rescore: int = option(300, least=TOP_K)
    sample: int = option(65_536, least=1)
    min_recall: float = option(0.97, least=0, most=1)
    accept_recall: bool = False
    metric: str = 'max_inner_product'

    def __post_init__(self):
        check_options(self, '')


def compress(index: EmbeddingIndex, settings: CodesSettings, queries: np.ndarray | None = None,
             show_progress: bool = True) -> codes_files.CodesManifest:
    """Makes the codes of an index, or encodes the rows that were added since; see docs/search.md.

    Codes made with the same settings are kept, and new rows are encoded by their code. Otherwise a
    new code is fitted. A killed run leaves the codes as they were.

    Args:
      index: the index.
      settings: the settings.
      queries: [n, dim] float32, to measure the recall with; None takes perturbed passages of the
        index.
      show_progress: shows a bar.

    Raises:
      ConfigError: too few passages, or more bits than the embeddings have room for.
      IndexFolderError: the recall is below its limit, or another process is writing. DiskFullError,
        StorageError.
    """
    if settings.bytes_a_row is None:
        settings = dataclasses.replace(settings,
                                       bytes_a_row=min(_BYTES, code_lib.MOST_BITS * index.dim // 8))
    folder = codes_files.folder_of(index.path)
    with codes_files.KIND.writing(folder):
        before = codes_files.KIND.read_if_whole(folder)
        codes_files.KIND.remove_leftovers(folder, before)
        # Given queries are always measured.
        same = before is not None and _continues(
            before, index) and (before.bits, before.rescore,
                                before.metric) == (8 * types.required(settings.bytes_a_row),
                                                   settings.rescore, settings.metric)
        if queries is None and before is not None and same:
            return _extend(index, folder, before, show_progress)
        return _make(index, folder, settings, 1 + (before.revision if before else 0), queries,
                     show_progress)


def extend_if_there(index: EmbeddingIndex,
                    show_progress: bool = True) -> codes_files.CodesManifest | None:
    """Encodes the rows that were added since the codes were made, by the same code. Returns None if
    there are no codes to extend, or no new rows.

    Raises IndexFolderError: another process is writing. DiskFullError, StorageError.
    """
    folder = codes_files.folder_of(index.path)
    before = codes_files.KIND.read_if_whole(folder)
    if before is None or not _continues(before, index) or before.rows == len(index):
        return None
    with codes_files.KIND.writing(folder):
        return _extend(index, folder, before, show_progress)


def _continues(before: codes_files.CodesManifest, index: EmbeddingIndex) -> bool:
    return before.model_fingerprint == index.model_fingerprint and index.digest_of(
        before.rows) == before.rows_digest


def _extend(index: EmbeddingIndex, folder: Folder, before: codes_files.CodesManifest,
            show_progress: bool) -> codes_files.CodesManifest:
    if before.rows == len(index):
        return before
    code, revision = codes_files.SavedCodes(index.path, before).code, before.revision + 1
    # A part that is not full is written again with the rows after it.
    kept = before.parts if before.rows % codes_files.PART_ROWS == 0 else before.parts[:-1]
    with _bar(len(index) - sum(part.rows for part in kept), show_progress) as bar:
        parts = [
            _write(index, folder, code, before.metric, first, revision, bar)[0] for first in range(
                len(kept) * codes_files.PART_ROWS, len(index), codes_files.PART_ROWS)]
    after = dataclasses.replace(before, revision=revision, rows=len(index),
                                rows_digest=index.rows_digest, parts=(*kept, *parts))
    codes_files.write(index.path, after)
    return after


def _make(index: EmbeddingIndex, folder: Folder, settings: CodesSettings, revision: int,
          queries: np.ndarray | None, show_progress: bool) -> codes_files.CodesManifest:
    sample = code_lib.normalised(_sample(index, settings.sample), settings.metric)
    if queries is None:
        queries = _perturbed(sample)
    queries = code_lib.normalised(queries, settings.metric)
    code, weight = _fitted(sample, settings, queries, len(index))
    watch = _Recall(code, queries, settings.rescore)
    parts = []
    with _bar(len(index), show_progress) as bar:
        for first in range(0, len(index), codes_files.PART_ROWS):
            part, vectors, words, factors = _write(index, folder, code, settings.metric, first,
                                                   revision, bar)
            parts.append(part)
            watch.see(first, vectors, words,
                      np.where(index.deleted[first:first + part.rows], 0, factors))
    recall = watch.recall()
    if recall < settings.min_recall and not settings.accept_recall:
        codes_files.KIND.remove_leftovers(folder, codes_files.KIND.read_if_whole(folder))
        raise errors.IndexFolderError(
            f'{index.path}: codes of {settings.bytes_a_row} bytes find {recall:.3f} of the true '
            f'{TOP_K} among {settings.rescore} '
            f'candidates, less than --min_recall {settings.min_recall}; give more --bytes or '
            '--rescore, or --accept_recall')
    made = codes_files.CodesManifest(
        revision=revision, rows=len(index), rows_digest=index.rows_digest,
        model_fingerprint=index.model_fingerprint, metric=settings.metric, weight=weight,
        dim=index.dim, planes=code.planes, code_sha256=codes_files.write_code(
            folder, code, revision), fitted_revision=revision, fitted_rows=len(index),
        recall_at_20=f'{recall:.4f}', rescore=settings.rescore, queries=len(queries),
        parts=tuple(parts))
    codes_files.write(index.path, made)
    return made


def _bar(rows: int, show: bool) -> tqdm.tqdm:
    return progress.bar(rows, 'encoding', ' passages', show=show)


def _write(index: EmbeddingIndex, folder: Folder, code: code_lib.Code, metric: str, first: int,
           revision: int,
           bar: tqdm.tqdm) -> tuple[codes_files.CodesPart, np.ndarray, np.ndarray, np.ndarray]:
    """Encodes and writes a part. Returns it with its vectors [rows, dim], words and factors."""
    vectors = code_lib.normalised(index.read(first, min(first + codes_files.PART_ROWS, len(index))),
                                  metric)
    words, factors = code_lib.encode(code, vectors)
    part = codes_files.write_part(folder, first, revision, words, factors)
    bar.update(len(vectors))
    return part, vectors, words, factors


def _sample(index: EmbeddingIndex, count: int) -> np.ndarray:
    """Returns about `count` rows [n, dim] float32 that are not deleted, in blocks from all over the
    index.
    """
    rows = np.arange(len(index))
    if len(index) > count:
        size = max(count // _BLOCKS, 1)
        starts = np.linspace(0, len(index) - size, min(_BLOCKS, count)).astype(np.int64)
        rows = np.unique(starts[:, None] + np.arange(size))
    rows = rows[~index.deleted[rows]]
    return np.concatenate([
        np.zeros((0, index.dim), np.float32),
        *(index.embeddings(part) for part in np.array_split(rows, _BLOCKS) if len(part))])


def _perturbed(sample: np.ndarray) -> np.ndarray:
    """Returns held-out queries [n, dim]: passages, each moved by a share of another one's offset
    from the mean.
    """
    generator = np.random.default_rng(0)
    chosen, others = (generator.integers(0, max(len(sample), 1), min(_QUERIES, len(sample)))
                      for _ in range(2))
    return sample[chosen] + _PERTURBED * (sample[others] - sample.mean(axis=0))


def _fitted(sample: np.ndarray, settings: CodesSettings, queries: np.ndarray,
            rows: int) -> tuple[code_lib.Code, str]:
    """Returns the code whose weighting finds most of the sample's true neighbours, and the name of
    the weighting.
    """
    # The same share of candidates as in the whole index; with more, the codes would look alike.
    candidates = min(max(settings.rescore * len(sample) // max(rows, 1), _LEAST_CANDIDATES),
                     settings.rescore)
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
    """Measures how many true nearest rows are among the candidates by code, from rows that are seen
    part by part.
    """

    def __init__(self, code: code_lib.Code, queries: np.ndarray, candidates: int):
        self._queries, self._candidates, self._code = queries, candidates, code
        self._weights = jnp.asarray(queries @ code.turn).astype(jnp.bfloat16)
        nothing = np.full((len(queries), 0), -np.inf, np.float32), np.zeros((len(queries), 0),
                                                                            np.int64)
        self._true, self._found = nothing, nothing

    def see(self, first_row: int, vectors: np.ndarray, words: np.ndarray,
            factors: np.ndarray) -> None:
        """Adds rows [n, dim] with their words and factors [n]; factor 0 marks a deleted row."""
        rows = len(factors)
        padded = np.pad(factors,
                        (0, codes_lib.BLOCK * 2 * len(words) - rows)).reshape(-1, codes_lib.BLOCK).T
        estimated = np.asarray(_estimates(words, padded, self._weights,
                                          self._code.planes))[:, :rows]
        exact = np.where(factors > 0, self._queries @ vectors.T, -np.inf)
        self._true = _best(self._true, exact, first_row, TOP_K)
        self._found = _best(self._found, estimated, first_row, self._candidates)

    def recall(self) -> float:
        """Returns the share of the true nearest rows that was found."""
        there = np.isfinite(self._true[0])
        hits = sum(
            np.isin(true[valid], found).sum()
            for true, valid, found in zip(self._true[1], there, self._found[1], strict=True))
        return float(hits / max(there.sum(), 1))


_estimates = jax.jit(codes_lib.estimates, static_argnames='planes')


def _best(so_far: tuple[np.ndarray, np.ndarray], scores: np.ndarray, first_row: int,
          count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the best `count` scores [queries, n] so far, and their rows, in any order; `scores`
    are those of the rows from `first_row` on.
    """
    scores = np.concatenate([so_far[0], scores], axis=1)
    rows = np.concatenate([
        so_far[1],
        np.broadcast_to(np.arange(first_row, first_row + scores.shape[1] - so_far[1].shape[1]),
                        (len(scores), scores.shape[1] - so_far[1].shape[1]))], axis=1)
    if scores.shape[1] <= count:
        return scores, rows
    chosen = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    return np.take_along_axis(scores, chosen, axis=1), np.take_along_axis(rows, chosen, axis=1)
