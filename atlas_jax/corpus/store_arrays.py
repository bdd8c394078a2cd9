"""Flat arrays of a store: written by appending, read in ranges."""

import numpy as np
import tensorstore

from atlas_jax import errors
from atlas_jax.io import arrays, ranges
from atlas_jax.io.folder import Folder, storage_errors

CHUNK_VALUES = 1 << 19  # 1 to 4 MiB per chunk, depending on the type of the values
REMEDY = 'restore it or build the store again'


class ArrayWriter:
    """Writes one array, [n] of any integer type; holds at most one chunk in memory."""

    def __init__(self, folder: Folder, dtype: np.dtype | type):
        """Keeps the arguments and writes nothing yet."""
        self._folder, self._dtype = folder, np.dtype(dtype)
        self._pending: list[np.ndarray] = []
        self._pending_values = self._written = 0
        self._array: tensorstore.TensorStore | None = None

    def append(self, values: np.ndarray) -> None:
        """Appends [n] values. Raises DiskFullError."""
        self._pending.append(np.asarray(values, self._dtype))
        self._pending_values += len(values)
        if self._pending_values >= CHUNK_VALUES:
            whole = np.concatenate(self._pending)
            full = len(whole) // CHUNK_VALUES * CHUNK_VALUES
            self._write(whole[:full], CHUNK_VALUES)
            # Only whole chunks are written; a partial chunk would be read and written again.
            self._pending, self._pending_values = [whole[full:]], len(whole) - full

    def finish(self) -> int:
        """Writes the rest and returns the number of values. Raises the same errors as `append`."""
        rest = np.concatenate([np.zeros(0, self._dtype), *self._pending])
        # A smaller array gets one smaller chunk, because zarr writes full chunks.
        if len(rest) or self._array is None:
            self._write(rest, CHUNK_VALUES if self._written else max(1, len(rest)))
        return self._written

    def _write(self, values: np.ndarray, chunk_values: int) -> None:
        stop = self._written + len(values)
        with storage_errors(self._folder, errors.StoreError, REMEDY):
            if self._array is None:
                self._array = arrays.create(self._folder, [stop], self._dtype, [chunk_values])
            else:
                self._array = self._array.resize(exclusive_max=[stop], expand_only=True).result()
            self._array[self._written:stop].write(values).result()
        self._written = stop


def write(folder: Folder, values: np.ndarray) -> None:
    """Writes a whole array, [n]. Raises the same errors as `ArrayWriter.append`."""
    writer = ArrayWriter(folder, values.dtype)
    writer.append(values)
    writer.finish()


class ArrayReader:
    """Reads an array on disk.

    dtype         numpy type of its values
    chunk_values  values in a chunk
    """

    def __init__(self, folder: Folder):
        """Reads the array's description, but no values.

        Raises StoreError: it is missing or damaged.
        """
        self._folder = folder
        with storage_errors(folder, errors.StoreError, REMEDY):
            self._array = arrays.open_array(folder)
        chunk_shape = self._array.chunk_layout.read_chunk.shape
        if self._array.rank != 1 or chunk_shape is None or chunk_shape[0] is None:
            raise errors.StoreError(f'{folder}: damaged (not a flat array); {REMEDY}')
        self.dtype = self._array.dtype.numpy_dtype
        self.chunk_values = chunk_shape[0]
        # Chunks whose checksum was right when `ranges` first read them.
        self._checked: set[int] = set()

    def __len__(self) -> int:
        return self._array.shape[0]

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Returns the values start to stop - 1, [stop - start]; by default all.

        Raises StoreError: a chunk is missing or damaged.
        """
        stop = len(self) if stop is None else stop
        if start == stop:
            return np.zeros(0, self.dtype)
        with storage_errors(self._folder, errors.StoreError, REMEDY):
            return np.asarray(self._array[start:stop].read().result())

    def ranges(self, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
        """Returns the values of many ranges, one range after another: [n] values.

        The first time that a range lies in a chunk, the whole chunk is read and its checksum
        compared. After that only the ranges are read.

        Args:
          starts, stops: [ranges] int64, ascending, so that reads of one chunk are neighbours.

        Raises:
          StoreError: a chunk is missing or damaged.
        """
        places = np.concatenate([[0], np.cumsum(stops - starts)])
        result = np.empty(places[-1], self.dtype)
        # By chunk: first value, value after the last, place in the result.
        pieces: dict[int, list[tuple[int, int, int]]] = {}
        for start, stop, place in zip(starts.tolist(), stops.tolist(), places.tolist(),
                                      strict=False):
            while start < stop:  # a range may reach into the next chunk
                chunk = start // self.chunk_values
                end = min(stop, (chunk + 1) * self.chunk_values)
                pieces.setdefault(chunk, []).append((start, end, place))
                start, place = end, place + end - start
        with storage_errors(self._folder, errors.StoreError, REMEDY):
            ranges.side_by_side(lambda chunk: self._fill(result, chunk, pieces[chunk]), pieces)
        return result

    def _fill(self, result: np.ndarray, chunk: int, pieces: list[tuple[int, int, int]]) -> None:
        first = chunk * self.chunk_values
        # A bucket is always read in whole chunks.
        if chunk not in self._checked or self._folder.local is None:
            values = self.read(first, min(first + self.chunk_values, len(self)))
            for start, stop, place in pieces:
                result[place:place + stop - start] = values[start - first:stop - first]
            self._checked.add(chunk)
            return
        # The file of a chunk holds its values, then the checksum (io/arrays.py).
        try:
            ranges.read(str(self._folder / 'c' / str(chunk)), [
                (start - first) * self.dtype.itemsize for start, _, _ in pieces
            ], [result[place:place + stop - start].view(np.uint8) for start, stop, place in pieces])
        except OSError as error:
            raise errors.StoreError(f'{self._folder}: chunk {chunk} was read before and cannot be '
                                    f'read again ({error.strerror}); '
                                    f'{REMEDY}') from error
