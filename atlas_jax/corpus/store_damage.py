"""Which passages a damaged file of a store hits."""

import contextlib
import re
import zlib

import numpy as np

from atlas_jax import errors
from atlas_jax.corpus import store_arrays, store_text
from atlas_jax.io.folder import Folder

_CHUNK = re.compile(r'(.+)/c/(\d+)')


def rows_hit(folder: Folder, name: str, rows: int) -> tuple[int, int]:
    """The rows [first, stop) of a segment of `rows` passages that a file of it is about; all of them where that cannot be told.

    Args:
      folder: the segment.
      name: the damaged file, relative to it.
      rows: the segment's number of passages.
    """
    with contextlib.suppress(errors.StoreError, OSError, ValueError):
        if name == store_text.FILE:
            return _rows_of_text(folder, rows)
        if match := _CHUNK.fullmatch(name):
            return _rows_of_chunk(folder, match[1], int(match[2]), rows)
    return 0, rows


def _rows_of_text(folder: Folder, rows: int) -> tuple[int, int]:
    bounds, crcs = (store_arrays.ArrayReader(folder / name).read() for name in ('block_bounds', 'block_crc32'))
    content = folder.read(store_text.FILE)
    differs = [zlib.crc32(content[start:stop]) != crc for start, stop, crc in zip(bounds[:-1], bounds[1:], crcs, strict=True)]
    blocks = np.flatnonzero(differs)
    if not len(blocks) or blocks[-1] == len(crcs) - 1:  # the footer: nothing can be found without it
        return 0, rows
    return int(blocks[0]) * store_text.BATCH_ROWS, min(rows, (int(blocks[-1]) + 1) * store_text.BATCH_ROWS)


def _rows_of_chunk(folder: Folder, array: str, chunk: int, rows: int) -> tuple[int, int]:
    values = store_arrays.ArrayReader(folder / array).chunk_values
    first, stop = chunk * values, (chunk + 1) * values
    if array.endswith('/ids'):
        lengths = store_arrays.ArrayReader(folder / array.replace('/ids', '/lengths')).read()
        stops = np.cumsum(lengths, dtype=np.int64)
        # The passages with an id among the values first to stop - 1.
        return int(np.searchsorted(stops, first, 'right')), min(rows, int(np.searchsorted(stops, stop, 'left')) + 1)
    is_of_rows = array == 'docids' or array.endswith(('/lengths', '/title_lengths'))
    return (first, min(rows, stop)) if is_of_rows else (0, rows)
