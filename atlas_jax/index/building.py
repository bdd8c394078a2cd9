"""Embeds rows of a store into new shards, and takes up where a killed build stopped.

`building.json` says what the unfinished shards are shards of. A build of the same rows with the same model goes on with them; any other
one removes them first.
"""

import contextlib
import dataclasses
import json
import pathlib
import shutil
from typing import Protocol

import numpy as np

from atlas_jax import errors, types
from atlas_jax.index import manifest, shards, store_rows
from atlas_jax.io import atomic, progress

SHARD_ROWS = 65536
CHUNK_ROWS = 4096  # embedded and written at a time: what a killed build loses at most
FILE = 'building.json'


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
    """What is being embedded: rows first_row to stop_row of a store by a model; `generation` names the new shards."""

    model_fingerprint: str
    store_fingerprint: str
    dtype: str
    dim: int
    first_row: int
    stop_row: int
    shard_rows: int
    chunk_rows: int
    generation: int


def make_job(store: store_rows.Store, embedder: Embedder, first_row: int, dtype: str, generation: int) -> Job:
    """The job of embedding the store's rows from `first_row` on."""
    return Job(model_fingerprint=embedder.fingerprint, store_fingerprint=store.fingerprint, dtype=dtype, dim=embedder.dim,
               first_row=first_row, stop_row=len(store), shard_rows=SHARD_ROWS, chunk_rows=CHUNK_ROWS, generation=generation)


def run(folder: pathlib.Path, job: Job, table: types.TokenTable, embedder: Embedder,
        show_progress: bool) -> tuple[manifest.ShardEntry, ...]:
    """Embeds the job's rows shard by shard; the caller holds the lock and commits the entries afterwards.

    Args:
      folder: the index folder.
      job: see Job; an unfinished job that differs in nothing but the generation is continued under that one's generation.
      table: token ids of the whole store, for the retriever.
      embedder: the model.
      show_progress: whether to show a bar.

    Raises:
      IndexFolderError: an embedding is not finite.
      DiskFullError: finished chunks stay and the same call goes on from there.
    """
    job = _continued(folder, job)
    entries = []
    bar = progress.bar(job.stop_row - job.first_row, 'Embedding passages', ' passages') if show_progress else None
    with bar or contextlib.nullcontext():
        for first in range(job.first_row, job.stop_row, job.shard_rows):
            rows = min(job.shard_rows, job.stop_row - first)
            name = f'{first:012d}-g{job.generation:06d}'
            layout = shards.Layout(rows=rows, dim=job.dim, dtype=job.dtype, chunk_rows=min(job.chunk_rows, rows))
            writer = shards.ShardWriter(folder / shards.FOLDER / name, layout)
            if bar is not None:
                bar.update(writer.next_row)
            while (start := writer.next_row) < rows:
                chunk = np.arange(first + start, first + min(start + layout.chunk_rows, rows))
                writer.write(_finite(embedder.embed(table, chunk, bar), chunk, folder).astype(job.dtype))
            entries.append(writer.finish(first, job.generation))
    return tuple(entries)


def clean(folder: pathlib.Path, current: manifest.Manifest) -> None:
    """Removes what `current`, just committed, does not name: older versions and the traces of the build."""
    (folder / FILE).unlink(missing_ok=True)
    _remove_other_shards(folder, current)
    remove_other_tombstones(folder, current)


def remove_other_tombstones(folder: pathlib.Path, current: manifest.Manifest) -> None:
    """Removes the lists of deleted rows of older versions."""
    for path in folder.glob('tombstones-*.bits'):
        if path.name != current.tombstones:
            path.unlink(missing_ok=True)


def _continued(folder: pathlib.Path, job: Job) -> Job:
    """The unfinished job in the folder if it is this one; otherwise records this one and removes the other's shards."""
    try:
        unfinished = Job(**json.loads((folder / FILE).read_text(encoding='utf-8')))
    except (OSError, ValueError, TypeError):
        unfinished = None
    if unfinished is not None and dataclasses.replace(unfinished, generation=job.generation) == job:
        return unfinished
    _remove_other_shards(folder, manifest.read(folder) if manifest.exists(folder) else None)
    atomic.write_json(folder / FILE, dataclasses.asdict(job))
    return job


def _remove_other_shards(folder: pathlib.Path, current: manifest.Manifest | None) -> None:
    named = {entry.name for entry in current.shards} if current else set()
    for path in (folder / shards.FOLDER).glob('*'):
        if path.name not in named:
            shutil.rmtree(path, ignore_errors=True)


def _finite(embeddings: np.ndarray, rows: np.ndarray, folder: pathlib.Path) -> np.ndarray:
    bad = ~np.isfinite(embeddings).all(axis=1)
    if bad.any():
        raise errors.IndexFolderError(f'{folder}: the embedding of passage {rows[bad][0]} is not finite ({bad.sum()} of {len(rows)}); '
                                      'the retriever is damaged: take an earlier checkpoint')
    return embeddings
