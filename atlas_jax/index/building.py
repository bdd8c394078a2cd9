"""Embeds rows of a store into new shards, each process its share of them, and takes up where a killed build stopped.

`building.json` says what the unfinished shards are shards of. A build of the same rows with the same model goes on with them; any other
one removes them first.
"""

import contextlib
import dataclasses
import json
from typing import Protocol

import jax
import numpy as np
import tqdm

from atlas_jax import errors, types
from atlas_jax.index import manifest, quantize, shards, store_rows
from atlas_jax.io.folder import Folder
from atlas_jax.runtime import hosts, progress

SHARD_ROWS = 65536
CHUNK_ROWS = 4096  # embedded and written at a time: what a killed build loses at most


class Embedder(Protocol):
    """What embeds the passages; embed.PassageEmbedder is one."""

    dim: int
    fingerprint: str
    max_tokens: int

    def embed(self, table: types.TokenTable, rows: np.ndarray, progress=None) -> np.ndarray:
        """[n, dim] float32 embeddings of the table's `rows`, [n] int."""
        ...


@dataclasses.dataclass(frozen=True)
class Job:
    """What is being embedded: rows first_row to stop_row of a store by a model; `revision`, in which it began, names the new shards."""

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


def make_job(store: store_rows.Store, embedder: Embedder, first_row: int, dtype: str, revision: int, generation: int) -> Job:
    """The job of embedding the store's rows from `first_row` on."""
    return Job(model_fingerprint=embedder.fingerprint, store_fingerprint=store.fingerprint, dtype=dtype, dim=embedder.dim,
               first_row=first_row, stop_row=len(store), shard_rows=SHARD_ROWS, chunk_rows=CHUNK_ROWS, generation=generation,
               revision=revision)


def shard_name(first_row: int, verb: str, revision: int) -> str:
    """Folder of a shard that begins with `first_row`; what wrote it is in the name, because a build may lie unfinished meanwhile."""
    return f'{first_row:012d}-{verb}{revision:06d}'


def run(folder: Folder, job: Job, store: store_rows.Store, embedder: Embedder, show_progress: bool) -> tuple[manifest.ShardEntry, ...]:
    """Embeds the job's rows shard by shard; the caller holds the lock and commits the entries afterwards.

    With several processes each embeds every so manyth shard; all must see the same folder.

    Args:
      folder: the index folder.
      job: see Job; an unfinished job that differs in nothing but the revision is continued under that one's revision.
      store: the passages.
      embedder: the model.
      show_progress: whether to show a bar: of process 0's share, with passages a second and the time left.

    Returns:
      The manifest's entries of all shards, whoever embedded them.

    Raises:
      IndexFolderError: an embedding is not finite.
      DiskFullError: finished chunks stay and the same call goes on from there.
    """
    with hosts.together():
        if hosts.is_first():
            _continue_or_begin(folder, job)
    job = Job(**json.loads(folder.read(manifest.BUILDING_FILE)))
    mine = job.shards()[jax.process_index()::jax.process_count()]
    label = 'Embedding passages' if jax.process_count() == 1 else f'Embedding passages, share 1 of {jax.process_count()}'
    bar = progress.bar(sum(rows for _, _, rows in mine), label, ' passages') if show_progress else None
    with hosts.together(), bar or contextlib.nullcontext():
        for name, first, rows in mine:
            _embed_shard(folder, name, first, rows, job, store, embedder, bar)
    return tuple(shards.entry_of(folder, name, first, rows, job.generation, job.model_fingerprint) for name, first, rows in job.shards())


def _embed_shard(folder: Folder, name: str, first: int, rows: int, job: Job, store: store_rows.Store, embedder: Embedder,
                 bar: tqdm.tqdm | None) -> None:
    layout = shards.Layout(rows=rows, dim=job.dim, dtype=job.dtype, chunk_rows=min(job.chunk_rows, rows))
    writer = shards.ShardWriter(folder / shards.FOLDER, name, layout)
    if bar is not None:
        progress.skip(bar, writer.next_row)
    if writer.next_row == rows:
        return
    table = store.retriever_table(max_tokens=embedder.max_tokens, rows=(first, first + rows))
    while (start := writer.next_row) < rows:
        chunk = np.arange(start, min(start + layout.chunk_rows, rows))
        embeddings = embedder.embed(table, chunk, bar)
        check_finite(embeddings, first + start, folder)
        writer.write(*quantize.encode(embeddings, job.dtype))


def check_finite(embeddings: np.ndarray, first_row: int, folder: Folder) -> None:
    """Raises IndexFolderError where an embedding, [n, dim] of the rows from `first_row` on, is not finite."""
    bad = ~np.isfinite(embeddings).all(axis=1)
    if bad.any():
        raise errors.IndexFolderError(f'{folder}: the embedding of passage {first_row + np.flatnonzero(bad)[0]} is not finite '
                                      f'({bad.sum()} of {len(bad)}); the retriever is damaged: take an earlier checkpoint')


def clean(folder: Folder, current: manifest.Manifest) -> None:
    """Removes what `current`, just committed, does not name: older versions and the traces of the build."""
    folder.remove(manifest.BUILDING_FILE)
    _remove_other_shards(folder, current)
    remove_replaced(folder, current, current)


def remove_replaced(folder: Folder, before: manifest.Manifest, current: manifest.Manifest) -> None:
    """Removes what `before` named and `current` does not, and other lists of deleted rows and stores; an unfinished build stays."""
    for name in {entry.name for entry in before.shards} - {entry.name for entry in current.shards}:
        (folder / shards.FOLDER).remove(name)
    for name in folder.children():
        if name.startswith(('tombstones-', 'store-r')) and name not in (current.tombstones, current.store):
            folder.remove(name)


def _continue_or_begin(folder: Folder, job: Job) -> None:
    """Leaves the unfinished job in the folder if it is this one; otherwise records this one and removes the other's shards."""
    try:
        unfinished = Job(**json.loads(folder.read(manifest.BUILDING_FILE)))
    except (OSError, ValueError, TypeError):
        unfinished = None
    if unfinished is not None and dataclasses.replace(unfinished, revision=job.revision) == job:
        return
    _remove_other_shards(folder, manifest.read_whole(folder))
    folder.write_json(manifest.BUILDING_FILE, dataclasses.asdict(job))


def _remove_other_shards(folder: Folder, current: manifest.Manifest | None) -> None:
    named = {entry.name for entry in current.shards} if current else set()
    for name in (folder / shards.FOLDER).children() - named:
        (folder / shards.FOLDER).remove(name)
