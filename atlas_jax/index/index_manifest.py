"""The description of an index folder: its manifest and its list of deleted rows.

    manifest.json                      a Manifest; names everything below
    shards/000000000000-build000001/   embeddings of consecutive rows (shards.py); named by first
                                       row, verb and revision
    tombstones-000001.bits             deleted rows: one bit a row, the first row in the highest bit
                                       of the first byte
    store-r000004/                     the passages, if the index was compacted (building.py);
                                       otherwise the store is elsewhere
    building.json                      an unfinished build or add (building.py): a Job
    lock                               held while a process writes (io/lock.py)

Leftovers of a killed writer have the names of shards, tombstones and stores, and the manifest does
not name them; the next writer removes them. The shards of an unfinished build stay.
"""

import dataclasses
import hashlib
import itertools
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np

from atlas_jax import errors
from atlas_jax.index.embedded_by import EmbeddedBy
from atlas_jax.io import atomic, schema, untrusted, versioned_folder
from atlas_jax.io.folder import Folder

FILE = versioned_folder.FILE
BUILDING_FILE = 'building.json'
SHARDS = 'shards'  # the folder of them
DTYPES = ('float32', 'bfloat16', 'int8')
Revision = Annotated[int, schema.Integer(1, 10**9)]
Dim = Annotated[int, schema.Integer(1, 2**24)]
Dtype = Annotated[str, schema.one_of(DTYPES, 'float32, bfloat16 or int8')]
_SHARD = re.compile(r'\d{12,}-[a-z]+\d{6,}')  # `shard_name` gives such names
_TOMBSTONES = r'tombstones-\d{6,}\.bits'
_VERSIONED = re.compile(rf'{_TOMBSTONES}|store-r\d{{6,}}')
REMEDY = 'restore it or build the index again'


@dataclasses.dataclass(frozen=True)
class ShardEntry:
    """Consecutive rows of the index, and where they are.

    name               folder below shards/
    first_row, rows    the entry covers the index rows first_row to first_row + rows - 1
    offset             row of the folder that holds first_row; other rows of the folder may be
                       unused
    generation         training step of the retriever that embedded the rows; 0 before any training
    model_fingerprint  fingerprint of that retriever
    sha256             SHA-256 of the shard's own list of files; it differs in another index
    """

    name: Annotated[str, schema.Text(r'[A-Za-z0-9_-]{1,80}', 'the name of a shard')]
    first_row: int
    rows: schema.Positive
    offset: int
    generation: int
    model_fingerprint: str
    sha256: schema.Sha256


@dataclasses.dataclass(frozen=True)
class Manifest:
    """One version of an index.

    revision           number of the version, from 1
    dtype, dim         type and size of the stored embeddings
    rows               rows with embeddings, deleted ones included
    deleted            number of deleted rows
    model_fingerprint  fingerprint of the model that built the index (embedded_by.py)
    store              path of the passages: relative to this folder, or gs://…
    store_fingerprint  fingerprint of the passage store with its first `rows` rows
    tombstones         file of deleted rows, '' if no row is deleted
    tombstones_sha256  SHA-256 of that file
    shards             shards in row order, without gaps
    models             records of the models, by the fingerprint that shards name; {} in indexes
                       written before there were records
    """

    revision: Revision
    dtype: Dtype
    dim: Dim
    rows: int
    deleted: int
    model_fingerprint: str
    store: schema.Path
    store_fingerprint: str
    tombstones: Annotated[str, schema.Text(f'({_TOMBSTONES})?',
                                           'the name of a list of deleted rows')] = ''
    tombstones_sha256: Annotated[str, schema.Text('([0-9a-f]{64})?',
                                                  'a SHA-256 in hexadecimal, or nothing')] = ''
    shards: tuple[ShardEntry, ...] = ()
    models: Mapping[str, EmbeddedBy] = dataclasses.field(default_factory=dict)

    def with_model(self, record: EmbeddedBy) -> 'Manifest':
        """Returns the manifest with the record of another model, and only records of models that
        embedded a shard or built the index.
        """
        models = {**self.models, record.fingerprint: record}
        named = {entry.model_fingerprint for entry in self.shards} | {self.model_fingerprint}
        return dataclasses.replace(
            self, models={name: each for name, each in models.items() if name in named})


