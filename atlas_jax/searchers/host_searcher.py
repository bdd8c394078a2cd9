"""The interface of searchers that run on the host, with sorting, filtering and saving for them.

Results follow the rules of the searchers in the graph: best first, ties by the lower row, score
-inf and row 0 in unused slots.

A saved searcher is a folder beside its index: the searcher's own files, and searcher.json, a
SavedFiles. It is replaced as a whole, and built again if it is stale or damaged.
"""

import contextlib
import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import jax
import numpy as np

from atlas_jax import errors, types
from atlas_jax.io import atomic, contents, schema, versioned_folder
from atlas_jax.io.folder import Folder
from atlas_jax.io.versioned_folder import Damage
from atlas_jax.runtime import hosts, notes

SAVED_FILE = 'searcher.json'
_VERSION = 2  # version of saved folders; version 1 had no checksums
S = TypeVar('S', bound='SavedFiles')
# While too few results are valid, this many times as many are fetched.
_FETCH_FACTOR = 4


@dataclasses.dataclass(frozen=True)
class HostQueries:
    """Queries for a host searcher.

    texts       [batch] questions as text
    embeddings  [batch, dim] float32; None if the searcher does not need them
    """

    texts: Sequence[str]
    embeddings: np.ndarray | None

    def __len__(self) -> int:
        return len(self.texts)


@dataclasses.dataclass(frozen=True)
class HostRetrieved:
    """Search results on the host: types.Retrieved in numpy arrays.

    scores       [batch, top_k] float32  -inf marks unused slots
    passage_ids  [batch, top_k] int32    index rows; 0 in unused slots
    """

    scores: np.ndarray
    passage_ids: np.ndarray

    def on_devices(self, sharding: jax.sharding.Sharding) -> types.Retrieved:
        """Puts the results on the devices, for a compiled step."""
        return types.Retrieved(scores=hosts.place(self.scores, sharding),
                               passage_ids=hosts.place(self.passage_ids, sharding))


class HostSearcher(Protocol):
    """Finds passages on the host.

    `needs_embeddings` is True if it reads the queries' embeddings.
    """

    needs_embeddings: bool

    def search(self, queries: HostQueries, top_k: int,
               excluded: np.ndarray | None = None) -> HostRetrieved:
        """Finds the best rows of the index for each query.

        Args:
          queries: texts and embeddings.
          top_k: rows for each query, at least 1.
          excluded: [batch, n] int rows that a query must not get; -1 marks unused slots.

        Returns:
          [batch, top_k] results, best first, ties by the lower row. Slots past the last result have
          score -inf and row 0.
        """
        ...


class IndexSearcher(HostSearcher, Protocol):
    """A searcher of one index. `valid` [rows] bool is False for deleted rows."""

    valid: np.ndarray


class SavedSearcher(IndexSearcher, Protocol):
    """A searcher of one index that can be saved beside it."""

    def save(self, folder: pathlib.Path, digest: str) -> None:
        """Writes the searcher of the version `digest`, whole or not at all.

        Raises DiskFullError.
        """
        ...


def best(scores: np.ndarray, ids: np.ndarray, top_k: int) -> HostRetrieved:
    """Sorts candidates: highest score first, ties by the lower id, -inf and 0 in unused slots.

    Args:
      scores: [batch, n] float; -inf marks empty slots.
      ids: [batch, n] int.
      top_k: columns of the result; may exceed n.
    """
    missing = max(top_k - scores.shape[1], 0)
    scores = np.pad(scores.astype(np.float32), ((0, 0), (0, missing)), constant_values=-np.inf)
    ids = np.pad(ids.astype(np.int32), ((0, 0), (0, missing)))
    # lexsort sorts by its last key first: by score, then by id.
    order = np.lexsort((ids, -scores), axis=-1)[:, :top_k]
    scores, ids = np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1)
    return HostRetrieved(scores=scores, passage_ids=np.where(scores > -np.inf, ids,
                                                             0).astype(np.int32))


def best_of_all(scores: np.ndarray, top_k: int) -> HostRetrieved:
    """Returns the best rows of one query, as a batch of one, from the scores of all rows [rows]
    float; ties by the lower row.
    """
    # A partition takes linear time; sorting all rows does not.
    top_k_or_all = min(top_k, len(scores))
    least = np.partition(scores,
                         len(scores) - top_k_or_all)[len(scores) -
                                                     top_k_or_all] if top_k_or_all else 0
    ids = np.flatnonzero(scores >= least)  # more than top_k if rows tie for the last place
    return best(scores[None, ids], ids[None], top_k)


