"""What is wrong with an index and its passages, as far as reading every byte can tell, and which rows it hits."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator

from atlas_jax import errors
from atlas_jax.index import building, manifest, shards, tombstones
from atlas_jax.io.folder import Folder

_DOCIDS = 3


@dataclasses.dataclass(frozen=True)
class Problem:
    """What verification found: the file or folder, what is wrong, the index rows [first_row, stop_row) it hits and their first docids."""

    path: str
    what: str
    first_row: int
    stop_row: int
    docids: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.first_row == self.stop_row:
            return f'{self.path}: {self.what} (no rows)'
        more = ', …' if self.stop_row - self.first_row > len(self.docids) else ''
        names = f': {", ".join(self.docids)}{more}' if self.docids else ''
        return f'{self.path}: {self.what} (rows {self.first_row} to {self.stop_row - 1}{names})'


def verify(path: str | os.PathLike) -> list[Problem]:
    """Reads every file of an index, which may be too damaged to be opened. Raises IndexFolderError: its manifest is missing or damaged."""
    folder = Folder(path)
    current = manifest.read(folder)
    found, there = [], (folder / shards.FOLDER).sizes()
    for entry in current.shards:
        found += _problems_of_shard(folder, entry, current)
    named = {entry.name for entry in current.shards}
    unfinished = folder.exists(manifest.BUILDING_FILE)
    for name in sorted({file.split('/')[0] for file in there} - named):
        if not unfinished:
            found.append(Problem(f'{folder / shards.FOLDER}/{name}', 'does not belong to this index', 0, 0))
    try:
        tombstones.read(folder, current.tombstones, current.tombstones_sha256, current.rows)
    except errors.IndexFolderError:
        found.append(Problem(f'{folder}/{current.tombstones}', 'the list of deleted rows is missing or damaged', 0, current.rows))
    return found


def mismatches(path: str | os.PathLike, store_fingerprint: Callable[[int], str], embedder: building.Embedder | None) -> list[Problem]:
    """The rows that were made from other passages than the store's, or by another model than `embedder`.

    `store_fingerprint` gives the store's fingerprint of its first rows. Raises IndexFolderError as `verify`.
    """
    folder = Folder(path)
    current = manifest.read(folder)
    found = []
    if store_fingerprint(current.rows) != current.store_fingerprint:
        found.append(Problem(str(folder), 'made from other passages than those of this store', 0, current.rows))
    if embedder is not None:
        for entry in current.shards:
            if entry.model_fingerprint != embedder.fingerprint:
                what = f'embedded by another model (index {entry.model_fingerprint}, this model {embedder.fingerprint})'
                found.append(Problem(f'{folder / shards.FOLDER}/{entry.name}', what, entry.first_row, entry.first_row + entry.rows))
    return found


def with_docids(problem: Problem, docid: Callable[[int], str]) -> Problem:
    """The problem with the docids of its first rows, as far as the store can still give them."""
    names = []
    with contextlib.suppress(errors.UserError, IndexError):
        for row in range(problem.first_row, min(problem.stop_row, problem.first_row + _DOCIDS)):
            names.append(docid(row))
    return dataclasses.replace(problem, docids=tuple(names))


def _problems_of_shard(folder: Folder, entry: manifest.ShardEntry, current: manifest.Manifest) -> Iterator[Problem]:
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
        if name not in there:
            yield Problem(f'{place}/{name}', 'missing', first, stop)
        elif there[name] not in (size, None):
            yield Problem(f'{place}/{name}', f'{there[name]} bytes long instead of {size}', first, stop)
        elif place.sha256(name) != sha256:
            yield Problem(f'{place}/{name}', 'contents differ from those written', first, stop)
    for name in sorted(there.keys() - shard.files.keys() - {shards.FILES}):
        yield Problem(f'{place}/{name}', 'does not belong to this shard', *rows)
