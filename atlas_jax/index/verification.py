"""Finds damage in an index by reading every byte, and the rows that it hits."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator

import numpy as np

from atlas_jax import errors
from atlas_jax.corpus.store import PassageStore
from atlas_jax.index import embedded_by, index_manifest, shards, traces
from atlas_jax.index.embed import PassageEmbedder
from atlas_jax.io.folder import Folder

_DOCIDS = 3  # named in a message; the first few tell a user which documents to look at


@dataclasses.dataclass(frozen=True)
class Problem:
    """One finding.

    path                 the file or folder
    what                 the damage, in a few words
    first_row, stop_row  the index rows first_row to stop_row - 1 are hit; none if the two are equal
    docids               of the first rows
    is_damage            False where the files are whole and another model embedded the rows
    """

    path: str
    what: str
    first_row: int
    stop_row: int
    docids: tuple[str, ...] = ()
    is_damage: bool = True

    def __str__(self) -> str:
        if self.first_row == self.stop_row:
            return f'{self.path}: {self.what} (no rows)'
        more = ', …' if self.stop_row - self.first_row > len(self.docids) else ''
        names = f': {", ".join(self.docids)}{more}' if self.docids else ''
        return f'{self.path}: {self.what} (rows {self.first_row} to {self.stop_row - 1}{names})'


def verify(path: str | os.PathLike) -> list[Problem]:
    """Reads every file of an index, which may be too damaged to be opened, and returns the damage.

    Raises:
      IndexFolderError: its manifest is missing or damaged.
    """
    folder = Folder(path)
    current = index_manifest.read(folder)
    found: list[Problem] = []
    there = (folder / shards.FOLDER).sizes()
    for entry in current.shards:
        found += _problems_of_shard(folder, entry, current)
    named = {entry.name for entry in current.shards}
    # Shards of ours that are not named are traces of a killed writer, or of a build that the next one continues.
    for name in sorted({file.split('/')[0] for file in there} - named):
        if not traces.is_shard(name):
            found.append(Problem(f'{folder / shards.FOLDER}/{name}', 'does not belong to this index', 0, 0))
    try:
        index_manifest.read_tombstones(folder, current)
    except errors.IndexFolderError:
        found.append(Problem(f'{folder}/{current.tombstones}', 'the list of deleted rows is missing or damaged', 0, current.rows))
    return found


def differences(current: index_manifest.Manifest, embedder: PassageEmbedder, store: PassageStore, limits: bool = True) -> dict[str, str]:
    """Returns how shards were embedded otherwise than `embedder` would, by the shard's name; none where the embeddings are the same.

    Without `limits` it does not count that passages were cut elsewhere.
    """
    lengths: list[np.ndarray] = []

    def longest(entry: index_manifest.ShardEntry) -> int:
        # Read once, and only where limits differ.
        if not lengths:
            lengths.append(embedder.whole_lengths(store.retriever_title_lengths, store.retriever_lengths))
        return int(lengths[0][entry.first_row:entry.first_row + entry.rows].max(initial=0))

    found = {entry.name: embedded_by.mismatch(entry.model_fingerprint, current.models, embedder, functools.partial(longest, entry), limits)
             for entry in current.shards}
    return {name: difference for name, difference in found.items() if difference is not None}


def mismatches(path: str | os.PathLike, store: PassageStore, embedder: PassageEmbedder | None) -> list[Problem]:
    """Returns the rows that were made from other passages than the store's, or by another model than `embedder`.

    Args:
      path: the index folder.
      store: the passages.
      embedder: the model to compare with; None compares none.

    Raises:
      IndexFolderError: the manifest is missing or damaged.
    """
    folder = Folder(path)
    current = index_manifest.read(folder)
    found = []
    if store.fingerprint_of(current.rows) != current.store_fingerprint:
        found.append(Problem(str(folder), 'made from other passages than those of this store', 0, current.rows))
    if embedder is not None:
        different = differences(current, embedder, store)
        for entry in current.shards:
            if entry.name in different:
                what = f'embedded by another model, which differs in {different[entry.name]}'
                found.append(Problem(f'{folder / shards.FOLDER}/{entry.name}', what, entry.first_row, entry.first_row + entry.rows,
                                     is_damage=False))
    return found


def with_docids(problem: Problem, docid: Callable[[int], str]) -> Problem:
    """Returns the problem with the docids of its first rows, as far as the store can still give them."""
    names: list[str] = []
    # The store may be damaged too: what is found until then is given.
    with contextlib.suppress(errors.UserError, IndexError):
        for row in range(problem.first_row, min(problem.stop_row, problem.first_row + _DOCIDS)):
            names.append(docid(row))
    return dataclasses.replace(problem, docids=tuple(names))


def _problems_of_shard(folder: Folder, entry: index_manifest.ShardEntry, current: index_manifest.Manifest) -> Iterator[Problem]:
    rows = entry.first_row, entry.first_row + entry.rows
    place = folder / shards.FOLDER / entry.name
    try:
        shard = shards.Shard(folder, entry)
    except errors.IndexFolderError:
        what = 'not the shard that this index was built with' if place.exists(shards.FILES) else 'missing'
        yield Problem(f'{place}/{shards.FILES}', what, *rows)
        return
    if (shard.layout.dim, shard.layout.dtype) != (current.dim, current.dtype):
        yield Problem(str(place), 'of another shape or type than this index', *rows)
    there = place.sizes()
    for name, first, stop in shard.used_files():
        size, sha256 = shard.files[name]
        # In a bucket sizes are unknown (None), and the sum alone decides.
        if name not in there:
            yield Problem(f'{place}/{name}', 'missing', first, stop)
        elif there[name] not in (size, None):
            yield Problem(f'{place}/{name}', f'{there[name]} bytes long instead of {size}', first, stop)
        elif what := place.differs(name, sha256):
            yield Problem(f'{place}/{name}', what, first, stop)
    for name in sorted(there.keys() - shard.files.keys() - {shards.FILES}):
        yield Problem(f'{place}/{name}', 'does not belong to this shard', *rows)
