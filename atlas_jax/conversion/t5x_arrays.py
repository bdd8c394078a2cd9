"""The arrays of a T5X checkpoint: inlined in its msgpack file, or stored as zarr, in folders or in one OCDBT database.

Nothing is allocated for an array, and TensorStore sees none of its metadata, before shape, chunks and codecs were checked. Every chunk is
looked for, since zarr reads a missing one as zeros.
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

# The file by which an OCDBT database is recognised; Orbax writes one for all arrays of a train state.
DATABASE = 'manifest.ocdbt'
# zarr's names: byte order, kind, bytes; `bfloat16` is TensorStore's extension. T5X itself writes <f4 and bfloat16.
_ZARR_FLOATS = ('<f2', '<f4', '<f8', '>f2', '>f4', '>f8', 'bfloat16')
_ZARR_INTEGERS = ('<i4', '<i8')
# What zarr's other settings may be: TensorStore would allocate a whole chunk before it looks at a byte, and an abort cannot be caught.
_MAX_CHUNK_BYTES = 1 << 30
_MAX_SIZE = 1 << 40  # elements of an array
_COMPRESSORS = ('blosc', 'bz2', 'gzip', 'zlib', 'zstd', None)
# Of a database's tree of keys, which is asked for every chunk; without it each question reads files.
_CACHED_BYTES = 1 << 26
# TensorStore reads the manifest whole. It lists the versions of the tree, of which Orbax makes one or two.
_MAX_MANIFEST_BYTES = 1 << 26


@dataclasses.dataclass(frozen=True)
class Inlined:
    """An array in the msgpack file."""

    array: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.array.shape

    def read(self, layers: slice | None) -> np.ndarray:
        """Returns the array, or some of its layers [in, layers, ...]."""
        return self.array if layers is None else self.array[:, layers]


@dataclasses.dataclass(frozen=True)
class Chunked:
    """An array in the msgpack file in flat pieces, for it is above 1 GiB."""

    shape: tuple[int, ...]
    pieces: tuple[np.ndarray, ...]

    def read(self, layers: slice | None) -> np.ndarray:
        """Returns the array, or some of its layers [in, layers, ...]."""
        # flax flattens in C order and cuts at 1 GiB, whatever the axes; a layer may lie across two pieces.
        array = np.concatenate([piece.reshape(-1) for piece in self.pieces]).reshape(self.shape)
        return array if layers is None else array[:, layers]


@dataclasses.dataclass(frozen=True)
class Zarr:
    """An array of a Store: the place of it for messages, TensorStore's kvstore, and the shape."""

    place: pathlib.Path
    kvstore: dict[str, Any]
    shape: tuple[int, ...]

    def read(self, layers: slice | None) -> np.ndarray:
        """Returns the array, or some of its layers [in, layers, ...]. Raises ModelFolderError if a chunk is damaged."""
        try:
            # Chunks, compressor and dtype come from .zarray: the placeholder's may be those of another save.
            store = ts.open({'driver': 'zarr', 'kvstore': self.kvstore}, open=True, read=True).result()
            return np.asarray((store if layers is None else store[:, layers]).read().result())
        except (ValueError, OSError) as error:  # TensorStore raises ValueError for damaged data too
            problem = f'not a whole zarr array ({_shown(error)})'
            raise errors.ModelFolderError(f'{self.place}: {problem}; copy the checkpoint again') from error


Leaf = Inlined | Chunked | Zarr


