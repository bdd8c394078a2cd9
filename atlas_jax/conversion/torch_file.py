"""Files of torch.save, zip and the older layout, read without PyTorch and without unpickling (torch_pickle.py)."""

import argparse
import contextlib
import math
import pathlib
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from atlas_jax import errors
from atlas_jax.conversion import torch_pickle

# torch.save(_use_new_zipfile_serialization=False): magic number, version, system, object and storage keys, each a pickle; then the storages
_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001
_BROKEN = (*torch_pickle.BROKEN, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OSError)


_PIECE_BYTES = 16 << 20


class TorchFile:
    """Tensors of one file, read one at a time.

    path: for messages.
    root: what was saved: dicts, lists, numbers, strings, a Namespace, and `torch_pickle.Tensor`s.

    Raises ModelFolderError when the file is missing or broken, when something in it is neither tensor, number, string, container nor
    Namespace, and when `within` names no dict of tensors.
    """

    def __init__(self, path: pathlib.Path, within: str | None = None):
        self.path = path
        self._cached: tuple[str, bytearray] | None = None
        self._places: dict[str, Any] = {}
        with self._mistakes_of_the_file(), open(path, 'rb') as file:
            self._is_zip = file.read(4) == b'PK\x03\x04'
            self.root = self._read_zip() if self._is_zip else self._read_legacy(file)
        tensors = self.root if within is None else self.root.get(within) if isinstance(self.root, dict) else None
        if not isinstance(tensors, dict):
            raise errors.ModelFolderError(f'{path}: expected a dict of tensors{f" under {within!r}" if within else ""}, found '
                                          f'{type(tensors).__name__}; give a file of model weights')
        self._tensors: dict[str, torch_pickle.Tensor] = tensors
        for name, tensor in tensors.items():
            if not isinstance(name, str) or not isinstance(tensor, torch_pickle.Tensor):
                raise errors.ModelFolderError(f'{path}: {str(name)[:100]} is no tensor but {type(tensor).__name__}; give a file of model '
                                              'weights')

    @property
    def options(self) -> dict[str, Any]:
        """The Namespace saved as `opt`, as a dict; empty where there is none."""
        found = self.root.get('opt') if isinstance(self.root, dict) else None
        return dict(vars(found)) if isinstance(found, argparse.Namespace) else {}

    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor."""
        return self._tensors[name].shape

    def read(self, name: str) -> np.ndarray:
        """One tensor as float32. Raises ModelFolderError where its bytes are missing or damaged."""
        tensor = self._tensors[name]
        with self._mistakes_of_the_file():
            data = np.frombuffer(self._storage(tensor), tensor.storage.dtype)
            if 0 in tensor.shape:
                return np.zeros(tensor.shape, np.float32)
            if data.size != tensor.storage.elements:
                raise ValueError(f'{data.size} elements for {name}, expected {tensor.storage.elements}')
            strides = [stride * data.itemsize for stride in tensor.strides]
            view = np.lib.stride_tricks.as_strided(data[tensor.offset:], tensor.shape, strides, writeable=False)
            return np.asarray(view, np.float32)

    @contextlib.contextmanager
    def _mistakes_of_the_file(self) -> Iterator[None]:
        """Turns what a broken or unwelcome file provokes into one line."""
        try:
            yield
        except torch_pickle.Refused as error:
            raise errors.ModelFolderError(f'{self.path}: its pickle holds {error}, which is neither a tensor, a number, a string nor a '
                                          'Namespace and is never executed; save the weights alone') from error
        except FileNotFoundError as error:
            raise errors.ModelFolderError(f'{self.path}: no such file; copy it again') from error
        except _BROKEN as error:
            raise errors.ModelFolderError(f'{self.path}: not a whole PyTorch file ({type(error).__name__}); copy it again') from error

    def _storage(self, tensor: torch_pickle.Tensor) -> bytearray:
        """Its storage; one that holds more than this tensor is kept for the next."""
        storage = tensor.storage
        if self._cached is not None and self._cached[0] == storage.key:
            return self._cached[1]
        self._cached = None  # before the next one is read
        if self._is_zip:
            with zipfile.ZipFile(self.path) as archive, archive.open(self._places[storage.key]) as file:
                content = _read_all(file)  # to the end, where zipfile compares the checksum
        else:
            start, size = self._places[storage.key]
            with open(self.path, 'rb') as file:
                file.seek(start)
                content = bytearray(file.read(size))
        if math.prod(tensor.shape) < storage.elements:
            self._cached = storage.key, content
        return content

    def _read_zip(self) -> Any:
        with zipfile.ZipFile(self.path) as archive:
            records = {record.filename: record for record in archive.infolist()}
            pickles = [name for name in records if name.endswith('/data.pkl')]
            if len(pickles) != 1 or any(record.compress_type != zipfile.ZIP_STORED for record in records.values()):
                raise ValueError('not the zip file of torch.save')
            folder = pickles[0].removesuffix('data.pkl')
            order = folder + 'byteorder'
            if order in records and archive.read(order) != b'little':
                raise ValueError('not little-endian')
            self._places = {name.removeprefix(folder + 'data/'): record for name, record in records.items()
                            if name.startswith(folder + 'data/')}
            with archive.open(pickles[0]) as file:
                return torch_pickle.load(file)

    def _read_legacy(self, file) -> Any:
        file.seek(0)
        if torch_pickle.load(file) != _LEGACY_MAGIC or torch_pickle.load(file) != _LEGACY_VERSION:
            raise ValueError('not the file of torch.save')
        torch_pickle.load(file)
        storages: dict[str, torch_pickle.Storage] = {}
        root = torch_pickle.load(file, storages)
        for key in torch_pickle.load(file):
            elements = int.from_bytes(file.read(8), 'little')
            size = elements * storages[key].dtype.itemsize
            self._places[key] = file.tell(), size
            file.seek(size, 1)
        return root


def _read_all(file) -> bytearray:
    """Piece by piece: reading at once holds the content twice."""
    content = bytearray()
    while piece := file.read(_PIECE_BYTES):
        content += piece
    return content
