"""The manifest of an index folder: what the index is, written last, so that a folder is always the old version or the new one.

    manifest.json                      this file; names everything below
    shards/000000000000-g000001/       embeddings of consecutive rows (shards.py); named by first row and generation
    tombstones-000001.bits             deleted rows (tombstones.py)
    building.json                      an unfinished build or add (building.py)
    lock                               held while somebody writes (lock.py)

Nothing the manifest names is ever changed in place: a new version has new names, and what is no longer named is removed afterwards.
"""

import dataclasses
import hashlib
import itertools
import json
import pathlib
from typing import Any

from atlas_jax import errors
from atlas_jax.io import atomic

FILE = 'manifest.json'
FORMAT = 'atlas_jax index'
VERSION = 1


@dataclasses.dataclass(frozen=True)
class ShardEntry:
    """One shard.

    name        folder below shards/
    first_row   first index row in it
    rows        number of rows
    generation  generation of the index when its embedding began
    sha256      of the shard's own file list, so that a shard of another index is noticed
    """

    name: str
    first_row: int
    rows: int
    generation: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """One version of an index.

    generation         counts the versions of this folder, from 1
    dtype, dim         of the stored embeddings
    rows               rows with embeddings, deleted ones included
    deleted            how many of them are deleted
    model_fingerprint  of the passage encoder, its input format and length limit (embed.py)
    store_fingerprint  of the whole passage store when its first `rows` rows had been embedded
    rows_fingerprint   of those rows alone (store_rows.py), still true after the store has grown
    tombstones         file of deleted rows, '' where none is
    tombstones_sha256  of that file
    shards             in row order, without gaps
    """

    generation: int
    dtype: str
    dim: int
    rows: int
    deleted: int
    model_fingerprint: str
    store_fingerprint: str
    rows_fingerprint: str
    tombstones: str = ''
    tombstones_sha256: str = ''
    shards: tuple[ShardEntry, ...] = ()


def exists(folder: pathlib.Path) -> bool:
    """Whether the folder holds a finished index."""
    return (folder / FILE).is_file()


def write(folder: pathlib.Path, manifest: Manifest) -> None:
    """Commits `manifest`: from here on the folder is this version.

    Raises DiskFullError; the folder then still is the version before.
    """
    body = {'format': FORMAT, 'version': VERSION, **dataclasses.asdict(manifest)}
    atomic.write_json(folder / FILE, {**body, 'manifest_sha256': _digest(body)})


def read(folder: pathlib.Path) -> Manifest:
    """Reads the manifest of an index folder.

    Raises IndexFolderError: no index there, one not finished, of a newer format, or a damaged manifest.
    """
    try:
        body = json.loads((folder / FILE).read_text(encoding='utf-8'))
    except FileNotFoundError as error:
        raise errors.IndexFolderError(_why_missing(folder)) from error
    except (OSError, ValueError) as error:
        raise _damaged(folder, str(error)) from error
    if not isinstance(body, dict) or body.get('format') != FORMAT:
        raise errors.IndexFolderError(f'{folder / FILE}: not the manifest of an atlas_jax index; '
                                      'give the folder that `atlas-jax index build` wrote')
    if body.get('version') != VERSION:
        raise errors.IndexFolderError(f'{folder}: index format {body.get("version")}, this version of atlas_jax reads {VERSION}; '
                                      'install the version that wrote it, or build the index anew')
    if body.pop('manifest_sha256', None) != _digest(body):
        raise _damaged(folder, 'its checksum does not match')
    del body['format'], body['version']
    try:
        manifest = Manifest(**{**body, 'shards': tuple(ShardEntry(**entry) for entry in body['shards'])})
    except (TypeError, KeyError) as error:
        raise _damaged(folder, str(error)) from error
    first_rows = list(itertools.accumulate((entry.rows for entry in manifest.shards), initial=0))
    if [entry.first_row for entry in manifest.shards] + [manifest.rows] != first_rows:
        raise _damaged(folder, 'its shards do not cover its rows')
    return manifest


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _damaged(folder: pathlib.Path, why: str) -> errors.IndexFolderError:
    return errors.IndexFolderError(f'{folder / FILE}: damaged ({why}); build the index anew with `atlas-jax index build`')


def _why_missing(folder: pathlib.Path) -> str:
    if not folder.exists():
        return f'{folder}: no such folder; build an index there with `atlas-jax index build`'
    if (folder / 'building.json').exists():
        return f'{folder}: the build of this index was not finished; run the same `atlas-jax index build` again to go on where it stopped'
    return f'{folder}: not an index ({FILE} is missing); give the folder that `atlas-jax index build` wrote'