@dataclasses.dataclass(frozen=True)
class Job:
    """An unfinished embedding of the rows first_row to stop_row of a store by one model.

    `revision` is the version in which the job began; it names the new shards.
    """

    model_fingerprint: str
    store_fingerprint: str
    dtype: Dtype
    dim: Dim
    first_row: int
    stop_row: int
    shard_rows: schema.Positive
    chunk_rows: schema.Positive
    generation: int
    revision: Revision

    def shards(self) -> list[tuple[str, int, int]]:
        """(name, first row, number of rows) of each new shard."""
        firsts = range(self.first_row, self.stop_row, self.shard_rows)
        return [(shard_name(first, 'build', self.revision), first,
                 min(self.shard_rows, self.stop_row - first)) for first in firsts]


def shard_name(first_row: int, verb: str, revision: int) -> str:
    """Returns the folder of a shard that begins with `first_row`.

    The name holds the verb that wrote the shard, because an unfinished build of the same revision
    may lie beside it.
    """
    return f'{first_row:012d}{shard_suffix(verb, revision)}'


def shard_suffix(verb: str, revision: int) -> str:
    """Returns the end of the names of all shards that one writer writes."""
    return f'-{verb}{revision:06d}'


def is_shard(name: str) -> bool:
    """Returns whether our shards have such names."""
    return bool(_SHARD.fullmatch(name))


def unfinished_job(folder: Folder) -> Job | None:
    """Returns the job that an unfinished build has recorded; None if there is no record, or a cut
    or foreign one. Raises StorageError.
    """
    try:
        body = untrusted.parse_json(folder.read(BUILDING_FILE))
        schema.object_of(Job).check(body)
    except (OSError, ValueError):
        return None
    return schema.build(Job, body)


def leftovers(folder: Folder, current: Manifest) -> list[str]:
    """Returns the files and folders of ours, by their names below `folder`, that neither `current`
    nor an unfinished build needs.
    """
    job = unfinished_job(folder)
    # A build that was killed after its commit is finished: `current` names its shards.
    suffix = '' if job is None else shard_suffix('build', job.revision)
    if job is not None and any(entry.name.endswith(suffix) for entry in current.shards):
        job = None
    named = {entry.name for entry in current.shards}
    found = [
        f'{SHARDS}/{name}' for name in (folder / SHARDS).children() - named
        if is_shard(name) and not (job and name.endswith(suffix))]
    found += [
        name for name in folder.children() - {current.tombstones, current.store}
        if _VERSIONED.fullmatch(name) or versioned_folder.TEMPORARY.fullmatch(name)
        or name == BUILDING_FILE and job is None]
    return sorted(found)


def _contradiction(manifest: Manifest) -> str:
    # Rows are found by the shards' first rows: a gap would be read as zeros.
    first_rows = list(itertools.accumulate((entry.rows for entry in manifest.shards), initial=0))
    if [entry.first_row for entry in manifest.shards] + [manifest.rows] != first_rows:
        return 'its shards do not cover its rows'
    if manifest.deleted > manifest.rows or bool(manifest.deleted) != bool(manifest.tombstones):
        return (f'{manifest.deleted} of {manifest.rows} rows deleted, by the list '
                f'"{manifest.tombstones}"')
    return ''


def _from_version_1(folder: Folder, body: dict[str, Any]) -> dict[str, Any]:
    """Translates version 1: it had no offsets and no generations, and another file named the store.
    """
    try:
        described = untrusted.parse_json(folder.read('store.json'))
        schema.ObjectOf({'store': schema.PATH}).check(described)
        store = described['store']
    except (OSError, ValueError):
        store = ''
    shards = [
        {**entry, 'offset': 0, 'generation': 0, 'model_fingerprint': body['model_fingerprint']}
        for entry in body['shards']]
    kept = {
        name: value
        for name, value in body.items() if name not in ('generation', 'rows_fingerprint')}
    return {**kept, 'revision': body['generation'], 'store': store, 'shards': shards}


