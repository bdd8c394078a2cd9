"""The arrays of a T5X checkpoint: inlined in its msgpack file, or stored as zarr, in folders or in
one OCDBT database.

An array's shape, chunks and codecs are checked before memory is allocated and before TensorStore
sees them. Every chunk must exist, because zarr reads a missing one as zeros.
"""

import dataclasses
import functools
import itertools
import math
import os
import pathlib
from typing import Any, TypeGuard

import numpy as np
import tensorstore as ts

from atlas_jax import errors
from atlas_jax.conversion import hf_files
from atlas_jax.io import untrusted

# The file that marks an OCDBT database; Orbax writes one for all arrays of a train state.
DATABASE = 'manifest.ocdbt'
# zarr's names: byte order, kind, bytes. `bfloat16` is TensorStore's extension. T5X writes <f4 and
# bfloat16.
_ZARR_FLOATS = ('<f2', '<f4', '<f8', '>f2', '>f4', '>f8', 'bfloat16')
_ZARR_INTEGERS = ('<i4', '<i8')
# TensorStore allocates a whole chunk before it reads a byte, and an abort cannot be caught.
_MAX_CHUNK_BYTES = 1 << 30
_MAX_SIZE = 1 << 40  # elements in an array
_COMPRESSORS = ('blosc', 'bz2', 'gzip', 'zlib', 'zstd', None)
# Caches a database's tree of keys: each chunk is looked up, which would otherwise read files.
_CACHED_BYTES = 1 << 26
# TensorStore reads the whole manifest. It lists the versions of the tree; Orbax makes one or two.
_MAX_MANIFEST_BYTES = 1 << 26


@dataclasses.dataclass(frozen=True)
class Inlined:
    """An array in the msgpack file."""

    array: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape."""
        return self.array.shape

    def read(self, layers: slice | None) -> np.ndarray:
        """Returns the array, or some of its layers [in, layers, ...]."""
        return self.array if layers is None else self.array[:, layers]


@dataclasses.dataclass(frozen=True)
class Chunked:
    """An array above 1 GiB, in flat pieces in the msgpack file."""

    shape: tuple[int, ...]
    pieces: tuple[np.ndarray, ...]

    def read(self, layers: slice | None) -> np.ndarray:
        """Returns the array, or some of its layers [in, layers, ...]."""
        # flax flattens in C order and cuts at 1 GiB, so a layer may lie across two pieces.
        array = np.concatenate([piece.reshape(-1) for piece in self.pieces]).reshape(self.shape)
        return array if layers is None else array[:, layers]


@dataclasses.dataclass(frozen=True)
class Zarr:
    """An array of a Store: its place for messages, TensorStore's kvstore, and its shape."""

    place: pathlib.Path
    kvstore: dict[str, Any]
    shape: tuple[int, ...]

    def read(self, layers: slice | None) -> np.ndarray:
        """Returns the array, or some of its layers [in, layers, ...].

        Raises ModelFolderError if a chunk is damaged.
        """
        try:
            # Chunks, compressor and dtype come from .zarray: the placeholder may belong to another
            # save.
            store = ts.open({'driver': 'zarr', 'kvstore': self.kvstore}, open=True,
                            read=True).result()
            return np.asarray((store if layers is None else store[:, layers]).read().result())
        except (ValueError, OSError) as error:  # TensorStore raises ValueError for damaged data too
            problem = f'not a whole zarr array ({_shown(error)})'
            raise errors.ModelFolderError(
                f'{self.place}: {problem}; copy the checkpoint again') from error


Leaf = Inlined | Chunked | Zarr


