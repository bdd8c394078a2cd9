"""The interface of searchers that run on the host, and what they share: sorting, filtering and saving.

Results follow the rules of the searchers in the graph: best first, ties by the lower row, score -inf and row 0 at unused places.
"""

import contextlib
import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from atlas_jax import errors, types
from atlas_jax.io import atomic, schema, untrusted
from atlas_jax.runtime import hosts

SAVED_FILE = 'searcher.json'
_VERSION = 1  # of the saved folders
# Results fetched are this many times those fetched before, while too few of them are valid.
_FETCH_FACTOR = 4


@dataclasses.dataclass(frozen=True)
class HostQueries:
    """Queries for a searcher of the host.

    texts       [batch] the questions in words
    embeddings  [batch, dim] float32; None if the searcher does not need them
    """

    texts: Sequence[str]
    embeddings: np.ndarray | None

    def __len__(self) -> int:
        return len(self.texts)


@dataclasses.dataclass(frozen=True)
class HostRetrieved:
    """Search results on the host: types.Retrieved in numpy arrays.

    scores       [batch, top_k] float32  -inf at unused places
    passage_ids  [batch, top_k] int32    index rows; 0 at unused places
    """

    scores: np.ndarray
    passage_ids: np.ndarray

    def on_devices(self, sharding: jax.sharding.Sharding) -> types.Retrieved:
        """Puts the results on devices, for a step to read."""
        return types.Retrieved(scores=hosts.place(self.scores, sharding), passage_ids=hosts.place(self.passage_ids, sharding))


class HostSearcher(Protocol):
    """Finds passages on the host. `needs_embeddings` is True if it reads the queries' embeddings."""

    needs_embeddings: bool

    def search(self, queries: HostQueries, top_k: int, excluded: np.ndarray | None = None) -> HostRetrieved:
        """Finds the best rows of the index for each query.

        Args:
          queries: texts and embeddings.
          top_k: rows for each query, at least 1.
          excluded: [batch, n] int rows that a query must not get; -1 marks unused places.

        Returns:
          [batch, top_k] results, best first, ties by the lower row; score -inf and row 0 if fewer rows were found.
        """
        ...


class IndexSearcher(HostSearcher, Protocol):
    """A searcher of one index. `valid` [rows] bool is False for deleted rows."""

    valid: np.ndarray


class SavedSearcher(IndexSearcher, Protocol):
    """A searcher of one index, which can be saved beside it."""

    def save(self, folder: pathlib.Path, digest: str) -> None:
        """Writes the searcher of the version `digest`, whole or not at all. Raises DiskFullError."""
        ...


def best(scores: np.ndarray, ids: np.ndarray, top_k: int) -> HostRetrieved:
    """Sorts candidates: highest score first, ties by the lower id; -inf and 0 past the last.

    Args:
      scores: [batch, n] float; -inf marks empty places.
      ids: [batch, n] int.
      top_k: columns of the result; may exceed n.
    """
    missing = max(top_k - scores.shape[1], 0)
    scores = np.pad(scores.astype(np.float32), ((0, 0), (0, missing)), constant_values=-np.inf)
    ids = np.pad(ids.astype(np.int32), ((0, 0), (0, missing)))
    order = np.lexsort((ids, -scores), axis=-1)[:, :top_k]  # the last key comes first: by score, then by id
    scores, ids = np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1)
    return HostRetrieved(scores=scores, passage_ids=np.where(scores > -np.inf, ids, 0).astype(np.int32))


def best_of_all(scores: np.ndarray, top_k: int) -> HostRetrieved:
    """Finds the best rows of one query, given a score of every row, [rows] float; ties by the lower row. Returns a batch of one."""
    # A partition is linear in the rows, a sort of all of them is not.
    top_k_or_all = min(top_k, len(scores))
    least = np.partition(scores, len(scores) - top_k_or_all)[len(scores) - top_k_or_all] if top_k_or_all else 0
    ids = np.flatnonzero(scores >= least)  # more than top_k if several tie for the last place
    return best(scores[None, ids], ids[None], top_k)


def nothing(top_k: int) -> HostRetrieved:
    """Returns the results of no queries, [0, top_k]."""
    return best(np.zeros((0, top_k)), np.zeros((0, top_k)), top_k)


def is_excluded(ids: np.ndarray, excluded: np.ndarray | None) -> np.ndarray:
    """Compares ids [batch, n] with their query's excluded [batch, m]; returns [batch, n] bool."""
    if excluded is None:
        return np.zeros(ids.shape, bool)
    # [batch, n, 1] against [batch, 1, m]
    return (ids[:, :, None] == np.asarray(excluded)[:, None, :]).any(axis=-1)


def fetch_until_enough(fetch: Callable[[int], tuple[np.ndarray, np.ndarray]], rows: int, valid: np.ndarray, top_k: int,
                       excluded: np.ndarray | None) -> HostRetrieved:
    """Searches with more and more results until top_k of them are neither deleted nor excluded, or there are no more rows.

    Args:
      fetch: gives the best n of all rows: (scores, ids), each [batch, n].
      rows: number of rows of the index.
      valid: [rows] bool, False for deleted ones.
      top_k: passages a query gets.
      excluded: [batch, m] int; -1 marks unused places.
    """
    wanted = np.minimum(top_k, _findable(valid, excluded))
    fetched = top_k + (0 if excluded is None else excluded.shape[1])
    while True:
        fetched = min(fetched, rows)
        scores, ids = fetch(fetched)
        found = valid[ids] & ~is_excluded(ids, excluded) & np.isfinite(scores)
        if fetched == rows or (found.sum(axis=1) >= wanted).all():
            return best(np.where(found, scores, -np.inf), ids, top_k)
        fetched *= _FETCH_FACTOR


def _findable(valid: np.ndarray, excluded: np.ndarray | None) -> np.ndarray:
    """Counts the rows that each query may get, [batch] int: valid and not excluded; one number [] if nothing is excluded."""
    rows = valid.sum()
    if excluded is None:
        return rows
    # An excluded row may be deleted anyway, or named twice; -1 names none.
    return np.array([rows - valid[np.unique(ids[ids >= 0])].sum() for ids in excluded], np.int64)


def write_saved(folder: pathlib.Path, description: dict[str, Any], write_files: Callable[[pathlib.Path], None]) -> None:
    """Replaces `folder` by one that `write_files` fills and `description` describes.

    A process killed in between leaves no folder, and the searcher is built again. Raises DiskFullError.
    """
    shutil.rmtree(folder, ignore_errors=True)
    # Another process saves the same searcher, or has done so meanwhile.
    with contextlib.suppress(errors.FolderExistsError), atomic.writing_folder(folder) as written:
        write_files(written)
        atomic.write_json(written / SAVED_FILE, {'version': _VERSION, **description})


def read_saved(folder: pathlib.Path, wanted: dict[str, Any], fields: dict[str, schema.Schema]) -> dict[str, Any] | None:
    """Reads the description of the searcher in `folder`; None if there is none, or one that differs from `wanted`.

    `fields` are those that it has besides the version and the digest.
    """
    try:
        untrusted.require_regular_file(folder / SAVED_FILE)
        description = untrusted.parse_json((folder / SAVED_FILE).read_bytes())
        schema.Record({'version': schema.Integer(), 'digest': schema.LINE, **fields}).check(description)
    except (OSError, ValueError):
        return None
    wanted = {'version': _VERSION, **wanted}
    return description if {name: description[name] for name in wanted} == wanted else None
