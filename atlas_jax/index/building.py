"""Writes the shards of a new version of an index: by embedding rows of a store, or by copying what a compaction keeps.

A build embeds in several processes, each its share of the shards, and continues a build that was killed. `building.json` describes the
unfinished shards. A build of the same rows with the same model continues them; any other build removes them first.

A compaction drops the deleted rows and joins small shards. The passages move with it, because a row of the index is a row of the store.
The new store lies inside the index folder, so that one commit changes both. The old store stays: other indexes may have been made from it.
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
from atlas_jax.io import schema, untrusted
from atlas_jax.io.folder import Folder
from atlas_jax.runtime import hosts, progress

# Rows of a shard, the share that one process embeds at a time.
SHARD_ROWS = 65536
# Embedded and written at a time. A killed build loses at most one chunk of embeddings.
CHUNK_ROWS = 4096


class RowEmbedder(Protocol):
    """Gives the embeddings of a store's rows: index/embed.PassageEmbedder makes them, others have them already."""

    dim: int

    @property
    def record(self) -> EmbeddedBy: ...

    @property
    def fingerprint(self) -> str: ...

    def rows_of(self, store: PassageStore, first: int, stop: int) -> Callable[[np.ndarray, tqdm.tqdm | None], np.ndarray]:
        """Returns a function of rows [n], counted from `first`, and a bar to advance; it returns their embeddings [n, dim] float32."""


@dataclasses.dataclass(frozen=True)
class Job:
    """An embedding of rows first_row to stop_row of a store by one model.

    `revision` is the version in which the job began; it names the new shards.
    """

    model_fingerprint: str
    store_fingerprint: str
    dtype: str
    dim: int
    first_row: int
    stop_row: int
    shard_rows: int
    chunk_rows: int
    generation: int
    revision: int

    def shards(self) -> list[tuple[str, int, int]]:
        """(name, first row, number of rows) of each new shard."""
        firsts = range(self.first_row, self.stop_row, self.shard_rows)
        return [(shard_name(first, 'build', self.revision), first, min(self.shard_rows, self.stop_row - first)) for first in firsts]


_JOB = schema.Record({
    'model_fingerprint': schema.LINE, 'store_fingerprint': schema.LINE, 'dtype': schema.Text('|'.join(shards.DTYPES), 'a dtype'),
    'dim': schema.Integer(1, 2**24), 'first_row': schema.Integer(), 'stop_row': schema.Integer(), 'shard_rows': schema.Integer(1),
    'chunk_rows': schema.Integer(1), 'generation': schema.Integer(), 'revision': schema.Integer(1, index_manifest.LAST_REVISION)})


def unfinished_job(folder: Folder) -> Job | None:
    """Returns the job that an unfinished build has recorded; None if there is none, or a cut or foreign record. Raises StorageError."""
    try:
        body = untrusted.parse_json(folder.read(index_manifest.BUILDING_FILE))
        _JOB.check(body)
    except (OSError, ValueError):
        return None
    return Job(**body)


def make_job(store: PassageStore, embedder: RowEmbedder, first_row: int, dtype: str, revision: int, generation: int) -> Job:
    """Returns the job of embedding the store's rows from `first_row` on."""
    return Job(model_fingerprint=embedder.fingerprint, store_fingerprint=store.fingerprint, dtype=dtype, dim=embedder.dim,
               first_row=first_row, stop_row=len(store), shard_rows=SHARD_ROWS, chunk_rows=CHUNK_ROWS, generation=generation,
               revision=revision)


def shard_name(first_row: int, verb: str, revision: int) -> str:
    """Returns the folder of a shard that begins with `first_row`.

    The name holds the verb that wrote the shard, because an unfinished build of the same revision may lie beside it.
    """
    return f'{first_row:012d}{shard_suffix(verb, revision)}'


def shard_suffix(verb: str, revision: int) -> str:
    """Returns the end of the name of every shard that one writer writes."""
    return f'-{verb}{revision:06d}'


