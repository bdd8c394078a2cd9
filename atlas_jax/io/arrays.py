"""Arrays on disk or in a bucket: zarr3 with a crc32c of each chunk. A missing chunk is an error, never zeros."""

from collections.abc import Sequence

import numpy as np
import tensorstore

from atlas_jax.io.folder import Folder

_ALIGNMENT = 64  # bytes; XLA's CPU client copies a host array that is aligned to less


def create(folder: Folder, shape: Sequence[int], dtype: np.dtype | str, chunk_shape: Sequence[int]) -> tensorstore.TensorStore:
    """Opens the array of this shape and numpy dtype, and creates it if it is missing.

    Raises StorageError: a link leads out of the folder. ValueError: TensorStore's message; see folder.storage_errors.
    """
    metadata = {
        'shape': list(shape), 'data_type': np.dtype(dtype).name,
        'chunk_grid': {'name': 'regular', 'configuration': {'chunk_shape': list(chunk_shape)}},
        'codecs': [{'name': 'bytes', 'configuration': {'endian': 'little'}}, {'name': 'crc32c'}],
    }
    folder.require_own()
    # Chunks of zeros are written too: TensorStore would leave them out, and they would look like missing ones.
    spec = {'driver': 'zarr3', 'kvstore': folder.kvstore(), 'store_data_equal_to_fill_value': True, 'metadata': metadata}
    return tensorstore.open(spec, create=True, open=True).result()


def open_array(folder: Folder) -> tensorstore.TensorStore:
    """Opens an array to read. Raises ValueError: TensorStore's message; see folder.storage_errors."""
    spec = {'driver': 'zarr3', 'kvstore': folder.kvstore(), 'fill_missing_data_reads': False}
    return tensorstore.open(spec, open=True).result()


def aligned(shape: Sequence[int], dtype: np.dtype | str) -> np.ndarray:
    """Returns zeros [*shape], aligned so that jax on a CPU uses the memory itself and no copy."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT  # numpy aligns to 16 bytes only
    return raw[start:start + size].view(dtype).reshape(shape)