class Store:
    """The folder that holds the zarr arrays of a checkpoint, each in a folder of its own or all in one OCDBT database."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.is_database = (folder / DATABASE).is_file()

    def open(self, name: str, array: str, announced: object = None, integers: bool = False) -> Zarr:
        """Checks an array's metadata, and that every chunk is there.

        Args:
          name: of the parameter, for messages.
          array: the array's name in the folder or database.
          announced: the shape that the checkpoint's tree has for it; None where it has none.
          integers: takes an array of integers in place of one of floating-point numbers.

        Raises:
          ModelFolderError: no such array, metadata that T5X does not write, or a chunk is missing.
        """
        place = _inside(self.folder, array)
        metadata = self._metadata(place, array)
        if not isinstance(metadata, dict) or not array:
            raise errors.ModelFolderError(f'{place}: no .zarray in it, though the checkpoint puts {name} there; copy the checkpoint again')
        shape, chunks, separator = _checked(place / '.zarray', metadata, _ZARR_INTEGERS if integers else _ZARR_FLOATS)
        # The folder of another checkpoint has the same name.
        if announced is not None and announced != shape:
            raise errors.ModelFolderError(f'{place}: {name} has shape {shape}, expected {str(announced)[:80]} by the checkpoint; the two '
                                          'do not belong together')
        # -(-a // b) rounds up: the last chunk of an axis may be partial.
        numbers = [-(-size // chunk) for size, chunk in zip(shape, chunks, strict=True)]
        # Counted first: a forged shape has more chunks than could be looked for one by one.
        if math.prod(numbers) > (room := self._room(place)):
            raise errors.ModelFolderError(f'{place}: {room} {"bytes" if self.is_database else "files"} for the {math.prod(numbers)} chunks '
                                          f'of {name}; copy the checkpoint again')
        for indices in itertools.product(*map(range, numbers)):
            # One file a chunk, its indices joined: `1.3`. A scalar has no index and one chunk, `0`.
            chunk = separator.join(map(str, indices)) or '0'
            if not self._has(place, array, chunk):
                raise errors.ModelFolderError(f'{place}: chunk {chunk} of {name} is missing; copy the checkpoint again')
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
            # One key at a time: a forged tree of few bytes may list without an end.
            return bool(self._keys.list(ts.KvStore.KeyRange(key, f'{key}\0')).result())
        except (ValueError, OSError) as error:
            raise self._damaged(error) from error

    def _room(self, place: pathlib.Path) -> int:
        """Returns more than the chunks that may lie there: the array's files, or the bytes of the database."""
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
        # A pipe in place of a data file would keep TensorStore waiting.
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
        return errors.ModelFolderError(f'{self.folder}: not a whole OCDBT database ({_shown(error)}); copy the checkpoint again')


def _shown(error: BaseException) -> str:
    return ' '.join(str(error).split())[:200]


def _inside(folder: pathlib.Path, name: str) -> pathlib.Path:
    try:
        return untrusted.inside(folder, name)
    except ValueError as error:
        raise errors.ModelFolderError(f'{folder}: {error}; do not use these files') from error


def _checked(path: pathlib.Path, metadata: dict[str, Any], dtypes: tuple[str, ...]) -> tuple[list[int], list[int], str]:
    """Returns (shape, chunks, separator) of a .zarray. Raises ModelFolderError for what TensorStore should not be shown."""
    shape, chunks, dtype = metadata.get('shape'), metadata.get('chunks'), metadata.get('dtype')
    if not _are_sizes(shape) or not _are_sizes(chunks) or len(shape) != len(chunks) or 0 in chunks or dtype not in dtypes:
        raise errors.ModelFolderError(f'{path}: shape {str(shape)[:80]}, chunks {str(chunks)[:80]}, dtype {str(dtype)[:80]!r} describe no '
                                      f'array of {"integers" if dtypes == _ZARR_INTEGERS else "floating-point numbers"}; copy the '
                                      'checkpoint again')
    if math.prod(chunks) > _MAX_CHUNK_BYTES // 8 or math.prod(shape) > _MAX_SIZE:
        raise errors.ModelFolderError(f'{path}: shape {str(shape)[:80]} in chunks {str(chunks)[:80]} is larger than any T5 is written in; '
                                      'do not use these files')
    compressor = metadata.get('compressor')
    codec = compressor.get('id') if isinstance(compressor, dict) else compressor
    # zarr puts chunks into files 0.1, or into folders 0/1.
    separator = metadata.get('dimension_separator', '.')
    if codec not in _COMPRESSORS or metadata.get('order', 'C') not in ('C', 'F') or separator not in ('.', '/') or metadata.get('filters'):
        raise errors.ModelFolderError(f'{path}: a compressor, order, separator or filter that T5X does not write; convert the checkpoint '
                                      'with T5X')
    return shape, chunks, separator


def _are_sizes(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and len(values) <= 8 and all(type(value) is int and 0 <= value < 1 << 40 for value in values)
