"""A safetensors file: named tensors, read one at a time and written one after another."""

import json
import pathlib
from collections.abc import Callable, Sequence

import ml_dtypes
import numpy as np
import safetensors

from atlas_jax import errors
from atlas_jax.io import atomic

# Name in a safetensors header by numpy's name.
_DTYPE_NAMES = {'float32': 'F32', 'bfloat16': 'BF16', 'float16': 'F16'}


class SafetensorsFile:
    """Tensors of one file. Raises ModelFolderError when it is missing or broken."""

    def __init__(self, path: pathlib.Path):
        self._path = path
        with self._open() as file:
            self._shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}

    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor."""
        return self._shapes[name]

    def read(self, name: str) -> np.ndarray:
        """One tensor as float32."""
        # Opened anew each time: a file that stays mapped counts with every page that was ever read.
        with self._open() as file:
            return np.asarray(file.get_tensor(name), dtype=np.float32)

    def _open(self):
        try:
            return safetensors.safe_open(self._path, 'numpy')
        except (safetensors.SafetensorError, OSError) as error:
            raise errors.ModelFolderError(f'{self._path}: not a whole safetensors file ({error}); copy it again') from error


def write(path: pathlib.Path, tensors: Sequence[tuple[str, tuple[int, ...]]], read: Callable[[str], np.ndarray],
          dtype: str = 'float32') -> None:
    """Writes a file atomically, one tensor in memory at a time: the library's own writer wants them all.

    Args:
      tensors: (name, shape) in the order they are written.
      read: name -> the tensor.
      dtype: float32, bfloat16 or float16.

    Raises DiskFullError.
    """
    numpy_dtype = np.dtype(ml_dtypes.bfloat16) if dtype == 'bfloat16' else np.dtype(dtype)
    header, offset = {'__metadata__': {'format': 'pt'}}, 0
    for name, shape in tensors:
        end = offset + int(np.prod(shape, dtype=np.int64)) * numpy_dtype.itemsize
        header[name] = {'dtype': _DTYPE_NAMES[dtype], 'shape': list(shape), 'data_offsets': [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b' ' * (-len(encoded) % 8)  # the data starts at a multiple of 8
    with atomic.writing(path, 'wb') as file:
        file.write(len(encoded).to_bytes(8, 'little') + encoded)
        for name, shape in tensors:
            array = np.asarray(read(name), dtype=numpy_dtype, order='C')
            if array.shape != tuple(shape):
                raise ValueError(f'{name} has shape {array.shape}, announced as {tuple(shape)}')
            file.write(memoryview(array.reshape(-1).view(np.uint8)))
