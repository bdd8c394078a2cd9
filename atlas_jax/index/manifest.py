"""The manifest of an index folder: what the index is, written last, so that a folder is always the old version or the new one.

    manifest.json                      this file; names everything below
    shards/000000000000-build000001/   embeddings of consecutive rows (shards.py); named by first row, verb and revision
    tombstones-000001.bits             deleted rows (tombstones.py)
    store-r000004/                     the passages, where the index was compacted (compaction.py); else the store is elsewhere
    building.json                      an unfinished build or add (building.py)
    lock                               held while somebody writes (io/lock.py)

Nothing the manifest names is ever changed in place: a new version has new names, and what is no longer named is removed afterwards.
"""

import dataclasses
import itertools
import json
import os
import pathlib
from typing import Any

from atlas_jax import errors
from atlas_jax.io import manifest as io_manifest
from atlas_jax.io.folder import Folder

BUILDING_FILE = 'building.json'
KIND = io_manifest.Kind('an index', 'atlas_jax index', (1, 2), 'atlas-jax index build', errors.IndexFolderError)


@dataclasses.dataclass(frozen=True)
class ShardEntry:
    """Consecutive rows of the index, and where they are.

    name               folder below shards/
    first_row, rows    the index rows first_row to first_row + rows - 1 …
    offset             … are the folder's rows from `offset` on; others of them may have been rewritten elsewhere
    generation         step of the retriever that embedded them; 0 before any training
    model_fingerprint  of that retriever
    sha256             of the folder's own file list, so that a shard of another index is noticed
    """

    name: str
    first_row: int
    rows: int
    offset: int
    generation: int
    model_fingerprint: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """One version of an index.

    revision           counts the versions of this folder, from 1
    dtype, dim         of the stored embeddings
    rows               rows with embeddings, deleted ones included
    deleted            how many of them are deleted
    model_fingerprint  of the passage encoder, its input format and length limit (embed.py), when the index was built
    store              where the passages are: relative to this folder, or gs://…
    store_fingerprint  of the passage store when its first `rows` rows had been embedded
    tombstones         file of deleted rows, '' where none is
    tombstones_sha256  of that file
    shards             in row order, without gaps
    """

    revision: int
    dtype: str
    dim: int
    rows: int
    deleted: int
    model_fingerprint: str
    store: str
    store_fingerprint: str
    tombstones: str = ''
    tombstones_sha256: str = ''
    shards: tuple[ShardEntry, ...] = ()


def exists(folder: str | os.PathLike | Folder) -> bool:
    """Whether the folder holds a finished index."""
    return io_manifest.exists(folder if isinstance(folder, Folder) else Folder(folder))


def write(folder: Folder, manifest: Manifest) -> None:
    """Commits `manifest`: from here on the folder is this version.

    Raises DiskFullError, StorageError; the folder then still is the version before.
    """
    io_manifest.write(folder, KIND, dataclasses.asdict(manifest))


def read(folder: Folder) -> Manifest:
    """Reads the manifest of an index folder.

    Raises IndexFolderError: no index there, one not finished, of another format version, or a damaged manifest.
    """
    body = io_manifest.read(folder, KIND, BUILDING_FILE)
    try:
        if body.pop('version') == 1:
            body = _from_version_1(folder, body)
        manifest = Manifest(**{**body, 'shards': tuple(ShardEntry(**entry) for entry in body['shards'])})
    except (TypeError, KeyError) as error:
        raise io_manifest.damaged(folder, KIND, str(error)) from error
    first_rows = list(itertools.accumulate((entry.rows for entry in manifest.shards), initial=0))
    if [entry.first_row for entry in manifest.shards] + [manifest.rows] != first_rows:
        raise io_manifest.damaged(folder, KIND, 'its shards do not cover its rows')
    return manifest


def read_whole(folder: Folder) -> Manifest | None:
    """The manifest, or None where there is none or a damaged one, which a new build may replace."""
    try:
        return read(folder)
    except errors.IndexFolderError:
        return None


def link_to(folder: Folder, store: str | os.PathLike) -> str:
    """How the manifest names a store: relative to the index where both are on a disk, so that they may be moved together."""
    target = Folder(store)
    if folder.local is None or target.local is None:
        return str(target if target.local is None else target.local.absolute())
    return os.path.relpath(target.local.absolute(), folder.local.absolute())


def store_path(folder: Folder, manifest: Manifest) -> pathlib.Path | str:
    """Where the manifest says the passages are."""
    if folder.local is None or manifest.store.startswith('gs://'):
        return manifest.store if manifest.store.startswith(('gs://', '/')) else f'{folder}/{manifest.store}'
    return (folder.local / manifest.store).resolve()


def _from_version_1(folder: Folder, body: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had no offsets, no generations, and a file of its own that named the store."""
    try:
        store = json.loads(folder.read('store.json'))['store']
    except (OSError, ValueError, KeyError):
        store = ''
    shards = [{**entry, 'offset': 0, 'generation': 0, 'model_fingerprint': body['model_fingerprint']} for entry in body['shards']]
    kept = {name: value for name, value in body.items() if name not in ('generation', 'rows_fingerprint')}
    return {**kept, 'revision': body['generation'], 'store': store, 'shards': shards}