def nothing(top_k: int) -> HostRetrieved:
    """Returns the empty results of zero queries, [0, top_k]."""
    return best(np.zeros((0, top_k)), np.zeros((0, top_k)), top_k)


def is_excluded(ids: np.ndarray, excluded: np.ndarray | None) -> np.ndarray:
    """Compares ids [batch, n] with their query's excluded [batch, m]; returns [batch, n] bool."""
    if excluded is None:
        return np.zeros(ids.shape, bool)
    # [batch, n, 1] against [batch, 1, m]
    return (ids[:, :, None] == np.asarray(excluded)[:, None, :]).any(axis=-1)


def fetch_until_enough(fetch: Callable[[int], tuple[np.ndarray, np.ndarray]], rows: int,
                       valid: np.ndarray, top_k: int, excluded: np.ndarray | None) -> HostRetrieved:
    """Fetches more and more results until top_k of them are neither deleted nor excluded, or all
    rows were fetched.

    Args:
      fetch: returns the best n of all rows: (scores, ids), each [batch, n].
      rows: number of rows of the index.
      valid: [rows] bool, False for deleted rows.
      top_k: passages for each query.
      excluded: [batch, m] int; -1 marks unused slots.
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
    """Counts the rows that each query may get, [batch] int: valid and not excluded. Returns one
    number [] if nothing is excluded.
    """
    rows = valid.sum()
    if excluded is None:
        return rows
    # An excluded row may also be deleted, or be named twice; -1 marks unused slots.
    return np.array([rows - valid[np.unique(ids[ids >= 0])].sum() for ids in excluded], np.int64)


@dataclasses.dataclass(frozen=True)
class SavedFiles:
    """The content of searcher.json, which describes a saved searcher. A searcher may add fields.

    digest  version of the index or store that the searcher was made from
    files   {file: (bytes, SHA-256)}
    """

    digest: str
    files: schema.Files


def saved_kind(manifest: type[S], noun: str) -> versioned_folder.FolderKind[S]:
    """Returns the kind of folder in which a searcher is saved; `manifest` describes its folder."""
    return versioned_folder.FolderKind[S](
        noun, manifest, errors.IndexFolderError, 'atlas-jax index search', version=_VERSION,
        file=SAVED_FILE, checksum='sha256', remedy='the next search builds the searcher again')


def write_saved(folder: pathlib.Path, kind: versioned_folder.FolderKind[S],
                write_files: Callable[[pathlib.Path], None], **description: Any) -> None:
    """Replaces `folder` by one that `write_files` fills and `description` describes.

    A process killed in between leaves no folder, and the searcher is built again. Raises
    DiskFullError.
    """
    shutil.rmtree(folder, ignore_errors=True)
    # Another process is saving the same searcher, or has saved it meanwhile.
    with contextlib.suppress(errors.FolderExistsError), atomic.writing_folder(folder) as written:
        write_files(written)
        files = versioned_folder.listed(Folder(written))
        kind.write(Folder(written), kind.manifest(files=files, **description))


def read_saved(folder: pathlib.Path, kind: versioned_folder.FolderKind[S],
               **wanted: Any) -> S | None:
    """Reads the description of the searcher in `folder`, and compares every file with it.

    Inside `contents.unchecked` only sizes are compared. Returns None if the searcher must be
    built: there is none, it was made from another version than `wanted`, or it is damaged; damage
    prints one line. Raises StorageError.
    """
    place = Folder(folder)
    try:
        found = kind.read_if_there(place)
        if found is None or any(getattr(found, name) != each for name, each in wanted.items()):
            return None
        # As with models, --no_verify compares sizes only.
        damage = next(versioned_folder.damaged_files(place, found.files,
                                                     contents=contents.is_checking()), None)
    except errors.IndexFolderError as error:
        damage = versioned_folder.as_damage(error)
    if damage is not None:
        notes.say(f'{damage}; the searcher is built again')
        return None
    return found


def saved_damage(folder: Folder, kind: versioned_folder.FolderKind[S]) -> list[Damage]:
    """Reads every file of a saved searcher and returns the damage. Raises StorageError."""
    try:
        content = kind.content(folder)
        if content is None:
            return [Damage(f'{folder}/{kind.file}', 'missing')]
        # Version 1 had no checksums; the next search builds the searcher again.
        if isinstance(content[0], dict) and content[0].get('version') == 1:
            return []
        files = kind.parse(folder, content[0]).files
    except errors.IndexFolderError as error:
        return [versioned_folder.as_damage(error)]
    return list(versioned_folder.damaged_files(folder, files, contents=True))
