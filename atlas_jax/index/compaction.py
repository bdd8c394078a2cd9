"""An index rewritten without its deleted rows, and with small shards joined: its passages move with it, for a row is a passage.

The new store lies inside the index folder, so that one commit changes both; the old store is left as it is, since other indexes may have
been made from it. A compaction that was killed leaves the old version, and the next writer removes its traces.
"""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np

from atlas_jax.index import building, manifest, shards, store_rows
from atlas_jax.index.rows import Rows
from atlas_jax.io.folder import Folder


def is_due(rows: Rows, deleted: np.ndarray) -> bool:
    """Whether compaction would change anything: rows are deleted, or shards can be joined."""
    return bool(deleted.any()) or len(list(_groups(rows.manifest, ~deleted))) < len(rows.shards)


def run(folder: Folder, rows: Rows, deleted: np.ndarray, store: store_rows.Store) -> manifest.Manifest:
    """Writes the new version and commits it; the caller holds the lock.

    Args:
      folder: the index folder.
      rows: the version to rewrite.
      deleted: [rows] bool; not all of them.
      store: its passages, of exactly these rows.

    Raises:
      IndexFolderError, StoreError: something is damaged. DiskFullError, StorageError: the old version stays.
    """
    before = rows.manifest
    revision = before.revision + 1
    current = dataclasses.replace(before, revision=revision, rows=int((~deleted).sum()), deleted=0, tombstones='', tombstones_sha256='')
    if deleted.any():
        name = f'store-r{revision:06d}'
        current = dataclasses.replace(current, store=name, store_fingerprint=store.copy_kept((folder / name).path, ~deleted).fingerprint)
    entries, first_row = [], 0
    for generation, model_fingerprint, kept in _groups(before, ~deleted):
        entries.append(_write_shard(folder, rows, kept, first_row, revision, generation, model_fingerprint))
        first_row += len(kept)
    current = dataclasses.replace(current, shards=tuple(entries))
    manifest.write(folder, current)
    building.clean(folder, current)
    return current


def _groups(current: manifest.Manifest, keep: np.ndarray) -> Iterator[tuple[int, str, np.ndarray]]:
    """(generation, model fingerprint, kept rows [n] int64) of each new shard."""
    for key, entries in itertools.groupby(current.shards, lambda entry: (entry.generation, entry.model_fingerprint)):
        entries = list(entries)
        first, stop = entries[0].first_row, entries[-1].first_row + entries[-1].rows
        kept = first + np.flatnonzero(keep[first:stop])
        for start in range(0, len(kept), building.SHARD_ROWS):
            yield *key, kept[start:start + building.SHARD_ROWS]


def _write_shard(folder: Folder, rows: Rows, kept: np.ndarray, first_row: int, revision: int, generation: int,
                 model_fingerprint: str) -> manifest.ShardEntry:
    """Copies the numbers as they are stored, so that no embedding changes."""
    current, name = rows.manifest, building.shard_name(first_row, 'compact', revision)
    layout = shards.Layout(rows=len(kept), dim=current.dim, dtype=current.dtype, chunk_rows=min(building.CHUNK_ROWS, len(kept)))
    (folder / shards.FOLDER).remove(name)
    writer = shards.ShardWriter(folder / shards.FOLDER, name, layout)
    while (start := writer.next_row) < len(kept):
        writer.write(*rows.take(kept[start:start + layout.chunk_rows]))
    return shards.entry_of(folder, name, first_row, len(kept), generation, model_fingerprint)
