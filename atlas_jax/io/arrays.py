"""Arrays on disk or in a bucket: zarr3 with a crc32c of each chunk.

A missing chunk is an error, never zeros.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorstore

from atlas_jax.io import untrusted
from atlas_jax.io.folder import Folder

_METADATA = 'zarr.json'
# The codecs that `create` writes.
_CODECS = ({'name': 'bytes', 'configuration': {'endian': 'little'}}, {'name': 'crc32c'})
# TensorStore allocates a whole chunk before it reads; a failed allocation ends the process.
_MAX_CHUNK_BYTES = 1 << 30
_ALIGNMENT = 64  # bytes; XLA's CPU client copies host arrays with a smaller alignment


def create(folder: Folder, shape: Sequence[int], dtype: np.dtype | str,
           chunk_shape: Sequence[int]) -> tensorstore.TensorStore:
    """Opens the array with this shape and numpy dtype, and creates it if it is missing.

    Raises StorageError: a link leads out of the folder. ValueError: TensorStore's message; see
    folder.storage_errors.
    """
    metadata = {
        'shape': list(shape), 'data_type': np.dtype(dtype).name,
        'chunk_grid': {'name': 'regular', 'configuration': {'chunk_shape': list(chunk_shape)}},
        'codecs': list(_CODECS),
    }
    folder.require_own()
    # Chunks of zeros must be written: left out, they would look like missing ones.
    spec = {
        'driver': 'zarr3', 'kvstore': folder.kvstore(), 'store_data_equal_to_fill_value': True,
        'metadata': metadata}
    return tensorstore.open(spec, create=True, open=True).result()


def open_array(folder: Folder) -> tensorstore.TensorStore:
    """Opens an array to read.

    Raises ValueError: it is missing, its description is not one that `create` writes, or
    TensorStore's message; see folder.storage_errors.
    """
    try:
        _check(untrusted.parse_json(folder.read(_METADATA)))
    except OSError as error:
        raise ValueError(f'{_METADATA}: {error.strerror}') from error
    spec = {'driver': 'zarr3', 'kvstore': folder.kvstore(), 'fill_missing_data_reads': False}
    return tensorstore.open(spec, open=True).result()


def _check(metadata: Any) -> None:
    """Raises ValueError: the description is not one that `create` writes."""
    try:
        shape, chunk = metadata['shape'], metadata['chunk_grid']['configuration']['chunk_shape']
        dtype, codecs = metadata['data_type'], [codec['name'] for codec in metadata['codecs']]
        # numpy itself does not know bfloat16.
        size = 2 if dtype == 'bfloat16' else np.dtype(dtype).itemsize
        sizes = isinstance(dtype, str) and len(shape) == len(chunk) <= 8 and all(
            type(each) is int and 0 <= each < 1 << 48 for each in [*shape, *chunk])
    except (TypeError, KeyError) as error:
        raise ValueError(
            f'{_METADATA} describes no array of ours ({type(error).__name__})') from error
    ours = [codec['name'] for codec in _CODECS]
    if not sizes or codecs != ours or math.prod(chunk) * size > _MAX_CHUNK_BYTES:
        raise ValueError(f'{_METADATA} describes no array of ours (its shape, chunks or codecs)')


def aligned(shape: Sequence[int], dtype: np.dtype | str) -> np.ndarray:
    """Returns zeros [*shape], aligned so that jax on a CPU uses the memory without a copy."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT  # numpy aligns to 16 bytes only
    return raw[start:start + size].view(dtype).reshape(shape)
