"""Files of torch.save, in the zip layout and the older one, read without PyTorch and without
unpickling (pickle_reader.py).
"""

import argparse
import contextlib
import math
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from atlas_jax import errors
from atlas_jax.conversion import pickle_reader
from atlas_jax.conversion.pickle_reader import Storage, Tensor

# PyTorch's MAGIC_NUMBER and PROTOCOL_VERSION. The older layout
# (torch.save(_use_new_zipfile_serialization=False)) has magic number, version, system, object and
# storage keys, each a pickle, then the storages.
_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001
# zipfile raises RuntimeError for encrypted members and NotImplementedError for unknown methods of
# compression.
_BROKEN = (*pickle_reader.BROKEN, zipfile.BadZipFile, zlib.error, struct.error,
           NotImplementedError, RuntimeError, OSError)
_PIECE_BYTES = 16 << 20
_ZIP = b'PK\x03\x04'  # a zip file's first record
_MAX_OPTIONS = 100_000  # values in `opt`; the original has about 150


@contextlib.contextmanager
def _mistakes_of(path: pathlib.Path) -> Iterator[None]:
    """Turns the errors of a broken or refused file into one line."""
    try:
        yield
    except pickle_reader.Refused as error:
        raise errors.ModelFolderError(
            f'{path}: its pickle holds {error}, which is neither a tensor, a number, a string nor '
            'a Namespace and is never executed; save the weights alone') from error
    except FileNotFoundError as error:
        raise errors.ModelFolderError(f'{path}: no such file; copy it again') from error
    except _BROKEN as error:
        raise errors.ModelFolderError(f'{path}: not a whole PyTorch file '
                                      f'({type(error).__name__}); copy it again') from error