class Store:
    """The zarr arrays of a checkpoint, each in its own folder or all in one OCDBT database."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.is_database = (folder / DATABASE).is_file()

    def open(self, name: str, array: str, announced: object = None, integers: bool = False) -> Zarr:
        """Checks an array's metadata, and that every chunk exists.

        Args:
          name: the parameter's name, for messages.
          array: the array's name in the folder or database.
          announced: the shape in the checkpoint's tree; None if the tree does not state it.
          integers: expects integers instead of floating-point numbers.

        Raises:
          ModelFolderError: no such array, metadata that T5X does not write, or a chunk is missing.
        """
        place = _inside(self.folder, array)
        metadata = self._metadata(place, array)
        if not isinstance(metadata, dict) or not array:
            raise errors.ModelFolderError(f'{place}: no .zarray in it, though the checkpoint puts '
                                          f'{name} there; copy the checkpoint again')
        shape, chunks, separator = _checked(place / '.zarray', metadata,
                                            _ZARR_INTEGERS if integers else _ZARR_FLOATS)
        # Folders of other checkpoints have the same name.
        if announced is not None and announced != shape:
            raise errors.ModelFolderError(f'{place}: {name} has shape {shape}, expected '
                                          f'{str(announced)[:80]} by the checkpoint; the two do '
                                          'not belong together')
        # -(-a // b) rounds up: the last chunk of an axis may be partial.
        numbers = [-(-size // chunk) for size, chunk in zip(shape, chunks, strict=True)]
        # Counted first: a forged shape could have too many chunks to look up one by one.
        if math.prod(numbers) > (room := self._room(place)):
            unit = 'bytes' if self.is_database else 'files'
            raise errors.ModelFolderError(f'{place}: {room} {unit} for the {math.prod(numbers)} '
                                          f'chunks of {name}; copy the checkpoint again')
        for indices in itertools.product(*map(range, numbers)):
            # One file per chunk, named by its indices: `1.3`. A scalar has one chunk, `0`.
            chunk = separator.join(map(str, indices)) or '0'
            if not self._has(place, array, chunk):
                raise errors.ModelFolderError(f'{place}: chunk {chunk} of {name} is missing; copy '
                                              'the checkpoint again')
        return Zarr(place, self._kvstore(place, array), tuple(shape))

    def _metadata(self, place: pathlib.Path, array: str) -> Any:
        if not self.is_database:
            return hf_files.read_json(place / '.zarray') if (place / '.zarray').is_file() else None
        try:
            found = self._keys.read(f'{array}/.zarray').result()
            return untrusted.parse_json(found.value) if found.state == 'value' else None
        except (ValueError, OSError) as error:
            raise self._damaged(error) from error

    def _has(self, place: pathlib.Path, array: str, chunk: str) -> bool:
        if not self.is_database:
            return _inside(place, chunk).is_file()
        key = f'{array}/{chunk}'
        try:
            # One key at a time: a forged tree of few bytes may list keys endlessly.
            return bool(self._keys.list(ts.KvStore.KeyRange(key, f'{key}\0')).result())
        except (ValueError, OSError) as error:
            raise self._damaged(error) from error

    def _room(self, place: pathlib.Path) -> int:
        """Returns an upper bound for the number of chunks: the array's files, or the database's
        bytes.
        """
        if not self.is_database:
            return sum(len(names) for _, _, names in os.walk(place))
        return self._database_bytes

    def _kvstore(self, place: pathlib.Path, array: str) -> dict[str, Any]:
        if not self.is_database:
            return {'driver': 'file', 'path': str(place.absolute())}
        return {**self._database, 'path': f'{array}/'}

    @property
    def _database(self) -> dict[str, Any]:
        return {'driver': 'ocdbt', 'base': {'driver': 'file', 'path': f'{self.folder.absolute()}/'}}

    @functools.cached_property
    def _keys(self) -> Any:
        # TensorStore would wait forever for a pipe in place of a data file.
        for file in self._database_files:
            untrusted.require_regular_file(file)
        untrusted.read_bytes(self.folder / DATABASE, _MAX_MANIFEST_BYTES)
        context = ts.Context({'cache_pool': {'total_bytes_limit': _CACHED_BYTES}})
        return ts.KvStore.open(self._database, context=context).result()

    @functools.cached_property
    def _database_bytes(self) -> int:
        return sum(file.stat().st_size for file in self._database_files if file.is_file())

    @functools.cached_property
    def _database_files(self) -> list[pathlib.Path]:
        return [file for file in self.folder.rglob('*') if not file.is_dir()]

    def _damaged(self, error: BaseException) -> errors.ModelFolderError:
        return errors.ModelFolderError(f'{self.folder}: not a whole OCDBT database '
                                       f'({_shown(error)}); copy the checkpoint again')


def _shown(error: BaseException) -> str:
    return ' '.join(str(error).split())[:200]


def _inside(folder: pathlib.Path, name: str) -> pathlib.Path:
    try:
        return untrusted.inside(folder, name)
    except ValueError as error:
        raise errors.ModelFolderError(f'{folder}: {error}; do not use these files') from error


def _checked(path: pathlib.Path, metadata: dict[str, Any],
             dtypes: tuple[str, ...]) -> tuple[list[int], list[int], str]:
    """Returns (shape, chunks, separator) of a .zarray.

    Raises ModelFolderError for metadata that TensorStore must not see.
    """
    shape, chunks, dtype = metadata.get('shape'), metadata.get('chunks'), metadata.get('dtype')
    if (not _are_sizes(shape) or not _are_sizes(chunks) or len(shape) != len(chunks)
            or 0 in chunks or dtype not in dtypes):
        kind = 'integers' if dtypes == _ZARR_INTEGERS else 'floating-point numbers'
        raise errors.ModelFolderError(
            f'{path}: shape {str(shape)[:80]}, chunks {str(chunks)[:80]}, dtype '
            f'{str(dtype)[:80]!r} describe no array of {kind}; copy the checkpoint again')
    if math.prod(chunks) > _MAX_CHUNK_BYTES // 8 or math.prod(shape) > _MAX_SIZE:
        raise errors.ModelFolderError(f'{path}: shape {str(shape)[:80]} in chunks '
                                      f'{str(chunks)[:80]} is larger than any T5 is written in; '
                                      'do not use these files')
    compressor = metadata.get('compressor')
    codec = compressor.get('id') if isinstance(compressor, dict) else compressor
    # zarr puts chunks into files 0.1 or into folders 0/1.
    separator = metadata.get('dimension_separator', '.')
    if (codec not in _COMPRESSORS or metadata.get('order', 'C') not in ('C', 'F')
            or separator not in ('.', '/') or metadata.get('filters')):
        raise errors.ModelFolderError(f'{path}: a compressor, order, separator or filter that T5X '
                                      'does not write; convert the checkpoint with T5X')
    return shape, chunks, separator


def _are_sizes(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and len(values) <= 8 and all(
        type(value) is int and 0 <= value < 1 << 40 for value in values)
