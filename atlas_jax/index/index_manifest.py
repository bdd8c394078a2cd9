"""The description of an index folder: its manifest and its list of deleted rows.

    manifest.json                      names everything below; written last, so that a folder is always the old version or the new one
    shards/000000000000-build000001/   embeddings of consecutive rows (shards.py); named by first row, verb and revision
    tombstones-000001.bits             deleted rows: one bit a row, the first row in the highest bit of the first byte
    store-r000004/                     the passages, if the index was compacted (building.py); otherwise the store is elsewhere
    building.json                      an unfinished build or add (building.py)
    lock                               held while a process writes (io/lock.py)

Nothing that the manifest names is changed in place. A new version has new names; files without a name are removed afterwards.
"""

import dataclasses
import hashlib
import itertools
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from atlas_jax import errors
from atlas_jax.index import embedded_by
from atlas_jax.io import manifest as io_manifest
from atlas_jax.io import schema, untrusted
from atlas_jax.io.folder import Folder

FILE = io_manifest.FILE
BUILDING_FILE = 'building.json'
LAST_REVISION = 10**9
_SHARD_1: dict[str, schema.Schema] = {
    'name': schema.Text(r'[A-Za-z0-9_-]{1,80}', 'the name of a shard'), 'first_row': schema.Integer(), 'rows': schema.Integer(1),
    'sha256': schema.SHA256,
}
_SHARD_2 = {**_SHARD_1, 'offset': schema.Integer(), 'generation': schema.Integer(), 'model_fingerprint': schema.LINE}
_COMMON: dict[str, schema.Schema] = {
    'dtype': schema.Text('float32|bfloat16|int8', 'float32, bfloat16 or int8'), 'dim': schema.Integer(1, 2**24), 'rows': schema.Integer(),
    'deleted': schema.Integer(), 'model_fingerprint': schema.LINE, 'store_fingerprint': schema.LINE,
    'tombstones': schema.Text(r'(tombstones-\d{6,}\.bits)?', 'the name of a list of deleted rows'),
    'tombstones_sha256': schema.Text('([0-9a-f]{64})?', 'a SHA-256 in hexadecimal, or nothing'),
}
_BODY_2 = {**_COMMON, 'shards': schema.Array(schema.Record(_SHARD_2)), 'revision': schema.Integer(1, LAST_REVISION), 'store': schema.PATH}
_FORMAT = schema.Text(r'[^\x00]{0,10000}', 'the text of a format')
# Records of models (embedded_by.py).
_MODEL: dict[str, schema.Schema] = {
    'weights': schema.LINE, 'dtype': schema.LINE, 'pooling': schema.LINE, 'normalize': schema.Boolean(), 'dim': schema.Integer(1, 2**24),
    'passage_format': _FORMAT, 'passage_tokens': _FORMAT, 'max_tokens': schema.Integer(2),
}
_VERSIONS = {
    # From before generations; indexes of the first format are read for ever.
    1: schema.Record({**_COMMON, 'shards': schema.Array(schema.Record(_SHARD_1)), 'generation': schema.Integer(1, LAST_REVISION),
                      'rows_fingerprint': schema.LINE}, optional=frozenset({'rows_fingerprint'})),
    2: schema.Record(_BODY_2),
    3: schema.Record({**_BODY_2, 'models': schema.Table(schema.LINE, schema.Record(_MODEL))}),
}
KIND = io_manifest.Kind('an index', 'atlas_jax index', _VERSIONS, 'atlas-jax index build', errors.IndexFolderError)
_STORE_1 = schema.Record({'store': schema.PATH})  # store.json of version 1