def embed_shards(folder: Folder, job: Job, store: PassageStore, embedder: RowEmbedder,
                 show_progress: bool) -> tuple[index_manifest.ShardEntry, ...]:
    """Embeds the job's rows shard by shard; the caller holds the lock and commits the entries afterwards.

    With N processes each embeds every N-th shard. All must see the same folder.

    Args:
      folder: the index folder.
      job: the rows. An unfinished job that differs in nothing but the revision is continued under that job's revision.
      store: the passages.
      embedder: the model.
      show_progress: whether to show a bar of process 0's share, with passages a second and the time left.

    Returns:
      The manifest's entries of all shards, of every process.

    Raises:
      IndexFolderError: an embedding is not finite.
      StoreError: the store has token ids that the model does not have.
      DiskFullError, StorageError: finished chunks stay, and the same call continues behind them.
    """
    with hosts.together():
        if hosts.is_first():  # the others wait: it may remove shards
            _continue_or_begin(folder, job)
    # The recorded job, not the one given: a continued build keeps its revision, and all processes must use the same shard names.
    job = types.required(unfinished_job(folder))
    # Every N-th, so that all processes end at about the same time.
    mine = job.shards()[jax.process_index()::jax.process_count()]
    # Only process 0 shows a bar, and it knows its own share only.
    label = 'Embedding passages' if jax.process_count() == 1 else f'Embedding passages, share 1 of {jax.process_count()}'
    bar = progress.bar(sum(rows for _, _, rows in mine), label, ' passages') if show_progress else None
    with hosts.together(), bar or contextlib.nullcontext():
        for name, first, rows in mine:
            _embed_shard(folder, name, first, rows, job, store, embedder, bar)
    return tuple(shards.entry_of(folder, name, first, rows, job.generation, job.model_fingerprint) for name, first, rows in job.shards())


def _embed_shard(folder: Folder, name: str, first: int, rows: int, job: Job, store: PassageStore, embedder: RowEmbedder,
                 bar: tqdm.tqdm | None) -> None:
    layout = shards.Layout(rows=rows, dim=job.dim, dtype=job.dtype, chunk_rows=min(job.chunk_rows, rows))
    writer = shards.ShardWriter(folder / shards.FOLDER, name, layout)
    if bar is not None:
        # A continued shard begins behind what it has.
        progress.skip(bar, writer.next_row)
    if writer.next_row == rows:
        return  # before the tokens are read
    embed = embedder.rows_of(store, first, first + rows)
    # Chunk by chunk: what is written survives a kill.
    while (start := writer.next_row) < rows:
        chunk = np.arange(start, min(start + layout.chunk_rows, rows))
        embeddings = embed(chunk, bar)
        # A NaN would win or lose every comparison, and int8 has no code for it.
        check_finite(embeddings, first + start, folder)
        writer.write(*shards.encode(embeddings, job.dtype))


def check_finite(embeddings: np.ndarray, first_row: int, folder: Folder) -> None:
    """Raises IndexFolderError if an embedding is not finite; `embeddings` [n, dim] belong to the rows from `first_row` on."""
    bad = ~np.isfinite(embeddings).all(axis=1)
    if bad.any():
        raise errors.IndexFolderError(f'{folder}: the embedding of passage {first_row + np.flatnonzero(bad)[0]} is not finite '
                                      f'({bad.sum()} of {len(bad)}); the retriever is damaged, so use an earlier checkpoint')


def needs_compaction(current: index_manifest.Manifest, deleted: np.ndarray) -> bool:
    """Says whether compaction would change anything: rows are deleted ([rows] bool), or shards can be joined."""
    return bool(deleted.any()) or len(list(_joined_shards(current, ~deleted))) < len(current.shards)