class TorchFile:
    """The tensors of one file, read one at a time in the file's layout: linear layers [out, in].

    Attributes:
      path: the file.
      root: the saved object: dicts, lists, numbers, strings, a Namespace, and `Tensor`s. A single
        tensor has the name ''.

    Raises:
      ModelFolderError: the file is missing or broken, holds something other than tensors, numbers,
        strings, containers and Namespaces, or has no dict of tensors under the key `within`.
    """

    def __init__(self, path: pathlib.Path, within: str | None = None):
        self.open(path)
        tensors = {'': self.root} if isinstance(self.root, Tensor) else self.root
        if within is not None:
            tensors = self.root.get(within) if isinstance(self.root, dict) else None
        if not isinstance(tensors, dict):
            place = f' under {within!r}' if within else ''
            raise errors.ModelFolderError(f'{path}: expected a dict of tensors{place}, found '
                                          f'{type(tensors).__name__}; give a file of model weights')
        self._tensors: dict[str, Tensor] = tensors
        # Checked now, so that a conversion does not fail halfway.
        for name, tensor in tensors.items():
            if not isinstance(name, str) or not isinstance(tensor, Tensor):
                raise errors.ModelFolderError(f'{path}: {str(name)[:100]} is no tensor but '
                                              f'{type(tensor).__name__}; give a file of model '
                                              'weights')

    def open(self, path: pathlib.Path) -> Any:
        """Returns the saved object of any type, and finds where its tensors are.

        Raises ModelFolderError.
        """
        self.path = path
        self._cached: tuple[str, bytearray] | None = None
        self._places: dict[str, Any] = {}
        with _mistakes_of(path), open(path, 'rb') as file:
            self._is_zip = file.read(4) == _ZIP
            self.root = self._read_zip() if self._is_zip else self._read_legacy(file)
        return self.root

    @property
    def options(self) -> dict[str, Any]:
        """The Namespace saved as `opt`, as a dict; empty if the file has no options.

        Raises ModelFolderError: it contains itself, or has too many values to be written as JSON.
        """
        found = self.root.get('opt') if isinstance(self.root, dict) else None
        if not isinstance(found, argparse.Namespace):
            return {}
        if not _is_small(found, _MAX_OPTIONS):
            raise errors.ModelFolderError(f'{self.path}: its options (opt) hold more than '
                                          f'{_MAX_OPTIONS:,} values; save the weights alone')
        return dict(vars(found))

    def names(self) -> set[str]:
        """Returns the names of all tensors."""
        return set(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of one tensor, without reading it."""
        return self._tensors[name].shape

    def read(self, name: str, dtype: type | None = np.float32) -> np.ndarray:
        """Reads one tensor, [...] of `dtype` (None: as stored).

        Raises ModelFolderError: its bytes are missing or damaged.
        """
        tensor = self._tensors[name]
        with _mistakes_of(self.path):
            # Storages are little-endian, as every machine is that JAX runs on.
            data = np.frombuffer(self._storage(tensor), tensor.storage.dtype)
            # as_strided refuses to start after the end, even without elements.
            if 0 in tensor.shape:
                return np.zeros(tensor.shape, dtype)
            # A tensor's bounds were checked against the announced size, so it must be the true
            # size before as_strided reads.
            if data.size != tensor.storage.elements:
                raise ValueError(f'{data.size} elements for {name}, expected '
                                 f'{tensor.storage.elements}')
            # PyTorch saves a transposed or sliced tensor as a view of its storage. It counts
            # strides in elements, numpy in bytes.
            strides = [stride * data.itemsize for stride in tensor.strides]
            view = np.lib.stride_tricks.as_strided(data[tensor.offset:], tensor.shape, strides,
                                                   writeable=False)
            return np.asarray(view, dtype)

    def _storage(self, tensor: Tensor) -> bytearray:
        """Reads a tensor's storage, and keeps one that other tensors may share."""
        storage = tensor.storage
        if self._cached is not None and self._cached[0] == storage.key:
            return self._cached[1]
        self._cached = None  # freed before the next storage is read: two would double the memory
        size = storage.elements * storage.dtype.itemsize
        if self._is_zip:
            # Checked before reading: a sparse file can claim terabytes.
            if self._places[storage.key].file_size != size:
                raise ValueError(f'{self._places[storage.key].file_size} bytes of a storage, '
                                 f'expected {size}')
            with zipfile.ZipFile(self.path) as archive, archive.open(
                    self._places[storage.key]) as file:
                content = _read_all(file)  # to the end, where zipfile compares the checksum
        else:
            start = self._places[storage.key]
            with open(self.path, 'rb') as file:
                file.seek(start)
                content = bytearray(file.read(size))
        # Tied weights and slices share a storage. A tensor that fills its storage does not.
        if math.prod(tensor.shape) < storage.elements:
            self._cached = storage.key, content
        return content

    def _read_zip(self) -> Any:
        with zipfile.ZipFile(self.path) as archive:
            records = {record.filename: record for record in archive.infolist()}
            pickles = [name for name in records if name.endswith('/data.pkl')]
            # torch.save never compresses; a compressed record could be a zip bomb.
            if len(pickles) != 1 or any(record.compress_type != zipfile.ZIP_STORED
                                        for record in records.values()):
                raise ValueError('not the zip file of torch.save')
            folder = pickles[0].removesuffix('data.pkl')
            # PyTorch before 2.1 did not state the byte order; little-endian is assumed.
            order = folder + 'byteorder'
            if order in records and (records[order].file_size > 16
                                     or archive.read(order) != b'little'):
                raise ValueError('not little-endian')
            self._places = {
                name.removeprefix(folder + 'data/'): record
                for name, record in records.items()
                if name.startswith(folder + 'data/')}
            with archive.open(pickles[0]) as file:
                return pickle_reader.load_pickle(file)

    def _read_legacy(self, file: IO[bytes]) -> Any:
        file.seek(0)
        load = pickle_reader.load_pickle
        if load(file) != _LEGACY_MAGIC or load(file) != _LEGACY_VERSION:
            raise ValueError('not the file of torch.save')
        load(file)  # the writer's system
        storages: dict[str, Storage] = {}
        root = load(file, storages)
        # In the order of this list: 8 bytes with the number of elements, then the elements.
        for key in load(file):
            # Hashing nested tuples can take exponential time.
            if not isinstance(key, str):
                raise ValueError('a storage with a key that is not a string')
            elements = int.from_bytes(file.read(8), 'little')
            # Skipped; `read` seeks the place.
            size = elements * storages[key].dtype.itemsize
            self._places[key] = file.tell()
            file.seek(size, 1)
        return root


def read_object(path: pathlib.Path) -> Any:
    """Returns the object in a file of pickle or torch.save, as `load_pickle` does.

    Raises ModelFolderError: the same errors as TorchFile.
    """
    with _mistakes_of(path), open(path, 'rb') as file:
        is_zip = file.read(4) == _ZIP
        file.seek(0)
        # A plain pickle begins with its object, the older layout with a number.
        if not is_zip and (found := pickle_reader.load_pickle(file)) != _LEGACY_MAGIC:
            return found
    return TorchFile.__new__(TorchFile).open(path)


def _read_all(file: IO[bytes]) -> bytearray:
    """Reads to the end in pieces: reading at once would hold the content twice."""
    content = bytearray()
    while piece := file.read(_PIECE_BYTES):
        content += piece
    return content


def _is_small(value: Any, limit: int) -> bool:
    """Returns True if a walk through all containers meets at most `limit` values; a shared value
    counts each time.
    """
    # 27 nested tuples that each hold the next one twice take 110 bytes in a pickle and have 2**27
    # leaves; a list may hold itself.
    left = [value]
    for _ in range(limit):
        if not left:
            return True
        value = left.pop()
        children = vars(value).values() if isinstance(
            value, argparse.Namespace) else value.values() if isinstance(value, dict) else value
        if isinstance(value, argparse.Namespace | dict | list | tuple):
            if len(children) > limit:
                return False
            left.extend(children)
        if len(left) > limit:
            return False
    return not left
