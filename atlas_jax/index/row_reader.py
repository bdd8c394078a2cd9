"""Reads single rows of an index from its files, many at a time.

A search that scores candidates again needs rows from all over the index. A chunk's file holds its
rows one after another, then one checksum. TensorStore reads whole chunks, 12 MiB for a row of 3
KiB; this module reads only the rows.

Each file of an index up to 1 GiB is compared with its checksum before its first row is read, which
takes a second or two in all. The files of a larger index are not: the candidates of one batch lie
in nearly all of its chunks, so the whole index, 25 GB for 33 million rows, would be read before the
first result. `atlas-jax index verify` compares them.
"""

import pathlib

import numpy as np

from atlas_jax import errors
from atlas_jax.index import index_manifest, shards
from atlas_jax.io import ranges

_CHECKED_BYTES = 1 << 30  # files of larger indexes are not compared with their checksums
_PIECES = 256  # most chunks that one task reads


class RowReader:
    """Reads rows of one version of an index.

    Rows in a bucket are read from a copy in the cache, which is made and checked chunk by chunk.
    """

    def __init__(self, stored: shards.StoredEmbeddings):
        """Keeps the names of the files and reads nothing."""
        self._stored = stored
        self._first_rows = np.array([shard.entry.first_row for shard in stored.shards], np.int64)
        self._checks = sum(shard.size_bytes for shard in stored.shards) <= _CHECKED_BYTES
        self._checked: set[pathlib.Path] = set()

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Reads rows [n] int64 of the index, in rising order; returns embeddings [n, dim] float32.

        Raises IndexFolderError: a file is missing, cut or damaged. StorageError.
        """
        dtype, dim = self._stored.dtype, self._stored.manifest.dim
        numbers = np.empty((len(rows), dim), dtype)
        scales = np.empty(
            (len(rows), 1), np.float32) if self._stored.manifest.dtype == 'int8' else None
        owners = np.searchsorted(self._first_rows, rows, side='right') - 1
        places = rows - np.array(
            [shard.entry.first_row - shard.entry.offset
             for shard in self._stored.shards], np.int64)[owners]
        chunks = places // np.array([shard.layout.chunk_rows
                                     for shard in self._stored.shards], np.int64)[owners]
        # Rows of one file are read together, so the file is opened once.
        starts = np.flatnonzero(np.r_[True, (np.diff(owners) != 0) |
                                      (np.diff(chunks) != 0)]) if len(rows) else np.zeros(
                                          0, np.int64)
        stops = np.r_[starts[1:], len(rows)]

        def read(tasks: range) -> None:
            for task in tasks:
                part = slice(starts[task], stops[task])
                shard, chunk = self._stored.shards[owners[part.start]], int(chunks[part.start])
                inside = places[part] - chunk * shard.layout.chunk_rows
                columns = [numbers] if scales is None else [numbers, scales]
                for name, column in zip(shard.layout.chunk_files(chunk), columns, strict=True):
                    self._read(shard, name, inside, column[part])

        step = max(1, min(_PIECES, len(starts) // ranges.THREADS))
        ranges.side_by_side(
            read,
            [range(first, min(first + step, len(starts))) for first in range(0, len(starts), step)])
        return shards.decode(numbers, None if scales is None else scales[:, 0])

    def _read(self, shard: shards.Shard, name: str, places: np.ndarray, rows: np.ndarray) -> None:
        """Reads the rows at `places` [n] of a chunk's file into `rows` [n, numbers].

        Raises IndexFolderError, StorageError.
        """
        size, checksum = rows[0].nbytes, shard.files[name][1]
        try:
            path = shard.folder.mapped(name, checksum)
            if self._checks and path not in self._checked:
                # A copy of a bucket's file was compared when it was copied.
                if shard.folder.local is not None and (problem := shard.folder.differs(
                        name, checksum)):
                    raise errors.IndexFolderError(f'{path}: damaged ({problem}); '
                                                  f'{index_manifest.REMEDY}')
                self._checked.add(path)
            ranges.read(path, (places * size).tolist(),
                        list(rows.view(np.uint8).reshape(len(rows), size)))
        except OSError as error:
            raise errors.IndexFolderError(f'{shard.folder}/{name}: {error.strerror}; '
                                          f'{index_manifest.REMEDY}') from error
