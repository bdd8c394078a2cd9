"""Writes the shards of a new index version: by embedding rows of a store, or by compacting.

A build may run in several processes; each embeds its share of the shards. `building.json` describes
the unfinished shards. A build of the same rows with the same model continues them; any other build
removes them first.

A compaction drops the deleted rows and joins small shards. It copies the passages too, because a
row of the index is a row of the store. The new store lies inside the index folder, so that one
commit changes both. The old store stays, because other indexes may use it.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Protocol

import jax
import numpy as np
import tqdm

from atlas_jax import errors, types
from atlas_jax.corpus.store import PassageStore
from atlas_jax.index import index_manifest, shards
from atlas_jax.index.embedded_by import EmbeddedBy
from atlas_jax.index.index_manifest import Job
from atlas_jax.io.folder import Folder
from atlas_jax.runtime import hosts, progress

# Rows of a shard. One process embeds a shard at a time.
SHARD_ROWS = 65536
# Rows embedded and written at a time. A killed build loses at most one chunk of embeddings.
CHUNK_ROWS = 4096


class RowEmbedder(Protocol):
    """Gives the embeddings of a store's rows. index/embed.PassageEmbedder computes them; an import
    reads them from files.
    """

    dim: int

    @property
    def record(self) -> EmbeddedBy: ...

    @property
    def fingerprint(self) -> str: ...

    def rows_of(self, store: PassageStore, first: int,
                stop: int) -> Callable[[np.ndarray, tqdm.tqdm | None], np.ndarray]:
        """Returns a function that takes rows [n], counted from `first`, and a bar to advance. It
        returns their embeddings [n, dim] float32.
        """


def make_job(store: PassageStore, embedder: RowEmbedder, first_row: int, dtype: str, revision: int,
             generation: int) -> Job:
    """Returns the job of embedding the store's rows from `first_row` on."""
    return Job(model_fingerprint=embedder.fingerprint, store_fingerprint=store.fingerprint,
               dtype=dtype, dim=embedder.dim, first_row=first_row, stop_row=len(store),
               shard_rows=SHARD_ROWS, chunk_rows=CHUNK_ROWS, generation=generation,
               revision=revision)


def embed_shards(folder: Folder, job: Job, store: PassageStore, embedder: RowEmbedder,
                 show_progress: bool) -> tuple[index_manifest.ShardEntry, ...]:
    """Embeds the job's rows shard by shard. The caller holds the lock and commits the entries
    afterwards.

    Each of N processes embeds every N-th shard. All must see the same folder.

    Args:
      folder: the index folder.
      job: the rows. An unfinished job that differs only in the revision is continued under its own
        revision.
      store: the passages.
      embedder: the model.
      show_progress: shows a bar of process 0's share, with passages per second and the time left.

    Returns:
      The manifest's entries of the shards of all processes.

    Raises:
      IndexFolderError: an embedding is not finite.
      StoreError: the store has token ids that the model does not have.
      DiskFullError, StorageError: finished chunks stay, and the same call continues after them.
    """
    with hosts.together():
        if hosts.is_first():  # the others wait, because it may remove shards
            _continue_or_begin(folder, job)
    # The recorded job, not the one given: a continued build keeps its revision, and all processes
    # must use the same shard names.
    job = types.required(index_manifest.unfinished_job(folder))
    # Every N-th shard, so that all processes end at about the same time.
    mine = job.shards()[jax.process_index()::jax.process_count()]
    # Only process 0 shows a bar, and it knows its own share only.
    label = 'Embedding passages' if jax.process_count(
    ) == 1 else f'Embedding passages, share 1 of {jax.process_count()}'
    bar = progress.bar(sum(
        rows for _, _, rows in mine), label, ' passages') if show_progress else None
    with hosts.together(), bar or contextlib.nullcontext():
        for name, first, rows in mine:
            _embed_shard(folder, name, first, rows, job, store, embedder, bar)
    return tuple(
        shards.entry_of(folder, name, first, rows, job.generation, job.model_fingerprint)
        for name, first, rows in job.shards())


def _embed_shard(folder: Folder, name: str, first: int, rows: int, job: Job, store: PassageStore,
                 embedder: RowEmbedder, bar: tqdm.tqdm | None) -> None:
    layout = shards.ShardLayout(rows=rows, dim=job.dim, dtype=job.dtype,
                                chunk_rows=min(job.chunk_rows, rows))
    writer = shards.ShardWriter(folder / index_manifest.SHARDS, name, layout)
    if bar is not None:
        # A continued shard begins after its finished chunks.
        progress.skip(bar, writer.next_row)
    if writer.next_row == rows:
        return  # before the tokens are read
    embed = embedder.rows_of(store, first, first + rows)
    # Chunk by chunk: finished chunks survive a kill.
    while (start := writer.next_row) < rows:
        chunk = np.arange(start, min(start + layout.chunk_rows, rows))
        embeddings = embed(chunk, bar)
        # A NaN would win or lose every comparison, and int8 has no code for it.
        check_finite(embeddings, first + start, folder)
        writer.write(*shards.encode(embeddings, job.dtype))


