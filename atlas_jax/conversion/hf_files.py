"""The files of a Hugging Face model folder: config.json, and weights as safetensors or pytorch_model.bin, whole or in shards."""

import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from atlas_jax import errors
from atlas_jax.conversion import tensor_file, torch_file
from atlas_jax.io import atomic

_SINGLE, _INDEX = 'model.safetensors', 'model.safetensors.index.json'
_TORCH_SINGLE, _TORCH_INDEX = 'pytorch_model.bin', 'pytorch_model.bin.index.json'
SHARD_BYTES = 5_000_000_000


def read_json(path: pathlib.Path) -> Any:
    """The value in a JSON file of a model folder; raises ModelFolderError when it is missing or broken."""
    if not path.is_file():
        raise errors.ModelFolderError(f'{path}: no such file; give a Hugging Face model folder (config.json and {_SINGLE})')
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as error:
        raise errors.ModelFolderError(f'{path}: broken JSON ({error}); copy the folder again') from error


def read_config(folder: pathlib.Path, model_types: tuple[str, ...]) -> dict[str, Any]:
    """config.json of `folder`; raises ModelFolderError when it is missing, broken or of none of these model types."""
    path = folder / 'config.json'
    config = read_json(path)
    if not isinstance(config, dict):
        raise errors.ModelFolderError(f'{path}: expected a JSON object, found {type(config).__name__}')
    found = config.get('model_type')
    if found not in model_types:
        expected = ' or '.join(repr(name) for name in model_types)
        raise errors.ModelFolderError(f'{path}: model_type is {found!r}, expected {expected}; give a folder of that kind of model')
    return config


class Tensors:
    """The tensors of a model folder, read one at a time as float32; safetensors before .bin where both are there.

    path: the folder.

    Raises ModelFolderError when there is neither, when a file is broken, or when a shard lacks what the index promises.
    """

    def __init__(self, folder: pathlib.Path):
        self.path = folder
        self._files: dict[str, Any] = {}
        self._file_of: dict[str, str] = {}
        for single, index in ((_SINGLE, _INDEX), (_TORCH_SINGLE, _TORCH_INDEX)):
            if (folder / single).is_file():
                self._file_of = {name: single for name in self._open(single, single).names()}
                return
            if (folder / index).is_file():
                self._read_index(index)
                return
        raise errors.ModelFolderError(f'{folder}: found neither {_SINGLE} nor {_INDEX} nor {_TORCH_SINGLE}; give a Hugging Face model '
                                      'folder')

    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor, without reading it."""
        return self._files[self._file_of[name]].shape(name)

    def read(self, name: str) -> np.ndarray:
        """One tensor as float32."""
        return self._files[self._file_of[name]].read(name)

    def _read_index(self, index_name: str) -> None:
        path = self.path / index_name
        index = read_json(path)
        self._file_of = index.get('weight_map') if isinstance(index, dict) else None
        if not isinstance(self._file_of, dict):
            raise errors.ModelFolderError(f'{path}: no "weight_map"; copy the folder again')
        for name, file in self._file_of.items():
            if not isinstance(file, str) or pathlib.PurePath(file).name != file:
                raise errors.ModelFolderError(f'{path}: the shard {file!r} of {name} is not a file name in this folder')
            if name not in self._open(file, index_name).names():
                raise errors.ModelFolderError(f'{self.path / file}: lacks {name}, which {index_name} promises; copy the folder again')

    def _open(self, file: str, named_by: str):
        if file not in self._files:
            path = self.path / file
            if not path.is_file():
                raise errors.ModelFolderError(f'{path}: no such file, though {named_by} names it; copy the folder again')
            self._files[file] = tensor_file.SafetensorsFile(path) if named_by in (_SINGLE, _INDEX) else torch_file.TorchFile(path)
        return self._files[file]


def write(folder: str | os.PathLike, config: dict[str, Any], shapes: dict[str, tuple[int, ...]], read: Callable[[str], np.ndarray],
          dtype: str = 'float32', shard_bytes: int = SHARD_BYTES) -> None:
    """Writes weights and config.json, each file atomically, the config last; makes the folder. One tensor is in memory at a time.

    Args:
      shapes: name -> shape, in the order they are read.
      read: name -> the tensor.
      dtype: float32, bfloat16 or float16.
      shard_bytes: weights beyond that go into several files with an index, as Hugging Face's.

    Raises DiskFullError.
    """
    folder = pathlib.Path(folder)
    shards = _shards(shapes, 4 if dtype == 'float32' else 2, shard_bytes)
    names = [f'model-{i:05}-of-{len(shards):05}.safetensors' for i in range(1, len(shards) + 1)] if len(shards) > 1 else [_SINGLE]
    for file, shard in zip(names, shards, strict=True):
        tensor_file.write(folder / file, [(name, shapes[name]) for name in shard], read, dtype)
    if len(shards) > 1:
        total = sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes.values()) * (4 if dtype == 'float32' else 2)
        weight_map = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        atomic.write_json(folder / _INDEX, {'metadata': {'total_size': total}, 'weight_map': weight_map})
    atomic.write_json(folder / 'config.json', config)


def _shards(shapes: dict[str, tuple[int, ...]], item_bytes: int, shard_bytes: int) -> list[list[str]]:
    """Names file by file; a tensor larger than `shard_bytes` has a file of its own."""
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
