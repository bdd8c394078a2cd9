"""Writes the files of a T5X checkpoint: a zarr folder for each parameter, and the msgpack tree that points to them."""

import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import msgpack
import numpy as np
import tensorstore as ts

from atlas_jax.conversion import hf_names, t5x_files
from atlas_jax.io import atomic

Read = Callable[[], np.ndarray]
CHUNK_BYTES = 64 << 20
_COMPRESSOR = {'id': 'gzip', 'level': 1}
_ZARR_NAMES = {'float32': '<f4', 'bfloat16': 'bfloat16', 'float16': '<f2'}


def write(folder: pathlib.Path, arrays: Mapping[str, tuple[tuple[int, ...], Read]], dtype: str, step: int) -> None:
    """Writes arrays one by one, the msgpack file last: without it there is no checkpoint.

    Args:
      arrays: path in T5X's tree -> (shape, what reads it).

    Raises DiskFullError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    placeholders = {}
    with atomic.disk_full_is_a_user_error(folder):
        for path, (shape, read) in arrays.items():
            placeholders[path] = _write_array(folder, 'target.' + path.replace('/', '.'), shape, read, dtype)
    tree = {'version': t5x_files.VERSION, 'optimizer': {'target': hf_names.nest(placeholders), 'state': {'step': _inlined(np.int32(step))}}}
    with atomic.writing(folder / t5x_files.FILE, 'wb') as file:
        file.write(msgpack.packb(tree))


def chunk_shape(shape: tuple[int, ...], item_bytes: int, limit_bytes: int = CHUNK_BYTES) -> list[int]:
    """T5X's rule: the whole array up to 64 MiB; else the largest dimension goes down to its next divisor until a chunk fits."""
    chunks = list(shape)
    while math.prod(chunks) * item_bytes > limit_bytes:
        largest = max(range(len(chunks)), key=lambda axis: chunks[axis])
        chunks[largest] = next(size for size in range(chunks[largest] - 1, 0, -1) if shape[largest] % size == 0)
    return chunks


def _write_array(folder: pathlib.Path, name: str, shape: tuple[int, ...], read: Read, dtype: str) -> dict[str, Any]:
    """Writes one array; returns the placeholder that stands for it in the tree."""
    numpy_dtype = np.dtype(ml_dtypes.bfloat16) if dtype == 'bfloat16' else np.dtype(dtype)
    metadata = {'shape': list(shape), 'chunks': chunk_shape(shape, numpy_dtype.itemsize), 'compressor': _COMPRESSOR}
    store = ts.open({'driver': 'zarr', 'kvstore': {'driver': 'file', 'path': str((folder / name).absolute())},
                     'metadata': {**metadata, 'dtype': _ZARR_NAMES[dtype], 'fill_value': None}}, create=True).result()
    store.write(np.asarray(read(), numpy_dtype), can_reference_source_data_indefinitely=True).result()
    return {'driver': 'zarr', 'dtype': dtype, 'kvstore': {'driver': 'file', 'path': f'{name}/'}, 'metadata': metadata}


def _inlined(value: np.generic) -> msgpack.ExtType:
    return msgpack.ExtType(t5x_files.ARRAY, msgpack.packb((value.shape, value.dtype.name, value.tobytes())))
