"""Replaces rows of an index. Folders with such rows exist: their shards are used in part (ShardEntry.offset)."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from atlas_jax.index import building, index_manifest, shards
from atlas_jax.index.embedding_index import EmbeddingIndex
from atlas_jax.io.folder import Folder


def rewrite_rows(path, start: int, embeddings: np.ndarray, generation: int, model_fingerprint: str | None = None) -> EmbeddingIndex:
    """Replaces the embeddings of the rows from `start` on, [n, dim] float32, in one commit; returns the index that has them."""
    folder = Folder(path)
    before, stop = index_manifest.read(folder), start + len(embeddings)
    revision, entries = before.revision + 1, []
    for first in range(start, stop, building.SHARD_ROWS):
        name, part = index_manifest.shard_name(first, 'rewrite', revision), embeddings[first - start:first - start + building.SHARD_ROWS]
        layout = shards.ShardLayout(len(part), before.dim, before.dtype, min(building.CHUNK_ROWS, len(part)))
        writer = shards.ShardWriter(folder / index_manifest.SHARDS, name, layout)
        while (done := writer.next_row) < len(part):
            writer.write(*shards.encode(part[done:done + layout.chunk_rows], before.dtype))
        entries.append(shards.entry_of(folder, name, first, len(part), generation, model_fingerprint or before.model_fingerprint))
    kept = _outside(before.shards, start, stop)
    current = dataclasses.replace(before, revision=revision, shards=tuple(sorted([*kept, *entries], key=lambda entry: entry.first_row)))
    index_manifest.write(folder, current)
    index_manifest.remove_leftovers(folder, current)
    return EmbeddingIndex.open(path)


def _outside(entries: Sequence[index_manifest.ShardEntry], start: int, stop: int) -> Iterator[index_manifest.ShardEntry]:
    """Returns the entries without the rows start to stop."""
    for entry in entries:
        end = entry.first_row + entry.rows
        if entry.first_row < start:
            yield dataclasses.replace(entry, rows=min(end, start) - entry.first_row)
        if end > stop:
            first = max(entry.first_row, stop)
            yield dataclasses.replace(entry, first_row=first, rows=end - first, offset=entry.offset + first - entry.first_row)
