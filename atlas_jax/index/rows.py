"""The rows of one version of an index, read from its shards."""

import numpy as np

from atlas_jax import errors
from atlas_jax.index import manifest, quantize, shards
from atlas_jax.io import arrays
from atlas_jax.io.folder import Folder

# Rows that are read at a time: what is held besides the rows themselves.
_BLOCK_ROWS = 16384


class Rows:
    """Embeddings as they are stored.

    manifest  the version
    shards    its shards
    """

    def __init__(self, folder: Folder, current: manifest.Manifest):
        """Looks whether every file is there in full length; reads no embeddings.

        Raises IndexFolderError: a file is missing, cut or of another index.
        """
        self.manifest = current
        self.shards = [shards.Shard(folder, entry) for entry in current.shards]
        self._first_rows = np.array([entry.first_row for entry in current.shards], np.int64)
        there = (folder / shards.FOLDER).sizes()
        for shard in self.shards:
            for name, first, stop in shard.used_files():
                size = there.get(f'{shard.entry.name}/{name}', -1)
                if size not in (shard.files[name][0], None):
                    what = 'missing' if size < 0 else f'{size} bytes long instead of {shard.files[name][0]}'
                    raise errors.IndexFolderError(f'{shard.folder}/{name}: {what} (rows {first} to {stop - 1}); {shards.REMEDY}')

    @property
    def dtype(self) -> np.dtype:
        """Of the stored numbers."""
        return quantize.DTYPES[self.manifest.dtype]

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """The given rows, [n] int64, in their order: ([n, dim] stored numbers, [n] float32 scales of int8).

        Raises IndexFolderError: a file is missing, cut or damaged.
        """
        values, scales = self._empty(len(rows))
        owners = np.searchsorted(self._first_rows, rows, side='right') - 1
        for owner in np.unique(owners):
            chosen = owners == owner
            values[chosen], part = self.shards[owner].take(rows[chosen])
            if scales is not None:
                scales[chosen] = part
        return values, scales

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """The rows start to stop as `take`, zeros past the last row."""
        values, scales = self._empty(stop - start)
        for shard in self.shards:
            entry = shard.entry
            last = min(stop, entry.first_row + entry.rows)
            for first in range(max(start, entry.first_row), last, _BLOCK_ROWS):
                behind = min(last, first + _BLOCK_ROWS)
                values[first - start:behind - start], part = shard.read(first, behind)
                if scales is not None:
                    scales[first - start:behind - start] = part
        return values, scales

    def _empty(self, rows: int) -> tuple[np.ndarray, np.ndarray | None]:
        scales = arrays.aligned((rows,), np.float32) if self.manifest.dtype == 'int8' else None
        return arrays.aligned((rows, self.manifest.dim), self.dtype), scales
