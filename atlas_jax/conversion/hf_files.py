"""The files of a Hugging Face model folder: config.json, and weights as safetensors or
pytorch_model.bin, whole or in shards.
"""

import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import ml_dtypes
import numpy as np
import safetensors

from atlas_jax import errors
from atlas_jax.conversion import torch_file
from atlas_jax.io import atomic, contents, untrusted

# Names of dtypes in a safetensors header, by numpy's name.
_DTYPE_NAMES = {'float32': 'F32', 'bfloat16': 'BF16', 'float16': 'F16'}


class SafetensorsFile:
    """The tensors of one safetensors file, read one at a time in the file's layout: linear layers
    [out, in].

    Raises:
      ModelFolderError: the file is missing or broken.
    """

    def __init__(self, path: pathlib.Path):
        self._path = path
        with self._open() as file:
            # Reads only the header.
            self._shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}

    def names(self) -> set[str]:
        """Returns the names of all tensors."""
        return set(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of one tensor, without reading it."""
        return self._shapes[name]

    def read(self, name: str) -> np.ndarray:
        """Reads one tensor as float32."""
        # Opened for each read: pages of a file that stays mapped would count as resident memory.
        with self._open() as file:
            try:
                array = file.get_tensor(name)
                # AttributeError and TypeError: numpy lacks the dtype, such as 4-bit and 8-bit ones.
                if array.dtype.kind not in 'fiubV':
                    raise TypeError(f'{array.dtype} numbers')
                return np.asarray(array, dtype=np.float32)
            except (safetensors.SafetensorError, AttributeError, TypeError, ValueError,
                    MemoryError) as error:
                raise errors.ModelFolderError(f'{self._path}: {name[:200]} cannot be read '
                                              f'({str(error)[:200]}); expected numbers of '
                                              'float32, bfloat16 or float16') from error

    def _open(self) -> Any:
        try:
            return safetensors.safe_open(self._path, 'numpy')
        except (safetensors.SafetensorError, OSError, MemoryError) as error:
            raise errors.ModelFolderError(f'{self._path}: not a whole safetensors file '
                                          f'({str(error)[:200]}); copy it again') from error


def write_safetensors(path: pathlib.Path, tensors: Sequence[tuple[str, tuple[int, ...]]],
                      read: Callable[[str], np.ndarray], dtype: str = 'float32') -> None:
    """Writes a safetensors file atomically, one tensor in memory at a time.

    Args:
      tensors: (name, shape) in the order they are written.
      read: returns the tensor of a name, linear layers as [out, in].
      dtype: float32, bfloat16 or float16.

    Raises:
      DiskFullError: the disk is full; the file then is as it was.
      ValueError: a tensor has another shape than announced.
    """
    # The library's own writer takes all tensors at once; a model of 11B parameters does not fit
    # into memory twice.
    numpy_dtype = np.dtype(ml_dtypes.bfloat16) if dtype == 'bfloat16' else np.dtype(dtype)
    # transformers 4 refuses a file that does not name a framework. Layout of the file: 8 bytes of
    # header length, little-endian, the JSON header, the tensors' bytes. Offsets count from the end
    # of the header, without gaps.
    header: dict[str, Any] = {'__metadata__': {'format': 'pt'}}
    offset = 0
    for name, shape in tensors:
        end = offset + int(np.prod(shape, dtype=np.int64)) * numpy_dtype.itemsize
        header[name] = {
            'dtype': _DTYPE_NAMES[dtype], 'shape': list(shape), 'data_offsets': [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b' ' * (-len(encoded) % 8)  # the data starts at a multiple of 8
    with atomic.writing(path, 'wb') as file:
        file.write(len(encoded).to_bytes(8, 'little') + encoded)
        for name, shape in tensors:
            # The format is row-major; a transposed matrix is a view with swapped strides.
            array = np.asarray(read(name), dtype=numpy_dtype, order='C')
            # The header is already written: a tensor of another size would shift those that follow.
            if array.shape != tuple(shape):
                raise ValueError(f'{name} has shape {array.shape}, announced as {tuple(shape)}')
            # As bytes: Python's buffers do not support bfloat16.
            file.write(array.reshape(-1).view(np.uint8).data)


def write_checksums(folder: pathlib.Path) -> None:
    """Writes the checksums of a folder's files, and for safetensors files of each tensor.

    Raises DiskFullError, OSError.
    """
    contents.write(folder,
                   parts={path.name: _tensor_ranges(path) for path in folder.glob('*.safetensors')})


def _tensor_ranges(path: pathlib.Path) -> list[contents.Part]:
    """Returns (first byte, end, name) of the tensors in a file of ours, in the file's order."""
    with open(path, 'rb') as file:
        length = int.from_bytes(file.read(8), 'little')
        header = untrusted.parse_json(file.read(length))
    at = 8 + length
    return sorted((at + tensor['data_offsets'][0], at + tensor['data_offsets'][1], name)
                  for name, tensor in header.items()
                  if name != '__metadata__')


_SINGLE, _INDEX = 'model.safetensors', 'model.safetensors.index.json'
_TORCH_SINGLE, _TORCH_INDEX = 'pytorch_model.bin', 'pytorch_model.bin.index.json'
# The limit of a shard in transformers up to version 4 (50 GB since). Shards of any size are read.
SHARD_BYTES = 5_000_000_000


def read_json(path: pathlib.Path) -> Any:
    """Reads a JSON file of a model folder. Raises ModelFolderError if it is missing or broken."""
    if not path.is_file():
        raise errors.ModelFolderError(f'{path}: no such file; give a Hugging Face model folder '
                                      f'(config.json and {_SINGLE})')
    try:
        return untrusted.read_json(path)
    except ValueError as error:
        raise errors.ModelFolderError(
            f'{path}: broken JSON ({error}); copy the folder again') from error


def read_object(path: pathlib.Path, optional: bool = False) -> dict[str, Any]:
    """Reads a JSON object of a model folder; a missing `optional` file counts as an empty object.

    Raises ModelFolderError if it is missing, broken or not an object.
    """
    if optional and not path.is_file():
        return {}
    found = read_json(path)
    if not isinstance(found, dict):
        raise errors.ModelFolderError(f'{path}: expected a JSON object, found '
                                      f'{type(found).__name__}; copy the folder again')
    return found


def read_config(folder: pathlib.Path, model_types: tuple[str, ...]) -> dict[str, Any]:
    """Reads config.json of `folder`.

    Raises ModelFolderError if it is missing, broken or of another model type.
    """
    path = folder / 'config.json'
    config = read_object(path)
    found = config.get('model_type')
    if found not in model_types:
        expected = ' or '.join(repr(name) for name in model_types)
        raise errors.ModelFolderError(f'{path}: model_type is {untrusted.shown(found)}, expected '
                                      f'{expected}; give a folder of that kind of model')
    return config


class TensorSource(Protocol):
    """Named tensors of a Hugging Face folder or a PyTorch file, read one at a time, linear layers
    as [out, in].
    """

    path: pathlib.Path

    def names(self) -> set[str]:
        """Returns the names of all tensors."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of one tensor, without reading it."""
        ...

    def read(self, name: str) -> np.ndarray:
        """Reads one tensor as float32. Raises ModelFolderError if its file is broken."""
        ...


class Tensors:
    """The tensors of a model folder, read one at a time as float32, linear layers as [out, in].
    Prefers safetensors to .bin files.

    Attributes:
      path: the folder.

    Raises:
      ModelFolderError: there are no weights, a file is broken, or a shard lacks a tensor that the
        index names.
    """

    def __init__(self, folder: pathlib.Path):
        self.path = folder
        self._files: dict[str, SafetensorsFile | torch_file.TorchFile] = {}
        self._file_of: dict[str, str] = {}
        # safetensors first: shapes are read without the tensors, and there is no pickle to
        # interpret. transformers' own order, so that a folder with several copies is read as
        # transformers reads it.
        for single, index in ((_SINGLE, _INDEX), (_TORCH_SINGLE, _TORCH_INDEX)):
            if (folder / single).is_file():
                self._file_of = {name: single for name in self._open(single, single).names()}
                return
            if (folder / index).is_file():
                self._read_index(index)
                return
        raise errors.ModelFolderError(f'{folder}: found neither {_SINGLE} nor {_INDEX} nor '
                                      f'{_TORCH_SINGLE}; give a Hugging Face model folder')

    def names(self) -> set[str]:
        """Returns the names of all tensors."""
        return set(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of one tensor, without reading it."""
        return self._files[self._file_of[name]].shape(name)

    def read(self, name: str) -> np.ndarray:
        """Reads one tensor as float32."""
        return self._files[self._file_of[name]].read(name)

    def _read_index(self, index_name: str) -> None:
        path = self.path / index_name
        index = read_json(path)
        weight_map = index.get('weight_map') if isinstance(index, dict) else None
        if not isinstance(weight_map, dict):
            raise errors.ModelFolderError(f'{path}: no "weight_map"; copy the folder again')
        # {"metadata": …, "weight_map": {tensor: file}}; the same layout for safetensors and .bin.
        self._file_of = weight_map
        for name, file in weight_map.items():
            try:
                untrusted.inside(self.path, file)
            except ValueError as error:
                raise errors.ModelFolderError(f'{path}: the shard {str(file)[:80]!r} of {name} is '
                                              'not a file name in this folder; do not '
                                              'use these files') from error
            # Looked up now, so that a conversion does not fail halfway.
            if name not in self._open(file, index_name).names():
                raise errors.ModelFolderError(f'{self.path}/{file}: lacks {name}, which '
                                              f'{index_name} promises; copy the folder again')

    def _open(self, file: str, named_by: str) -> SafetensorsFile | torch_file.TorchFile:
        # One object per shard: its header or pickle is read once for all its tensors.
        if file not in self._files:
            path = untrusted.inside(self.path, file)
            if not path.is_file():
                raise errors.ModelFolderError(f'{path}: no such file, though {named_by} names it; '
                                              'copy the folder again')
            self._files[file] = SafetensorsFile(path) if named_by in (
                _SINGLE, _INDEX) else torch_file.TorchFile(path)
        return self._files[file]


def write(folder: str | os.PathLike, config: dict[str, Any], shapes: dict[str, tuple[int, ...]],
          read: Callable[[str], np.ndarray], dtype: str = 'float32',
          shard_bytes: int = SHARD_BYTES) -> None:
    """Writes weights and then config.json, each file atomically; creates the folder. Holds one
    tensor in memory at a time.

    Args:
      config: content of config.json.
      shapes: shape of each tensor by name, in the order they are read.
      read: returns the tensor of a name, linear layers as [out, in].
      dtype: float32, bfloat16 or float16.
      shard_bytes: larger weights are split into several files with an index, as at Hugging Face.

    Raises:
      DiskFullError: the disk is full.
    """
    folder = pathlib.Path(folder)
    item_bytes = 4 if dtype == 'float32' else 2
    shards = _shards(shapes, item_bytes, shard_bytes)
    names = [_SINGLE]
    # transformers numbers shards from 1.
    if len(shards) > 1:
        names = [f'model-{i + 1:05}-of-{len(shards):05}.safetensors' for i in range(len(shards))]
    for file, shard in zip(names, shards, strict=True):
        write_safetensors(folder / file, [(name, shapes[name]) for name in shard], read, dtype)
    if len(shards) > 1:
        total = sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes.values()) * item_bytes
        weight_map = {
            name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        # transformers looks up a tensor's shard in this file.
        atomic.write_json(folder / _INDEX,
                          {'metadata': {'total_size': total}, 'weight_map': weight_map})
    # Last: a folder without config.json does not count as a model.
    atomic.write_json(folder / 'config.json', config)


def _shards(shapes: dict[str, tuple[int, ...]], item_bytes: int,
            shard_bytes: int) -> list[list[str]]:
    """Distributes names over files. A tensor larger than `shard_bytes` gets its own file."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, shape in shapes.items():
        size = int(np.prod(shape, dtype=np.int64)) * item_bytes
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards
