"""Reads single rows of an index from its files, many at a time and in parallel: what a search scores again is spread over all of them.

A chunk's file holds its rows one after another, with one checksum behind them. TensorStore reads whole chunks, 12 MiB for a row of 3 KiB.
Here the rows alone are read, so the checksum is not looked at; `atlas-jax index verify` does that.
"""

import concurrent.futures
import os
import pathlib

import numpy as np

from atlas_jax import errors
from atlas_jax.index import shards

# A disk answers many reads in the time of one; a read that finds its page in memory takes microseconds.
_THREADS = 32
_PIECES = 256  # chunks of files that a task reads from, at most a thirty-second of all


class RowReader:
    """Rows of one version of an index. Those of a bucket are read from a copy in the cache, which is made chunk by chunk."""

    def __init__(self, stored: shards.StoredEmbeddings):
        """Names the files; nothing is read."""
        self._stored = stored
        self._first_rows = np.array([shard.entry.first_row for shard in stored.shards], np.int64)
        self._pool = concurrent.futures.ThreadPoolExecutor(_THREADS, thread_name_prefix='rows')

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Reads rows [n] int64 of the index, in rising order: embeddings [n, dim] float32.

        Raises IndexFolderError: a file is missing or cut. StorageError: of a bucket.
        """
        dtype, dim = self._stored.dtype, self._stored.manifest.dim
        numbers = np.empty((len(rows), dim), dtype)
        scales = np.empty(len(rows), np.float32) if self._stored.manifest.dtype == 'int8' else None
        owners = np.searchsorted(self._first_rows, rows, side='right') - 1
        places = rows - np.array([shard.entry.first_row - shard.entry.offset for shard in self._stored.shards], np.int64)[owners]
        chunks = places // np.array([shard.layout.chunk_rows for shard in self._stored.shards], np.int64)[owners]
        # Rows of one file are read together; it is opened once.
        starts = np.flatnonzero(np.r_[True, (np.diff(owners) != 0) | (np.diff(chunks) != 0)]) if len(rows) else np.zeros(0, np.int64)
        stops = np.r_[starts[1:], len(rows)]

        def read(tasks: range) -> None:
            for task in tasks:
                part = slice(starts[task], stops[task])
                shard, chunk = self._stored.shards[owners[part.start]], int(chunks[part.start])
                inside = places[part] - chunk * shard.layout.chunk_rows
                names = shard.layout.chunk_files(chunk)
                _read_rows(self._path(shard, names[0]), inside, numbers[part])
                if scales is not None:
                    _read_rows(self._path(shard, names[1]), inside, scales[part, None])

        step = max(1, min(_PIECES, len(starts) // _THREADS))
        list(self._pool.map(read, [range(first, min(first + step, len(starts))) for first in range(0, len(starts), step)]))
        return shards.decode(numbers, scales)

    @staticmethod
    def _path(shard: shards.Shard, name: str) -> pathlib.Path:
        return shard.folder.mapped(name, shard.files[name][1])


def _read_rows(path: pathlib.Path, places: np.ndarray, rows: np.ndarray) -> None:
    """Reads the rows at `places` [n] of a chunk's file into `rows` [n, numbers]. Raises IndexFolderError."""
    size = rows[0].nbytes
    views = rows.view(np.uint8).reshape(len(rows), size)  # of each row, its bytes in memory
    try:
        file = os.open(path, os.O_RDONLY)
        try:
            for number, place in enumerate(places.tolist()):
                # Not mapped: the loss of a mapped file's end would kill the process.
                if os.preadv(file, [views[number].data], place * size) != size:
                    raise errors.IndexFolderError(f'{path}: cut short; {shards.REMEDY}')
        finally:
            os.close(file)
    except OSError as error:
        raise errors.IndexFolderError(f'{path}: {error.strerror}; {shards.REMEDY}') from error
