"""The files of a Hugging Face model folder: config.json and safetensors, whole or in shards."""

import json
import os
import pathlib
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from atlas_jax import errors
from atlas_jax.io import atomic

_SINGLE, _INDEX = 'model.safetensors', 'model.safetensors.index.json'


def read_json(path: pathlib.Path) -> Any:
    """The value in a JSON file of a model folder; raises ModelFolderError when it is missing or broken."""
    if not path.is_file():
        raise errors.ModelFolderError(f'{path}: no such file; give a Hugging Face model folder (config.json and {_SINGLE})')
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
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
    """The tensors of a model folder, read one at a time as float32.

    Raises ModelFolderError when no safetensors file is there, when one is broken, or when a shard lacks what the index promises.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self._files = {}
        self._file_of: dict[str, str] = {}
        if (folder / _SINGLE).is_file():
            self._file_of = {name: _SINGLE for name in self._open(_SINGLE).keys()}
        elif (folder / _INDEX).is_file():
            self._read_index()
        else:
            hint = f'give a Hugging Face model folder with {_SINGLE}'
            if (folder / 'pytorch_model.bin').is_file():
                hint = 'pytorch_model.bin is a pickle and is not read: save the model with save_pretrained(..., safe_serialization=True)'
            raise errors.ModelFolderError(f'{folder}: found neither {_SINGLE} nor {_INDEX}; {hint}')

    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor, without reading it."""
        return tuple(self._open(self._file_of[name]).get_slice(name).get_shape())

    def read(self, name: str) -> np.ndarray:
        """One tensor as float32."""
        return np.asarray(self._open(self._file_of[name]).get_tensor(name), dtype=np.float32)

    def _read_index(self) -> None:
        path = self.folder / _INDEX
        index = read_json(path)
        self._file_of = index.get('weight_map') if isinstance(index, dict) else None
        if not isinstance(self._file_of, dict):
            raise errors.ModelFolderError(f'{path}: no "weight_map"; copy the folder again')
        for name, file in self._file_of.items():
            if pathlib.PurePath(file).name != file:
                raise errors.ModelFolderError(f'{path}: the shard {file!r} of {name} is not a file name in this folder')
            if name not in self._open(file).keys():
                raise errors.ModelFolderError(f'{self.folder / file}: lacks {name}, which {_INDEX} promises; copy the folder again')

    def _open(self, file: str):
        if file not in self._files:
            path = self.folder / file
            if not path.is_file():
                raise errors.ModelFolderError(f'{path}: no such file, though {_INDEX} names it; copy the folder again')
            try:
                self._files[file] = safetensors.safe_open(path, 'numpy')
            except (safetensors.SafetensorError, OSError) as error:
                raise errors.ModelFolderError(f'{path}: not a whole safetensors file ({error}); copy it again') from error
        return self._files[file]


def write(folder: str | os.PathLike, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    """Writes config.json and model.safetensors, each atomically, the config last; makes the folder."""
    folder = pathlib.Path(folder)
    with atomic.writing(folder / _SINGLE, 'wb') as file:
        file.write(safetensors.numpy.save(tensors, metadata={'format': 'pt'}))
    atomic.write_json(folder / 'config.json', config)