@dataclasses.dataclass(frozen=True)
class ShardEntry:
    """Consecutive rows of the index, and where they are.

    name               folder below shards/
    first_row, rows    the entry covers the index rows first_row to first_row + rows - 1
    offset             row of the folder that holds first_row; other rows of the folder may be unused
    generation         training step of the retriever that embedded the rows; 0 before any training
    model_fingerprint  fingerprint of that retriever
    sha256             of the folder's own file list; it tells the shard from one of another index
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

    revision           number of the version, from 1
    dtype, dim         of the stored embeddings
    rows               rows with embeddings, deleted ones included
    deleted            number of deleted rows
    model_fingerprint  of the model that built the index (embedded_by.py)
    store              path of the passages: relative to this folder, or gs://…
    store_fingerprint  of the passage store when its first `rows` rows had been embedded
    tombstones         file of deleted rows, '' if no row is deleted
    tombstones_sha256  of that file
    shards             in row order, without gaps
    models             what the embeddings depend on, by the fingerprint that shards name; {} in indexes from before
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
    models: Mapping[str, embedded_by.EmbeddedBy] = dataclasses.field(default_factory=dict)

    def with_model(self, record: embedded_by.EmbeddedBy) -> 'Manifest':
        """Returns the manifest with the record of another model, without those that no shard names."""
        models = {**self.models, record.fingerprint: record}
        named = {entry.model_fingerprint for entry in self.shards} | {self.model_fingerprint}
        return dataclasses.replace(self, models={name: each for name, each in models.items() if name in named})


def exists(folder: str | os.PathLike | Folder) -> bool:
    """Says whether the folder holds a finished index."""
    return io_manifest.exists(folder if isinstance(folder, Folder) else Folder(folder))


def write(folder: Folder, manifest: Manifest) -> None:
    """Commits `manifest`: from here on the folder is this version.

    Raises DiskFullError, StorageError; the folder then still is the version before.
    """
    # One file replaced atomically: readers see the old version or the new one.
    io_manifest.write(folder, KIND, dataclasses.asdict(manifest))


def read(folder: Folder) -> Manifest:
    """Reads the manifest of an index folder.

    Raises:
      IndexFolderError: the folder holds no index, an unfinished one or one of another format version, or the manifest is damaged.
    """
    body = io_manifest.read(folder, KIND, BUILDING_FILE)
    # A new commit writes the present version.
    if body.pop('version') == 1:
        body = _from_version_1(folder, body)
    manifest = Manifest(**{**body, 'shards': tuple(ShardEntry(**entry) for entry in body['shards']),
                           'models': embedded_by.from_json(body.get('models', {}))})
    # Rows are found by the shards' first rows: a gap would be read as zeros.
    first_rows = list(itertools.accumulate((entry.rows for entry in manifest.shards), initial=0))
    if [entry.first_row for entry in manifest.shards] + [manifest.rows] != first_rows:
        raise io_manifest.damaged(folder, KIND, 'its shards do not cover its rows')
    if manifest.deleted > manifest.rows or bool(manifest.deleted) != bool(manifest.tombstones):
        raise io_manifest.damaged(folder, KIND, f'{manifest.deleted} of {manifest.rows} rows deleted, by the list "{manifest.tombstones}"')
    return manifest


def read_if_whole(folder: Folder) -> Manifest | None:
    """Returns the manifest, or None if it is missing or damaged: a new build may then replace it."""
    try:
        return read(folder)
    except errors.IndexFolderError:
        return None


def link_to(folder: Folder, store: str | os.PathLike) -> str:
    """Returns the manifest's name for a store: relative to the index if both are on a disk, so that they may be moved together."""
    # A relative path keeps working when both folders are moved or mounted elsewhere.
    target = Folder(store)
    if folder.local is None or target.local is None:
        return str(target if target.local is None else target.local.absolute())
    return os.path.relpath(target.local.absolute(), folder.local.absolute())


def store_path(folder: Folder, manifest: Manifest) -> pathlib.Path | str:
    """Returns the path of the passages that the manifest names."""
    # In a bucket the store is named in full, unless it lies in the index folder after a compaction.
    if folder.local is None or manifest.store.startswith('gs://'):
        return manifest.store if manifest.store.startswith(('gs://', '/')) else f'{folder}/{manifest.store}'
    return (folder.local / manifest.store).resolve()


def write_tombstones(folder: Folder, deleted: np.ndarray, revision: int) -> tuple[str, str]:
    """Writes `deleted` [rows] bool to a new file. Returns its name and SHA-256; two empty strings if no row is deleted.

    Raises DiskFullError, StorageError.
    """
    if not deleted.any():
        return '', ''
    # A bit a row: 4 MB for 33 million passages, so that every deletion may write the whole list.
    name, content = f'tombstones-{revision:06d}.bits', np.packbits(deleted).tobytes()
    folder.write(name, content)
    return name, hashlib.sha256(content).hexdigest()


def read_tombstones(folder: Folder, manifest: Manifest) -> np.ndarray:
    """Reads the deleted rows of a version, [rows] bool.

    Raises:
      IndexFolderError: the file is missing or damaged.
    """
    name, rows = manifest.tombstones, manifest.rows
    if not name:
        return np.zeros(rows, bool)
    try:
        content = folder.read(name)
    except OSError as error:
        raise errors.IndexFolderError(f'{folder}/{name}: cannot read the list of deleted rows ({error.strerror}); '
                                      'restore it or build the index again') from error
    # Checked: a lost bit would bring back a passage that somebody wanted gone.
    if hashlib.sha256(content).hexdigest() != manifest.tombstones_sha256 or len(content) != -(-rows // 8):
        raise errors.IndexFolderError(f'{folder}/{name}: the list of deleted rows is damaged; restore it or build the index again')
    deleted = np.unpackbits(np.frombuffer(content, np.uint8), count=rows).astype(bool)
    if deleted.sum() != manifest.deleted:
        raise errors.IndexFolderError(f'{folder}/{name}: deletes {deleted.sum()} rows, the manifest says {manifest.deleted}; restore it or '
                                      'build the index again')
    return deleted


def _from_version_1(folder: Folder, body: dict[str, Any]) -> dict[str, Any]:
    """Translates version 1, which had no offsets, no generations, and a file of its own that named the store."""
    try:
        described = untrusted.parse_json(folder.read('store.json'))
        _STORE_1.check(described)
        store = described['store']
    except (OSError, ValueError):
        store = ''
    shards = [{**entry, 'offset': 0, 'generation': 0, 'model_fingerprint': body['model_fingerprint']} for entry in body['shards']]
    kept = {name: value for name, value in body.items() if name not in ('generation', 'rows_fingerprint')}
    return {**kept, 'revision': body['generation'], 'store': store, 'shards': shards}
