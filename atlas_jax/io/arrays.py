"""Arrays on disk or in a bucket: zarr3 whose chunks carry a crc32c; a missing chunk is an error, never zeros."""

from collections.abc import Sequence

import numpy as np
import tensorstore

from atlas_jax.io.folder import Folder

_ALIGNMENT = 64


def create(folder: Folder, shape: Sequence[int], dtype: np.dtype | str, chunk_shape: Sequence[int]) -> tensorstore.TensorStore:
    """Opens the array of this shape and numpy dtype, made where missing. Raises ValueError: TensorStore's complaint."""
    metadata = {
        'shape': list(shape), 'data_type': np.dtype(dtype).name,
        'chunk_grid': {'name': 'regular', 'configuration': {'chunk_shape': list(chunk_shape)}},
        'codecs': [{'name': 'bytes', 'configuration': {'endian': 'little'}}, {'name': 'crc32c'}],
    }
    # A chunk of zeros is written too: else it could not be told from a missing one.
    spec = {'driver': 'zarr3', 'kvstore': folder.kvstore(), 'store_data_equal_to_fill_value': True, 'metadata': metadata}
    return tensorstore.open(spec, create=True, open=True).result()


def open_array(folder: Folder) -> tensorstore.TensorStore:
    """Opens an array to read. Raises ValueError: TensorStore's complaint."""
    spec = {'driver': 'zarr3', 'kvstore': folder.kvstore(), 'fill_missing_data_reads': False}
    return tensorstore.open(spec, open=True).result()


def aligned(shape: Sequence[int], dtype: np.dtype | str) -> np.ndarray:
    """Zeros that jax takes over on a CPU without copying them."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start:start + size].view(dtype).reshape(shape)