def compact(folder: Folder, stored: shards.StoredEmbeddings, deleted: np.ndarray, store: PassageStore) -> None:
    """Writes the version without deleted rows and commits it; the caller holds the lock.

    A compaction that is killed leaves the old version, and the next writer removes its traces.

    Args:
      folder: the index folder.
      stored: the version to rewrite.
      deleted: [rows] bool; not all True.
      store: its passages, of exactly these rows.

    Raises:
      IndexFolderError, StoreError: embeddings or passages are damaged.
      DiskFullError, StorageError: the old version stays.
    """
    before = stored.manifest
    # Names hold the revision, so that new files never replace old ones in place.
    revision = before.revision + 1
    # model_fingerprint stays: it is that of the model that built the index.
    current = dataclasses.replace(before, revision=revision, rows=int((~deleted).sum()), deleted=0, tombstones='', tombstones_sha256='')
    if deleted.any():
        name = f'store-r{revision:06d}'
        (folder / name).require_own()
        current = dataclasses.replace(current, store=name, store_fingerprint=store.copy_kept((folder / name).path, ~deleted).fingerprint)
    entries: list[index_manifest.ShardEntry] = []
    first_row = 0
    for generation, model_fingerprint, kept in _joined_shards(before, ~deleted):
        name = shard_name(first_row, 'compact', revision)
        _copy_shard(folder, name, stored, kept)
        entries.append(shards.entry_of(folder, name, first_row, len(kept), generation, model_fingerprint))
        first_row += len(kept)
    current = dataclasses.replace(current, shards=tuple(entries))
    # Everything the manifest names is on disk before it; nothing that the old one names is removed before the new one is there.
    index_manifest.write(folder, current)
    # First of all: while it is there, the next build would try to go on.
    folder.remove(index_manifest.BUILDING_FILE)


def _joined_shards(current: index_manifest.Manifest, keep: np.ndarray) -> Iterator[tuple[int, str, np.ndarray]]:
    """Yields (generation, model fingerprint, kept rows [n] int64) of each shard after a compaction; `keep` is [rows] bool.

    Neighbouring shards are joined only if one retriever embedded them at one step.
    """
    runs = itertools.groupby(current.shards, lambda entry: (entry.generation, entry.model_fingerprint))
    for (generation, model_fingerprint), run in runs:
        entries = list(run)
        first, stop = entries[0].first_row, entries[-1].first_row + entries[-1].rows
        kept = first + np.flatnonzero(keep[first:stop])
        # A shard is the unit that a process reads; larger ones would be read for a few rows.
        for start in range(0, len(kept), SHARD_ROWS):
            yield generation, model_fingerprint, kept[start:start + SHARD_ROWS]


def _copy_shard(folder: Folder, name: str, stored: shards.StoredEmbeddings, kept: np.ndarray) -> None:
    """Copies the numbers as they are stored, so that no embedding changes."""
    current = stored.manifest
    layout = shards.Layout(rows=len(kept), dim=current.dim, dtype=current.dtype, chunk_rows=min(CHUNK_ROWS, len(kept)))
    # A killed compaction may have left a shard of this name; it is written again, not continued.
    (folder / shards.FOLDER).remove(name)
    writer = shards.ShardWriter(folder / shards.FOLDER, name, layout)
    while (start := writer.next_row) < len(kept):
        writer.write(*stored.take(kept[start:start + layout.chunk_rows]))


def _continue_or_begin(folder: Folder, job: Job) -> None:
    """Leaves an unfinished build of the same job in the folder; otherwise records this job and removes the other's shards."""
    unfinished = unfinished_job(folder)
    if unfinished is not None and dataclasses.replace(unfinished, revision=job.revision) == job:
        return
    _remove_other_shards(folder, index_manifest.read_if_whole(folder))
    folder.write_json(index_manifest.BUILDING_FILE, dataclasses.asdict(job))


def _remove_other_shards(folder: Folder, current: index_manifest.Manifest | None) -> None:
    # What a committed version names stays; everything else is a trace of a build that ended early.
    named = {entry.name for entry in current.shards} if current else set()
    for name in (folder / shards.FOLDER).children() - named:
        (folder / shards.FOLDER).remove(name)