_VERSION_2 = schema.ObjectOf(schema.object_of(Manifest).without('models'))
# From before generations. Indexes of the first format are read for ever.
_VERSION_1 = schema.ObjectOf(
    {**_VERSION_2.without('revision', 'store'), 'generation': schema.of(Revision),
     'rows_fingerprint': schema.LINE, 'shards': schema.Array(schema.ObjectOf(
         schema.object_of(ShardEntry).without('offset', 'generation', 'model_fingerprint')))},
    optional=frozenset({'rows_fingerprint'}))
KIND = versioned_folder.FolderKind[Manifest](
    'an index', Manifest, errors.IndexFolderError, 'atlas-jax index build', 'atlas_jax index',
    version=3, older={1: (_VERSION_1, _from_version_1), 2: (_VERSION_2, lambda _, body: body)},
    unfinished=BUILDING_FILE, ours=f'{BUILDING_FILE}|{SHARDS}', leftovers=leftovers,
    contradiction=_contradiction)
read, read_if_whole, write = KIND.read, KIND.read_if_whole, KIND.write


def exists(folder: str | os.PathLike | Folder) -> bool:
    """Returns whether the folder holds a finished index."""
    return KIND.exists(Folder(folder))


def remove_leftovers(folder: Folder, current: Manifest) -> None:
    """Removes the `leftovers`; the caller holds the lock. An unfinished build stays.

    Raises OSError, StorageError.
    """
    KIND.remove_leftovers(folder, current)
    # Shards that stay may hold the temporary file of a list that was never finished. Nothing in a
    # bucket is temporary.
    for name in (folder / SHARDS).children():
        if (place := (folder / SHARDS / name).local) is not None:
            atomic.remove_abandoned(place)


def link_to(folder: Folder, store: str | os.PathLike) -> str:
    """Returns the manifest's name for a store.

    It is relative to the index if both are on a disk: the name stays valid when both folders are
    moved or mounted elsewhere.
    """
    target = Folder(store)
    if folder.local is None or target.local is None:
        return str(target if target.local is None else target.local.absolute())
    return os.path.relpath(target.local.absolute(), folder.local.absolute())


def store_path(folder: Folder, manifest: Manifest) -> pathlib.Path | str:
    """Returns the path of the passages that the manifest names."""
    # In a bucket the name is the full path, unless a compaction put the store into the index
    # folder.
    if folder.local is None or manifest.store.startswith('gs://'):
        return manifest.store if manifest.store.startswith(
            ('gs://', '/')) else f'{folder}/{manifest.store}'
    return (folder.local / manifest.store).resolve()


def write_tombstones(folder: Folder, deleted: np.ndarray, revision: int) -> tuple[str, str]:
    """Writes `deleted` [rows] bool to a new file and returns its name and SHA-256; two empty
    strings if no row is deleted.

    Raises DiskFullError, StorageError.
    """
    if not deleted.any():
        return '', ''
    # One bit per row: 4 MB for 33 million passages, so every deletion may write the whole list.
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
        raise errors.IndexFolderError(f'{folder}/{name}: cannot read the list of deleted rows '
                                      f'({error.strerror}); '
                                      f'{REMEDY}') from error
    # A lost bit would bring back a deleted passage.
    if hashlib.sha256(content).hexdigest() != manifest.tombstones_sha256 or len(
            content) != -(-rows // 8):
        raise errors.IndexFolderError(f'{folder}/{name}: the list of deleted rows is damaged; '
                                      'restore it or build the index again')
    deleted = np.unpackbits(np.frombuffer(content, np.uint8), count=rows).astype(bool)
    if deleted.sum() != manifest.deleted:
        raise errors.IndexFolderError(f'{folder}/{name}: deletes {deleted.sum()} rows, the '
                                      f'manifest says {manifest.deleted}; restore it or '
                                      'build the index again')
    return deleted