def check_finite(embeddings: np.ndarray, first_row: int, folder: Folder) -> None:
    """Raises IndexFolderError if an embedding is not finite.

    `embeddings` [n, dim] belong to the rows from `first_row` on.
    """
    bad = ~np.isfinite(embeddings).all(axis=1)
    if bad.any():
        raise errors.IndexFolderError(f'{folder}: the embedding of passage '
                                      f'{first_row + np.flatnonzero(bad)[0]} is not finite '
                                      f'({bad.sum()} of {len(bad)}); the retriever is damaged, so '
                                      'use an earlier checkpoint')


def needs_compaction(current: index_manifest.Manifest, deleted: np.ndarray) -> bool:
    """Returns whether a compaction would change the index: rows are deleted ([rows] bool), or
    shards can be joined.
    """
    return bool(deleted.any()) or len(list(_joined_shards(current, ~deleted))) < len(current.shards)


def compact(folder: Folder, stored: shards.StoredEmbeddings, deleted: np.ndarray,
            store: PassageStore) -> None:
    """Writes a version without the deleted rows and commits it; the caller holds the lock.

    A killed compaction leaves the old version; the next writer removes the leftovers.

    Args:
      folder: the index folder.
      stored: the version to rewrite.
      deleted: [rows] bool; not all True.
      store: its passages, exactly these rows.

    Raises:
      IndexFolderError, StoreError: embeddings or passages are damaged.
      DiskFullError, StorageError: the old version stays.
    """
    before = stored.manifest
    # Names hold the revision, so that new files never replace old ones in place.
    revision = before.revision + 1
    # model_fingerprint stays, because it names the model that built the index.
    current = dataclasses.replace(before, revision=revision, rows=int((~deleted).sum()), deleted=0,
                                  tombstones='', tombstones_sha256='')
    if deleted.any():
        name = f'store-r{revision:06d}'
        (folder / name).require_own()
        current = dataclasses.replace(
            current, store=name, store_fingerprint=store.copy_kept((folder / name).path,
                                                                   ~deleted).fingerprint)
    entries: list[index_manifest.ShardEntry] = []
    first_row = 0
    for generation, model_fingerprint, kept in _joined_shards(before, ~deleted):
        name = index_manifest.shard_name(first_row, 'compact', revision)
        _copy_shard(folder, name, stored, kept)
        entries.append(
            shards.entry_of(folder, name, first_row, len(kept), generation, model_fingerprint))
        first_row += len(kept)
    current = dataclasses.replace(current, shards=tuple(entries))
    index_manifest.write(folder, current)
    # Removed first: while the record is there, the next build would try to continue.
    folder.remove(index_manifest.BUILDING_FILE)


def _joined_shards(current: index_manifest.Manifest,
                   keep: np.ndarray) -> Iterator[tuple[int, str, np.ndarray]]:
    """Yields (generation, model fingerprint, kept rows [n] int64) for each shard after a
    compaction; `keep` is [rows] bool.

    Joins neighbouring shards only if the same retriever embedded them at the same step.
    """
    runs = itertools.groupby(current.shards, lambda entry:
                             (entry.generation, entry.model_fingerprint))
    for (generation, model_fingerprint), run in runs:
        entries = list(run)
        first, stop = entries[0].first_row, entries[-1].first_row + entries[-1].rows
        kept = first + np.flatnonzero(keep[first:stop])
        # A process reads whole shards; larger ones would be read for a few rows.
        for start in range(0, len(kept), SHARD_ROWS):
            yield generation, model_fingerprint, kept[start:start + SHARD_ROWS]


def _copy_shard(folder: Folder, name: str, stored: shards.StoredEmbeddings,
                kept: np.ndarray) -> None:
    """Copies stored numbers, so that no embedding changes."""
    current = stored.manifest
    layout = shards.ShardLayout(rows=len(kept), dim=current.dim, dtype=current.dtype,
                                chunk_rows=min(CHUNK_ROWS, len(kept)))
    # A killed compaction may have left a shard with this name. It is written again, not continued.
    (folder / index_manifest.SHARDS).remove(name)
    writer = shards.ShardWriter(folder / index_manifest.SHARDS, name, layout)
    while (start := writer.next_row) < len(kept):
        writer.write(*stored.take(kept[start:start + layout.chunk_rows]))


def _continue_or_begin(folder: Folder, job: Job) -> None:
    """Keeps an unfinished build of the same job. Otherwise records this job and removes the shards
    of the other one.
    """
    unfinished = index_manifest.unfinished_job(folder)
    if unfinished is not None and dataclasses.replace(unfinished, revision=job.revision) == job:
        return
    _remove_other_shards(folder, index_manifest.read_if_whole(folder))
    folder.write_json(index_manifest.BUILDING_FILE, dataclasses.asdict(job))


def _remove_other_shards(folder: Folder, current: index_manifest.Manifest | None) -> None:
    # The shards of the committed version stay; all others are leftovers of unfinished builds.
    named = {entry.name for entry in current.shards} if current else set()
    for name in (folder / index_manifest.SHARDS).children() - named:
        (folder / index_manifest.SHARDS).remove(name)
