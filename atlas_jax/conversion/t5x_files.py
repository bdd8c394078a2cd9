"""The files of a T5X checkpoint: one msgpack file with the tree, and a zarr folder for every array that is not inlined in it."""

import dataclasses
import itertools
import math
import pathlib
from typing import Any

import ml_dtypes
import msgpack
import numpy as np
import tensorstore as ts

from atlas_jax import errors
from atlas_jax.conversion import hf_files

FILE = 'checkpoint'
VERSION = 3
BLOCK_BYTES = 1 << 30
# msgpack's extension types as flax numbers them
ARRAY, COMPLEX, SCALAR = 1, 2, 3
_CHUNKED = '__msgpack_chunked_array__'
_NUMPY_DTYPES = ('float16', 'float32', 'float64', 'int8', 'int16', 'int32', 'int64', 'uint8', 'uint16', 'uint32', 'uint64', 'bool')
_DTYPES = {name: np.dtype(name) for name in _NUMPY_DTYPES} | {'bfloat16': np.dtype(ml_dtypes.bfloat16)}
_ZARR_DTYPES = ('<f2', '<f4', '<f8', '>f2', '>f4', '>f8', 'bfloat16')
_BROKEN = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError, MemoryError,
           msgpack.exceptions.UnpackException)


@dataclasses.dataclass(frozen=True)
class _Inlined:
    """An array in the msgpack file."""

    array: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def read(self, layers: slice | None) -> np.ndarray:
        return self.array if layers is None else self.array[:, layers]


@dataclasses.dataclass(frozen=True)
class _Chunked:
    """An array in the msgpack file, above 1 GiB and therefore in flat pieces."""

    shape: tuple[int, ...]
    pieces: tuple[np.ndarray, ...]

    def read(self, layers: slice | None) -> np.ndarray:
        array = np.concatenate([piece.reshape(-1) for piece in self.pieces]).reshape(self.shape)
        return array if layers is None else array[:, layers]


@dataclasses.dataclass(frozen=True)
class _Zarr:
    """An array in a folder of its own."""

    folder: pathlib.Path
    shape: tuple[int, ...]

    def read(self, layers: slice | None) -> np.ndarray:
        try:
            spec = {'driver': 'zarr', 'kvstore': {'driver': 'file', 'path': str(self.folder.absolute())}}
            store = ts.open(spec, open=True, read=True).result()
            return np.asarray((store if layers is None else store[:, layers]).read().result())
        except (ValueError, OSError) as error:  # TensorStore says ValueError of damaged data too
            problem = f'not a whole zarr array ({str(error)[:200]})'
            raise errors.ModelFolderError(f'{self.folder}: {problem}; copy the checkpoint again') from error


class Checkpoint:
    """A checkpoint's parameters (`target`), read one array at a time; optimiser state is skipped.

    path: the folder. step: the training step, 0 where it is not said.

    Raises ModelFolderError for a broken file, an unknown version, and an array whose folder, metadata or chunk is missing.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        tree = _state_tree(path)
        self.step = _step(tree)
        self._leaves: dict[str, Any] = {}
        self._cached: tuple[str, slice, np.ndarray] | None = None
        if not isinstance(tree.get('target'), dict):
            raise errors.ModelFolderError(f'{path / FILE}: no parameters ("target") in it; give a T5X checkpoint of a T5')
        try:
            self._collect(tree['target'], ())
        except _BROKEN as error:
            raise _not_whole(path, error) from error

    def names(self) -> set[str]:
        """Paths of all parameters, as `encoder/layers_0/mlp/wo/kernel`."""
        return set(self._leaves)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one array as it is stored."""
        return self._leaves[name].shape

    def read(self, name: str) -> np.ndarray:
        """One array as float32."""
        return self._float32(name, self._leaves[name].read(None))

    def read_layer(self, name: str, layer: int) -> np.ndarray:
        """One layer of an array that has the layers on axis 1, as float32.

        As many layers as make up BLOCK_BYTES are read at once and kept, since they are asked for one after another: a chunk holds some of
        all layers, and an array of the largest models is 4 GB.
        """
        if self._cached is None or self._cached[0] != name or not self._cached[1].start <= layer < self._cached[1].stop:
            self._cached = None  # before the next ones are read
            shape = self.shape(name)
            together = max(1, BLOCK_BYTES // max(1, 4 * math.prod(shape) // shape[1]))
            block = slice(layer, min(layer + together, shape[1]))
            self._cached = name, block, self._leaves[name].read(block)
        return self._float32(name, self._cached[2][:, layer - self._cached[1].start])

    def _float32(self, name: str, array: np.ndarray) -> np.ndarray:
        if array.dtype.kind not in 'fV':
            raise errors.ModelFolderError(f'{self.path}: {name} holds {array.dtype}, expected floating-point numbers')
        return np.ascontiguousarray(array, np.float32)

    def _collect(self, node: dict[str, Any], parents: tuple[str, ...]) -> None:
        for key, value in node.items():
            here = (*parents, str(key))
            if isinstance(value, _Inlined):
                self._leaves['/'.join(here)] = value
            elif isinstance(value, dict) and {'driver', 'kvstore', 'metadata'} <= set(value):
                self._leaves['/'.join(here)] = _open_zarr(self.path, '/'.join(here), value)
            elif isinstance(value, dict) and _CHUNKED in value:
                self._leaves['/'.join(here)] = _chunked(value)
            elif isinstance(value, dict):
                self._collect(value, here)
            elif value is not None:
                raise ValueError(f'{"/".join(here)} is no array')


def _state_tree(path: pathlib.Path) -> dict[str, Any]:
    """What T5X calls the optimizer: `target` and `state`."""
    try:
        with open(path / FILE, 'rb') as file:
            contents = msgpack.Unpacker(file, raw=False, strict_map_key=False, ext_hook=_extension, max_buffer_size=0).unpack()
    except _BROKEN as error:
        raise _not_whole(path, error) from error
    if not isinstance(contents, dict):
        raise errors.ModelFolderError(f'{path / FILE}: not a T5X checkpoint; give the folder checkpoint_<step> that T5X wrote')
    version = contents.get('version', VERSION)
    if version not in (2, VERSION):
        raise errors.ModelFolderError(f'{path / FILE}: T5X format version {str(version)[:20]}; versions 2 and {VERSION} are read')
    tree = contents.get('optimizer', contents)
    return tree if isinstance(tree, dict) else {}


def _step(tree: dict[str, Any]) -> int:
    state = tree.get('state')
    step = state.get('step') if isinstance(state, dict) else None
    array = step.array if isinstance(step, _Inlined) else np.asarray(step if isinstance(step, int) else 0)
    return int(array) if array.size == 1 and array.dtype.kind in 'iu' else 0


def _not_whole(path: pathlib.Path, error: BaseException) -> errors.ModelFolderError:
    if isinstance(error, errors.ModelFolderError):
        return error
    return errors.ModelFolderError(f'{path / FILE}: not a whole msgpack file of T5X ({type(error).__name__}); copy the checkpoint again')


def _extension(code: int, data: bytes) -> Any:
    if code == COMPLEX:
        return None
    if code not in (ARRAY, SCALAR):
        raise ValueError(f'msgpack extension {code}')
    shape, dtype, content = msgpack.unpackb(data, raw=True)
    return _Inlined(np.frombuffer(content, _DTYPES[dtype.decode()]).reshape([int(size) for size in shape]))


def _chunked(value: dict[str, Any]) -> _Chunked:
    shape = tuple(int(value['shape'][str(i)]) for i in range(len(value['shape'])))
    pieces = tuple(value['chunks'][str(i)].array for i in range(len(value['chunks'])))
    if sum(piece.size for piece in pieces) != math.prod(shape) or len({piece.dtype for piece in pieces}) != 1:
        raise ValueError('pieces of an array that do not fill it')
    return _Chunked(shape, pieces)


def _open_zarr(path: pathlib.Path, name: str, placeholder: dict[str, Any]) -> _Zarr:
    """The array's folder, where all of it is there: TensorStore reads a chunk that is missing as zeros."""
    kvstore = placeholder['kvstore']
    place = kvstore.get('path') or placeholder.get('path')  # at the top before TensorStore 0.1.14
    folder = path / pathlib.PurePosixPath(str(place).rstrip('/')).name
    metadata = hf_files.read_json(folder / '.zarray') if (folder / '.zarray').is_file() else None
    if not isinstance(metadata, dict) or not place:
        raise errors.ModelFolderError(f'{folder}: no .zarray in it, though {FILE} puts {name} there; copy the checkpoint again')
    shape, chunks, dtype = metadata['shape'], metadata['chunks'], metadata['dtype']
    announced = placeholder['metadata'].get('shape', shape)
    if not _are_sizes(shape) or not _are_sizes(chunks) or len(shape) != len(chunks) or 0 in chunks or dtype not in _ZARR_DTYPES:
        raise errors.ModelFolderError(f'{folder}/.zarray: shape {shape}, chunks {chunks}, dtype {dtype!r} describe no array of '
                                      'floating-point numbers; copy the checkpoint again')
    if list(announced) != list(shape):
        raise errors.ModelFolderError(f'{folder}: {name} has shape {list(shape)}, expected {list(announced)} by {FILE}; the two do not '
                                      'belong together')
    separator = metadata.get('dimension_separator', '.')
    for indices in itertools.product(*(range(-(-size // chunk)) for size, chunk in zip(shape, chunks, strict=True))):
        if not (folder / (separator.join(map(str, indices)) or '0')).is_file():
            raise errors.ModelFolderError(f'{folder}: chunk {separator.join(map(str, indices)) or "0"} of {name} is missing; '
                                          'copy the checkpoint again')
    return _Zarr(folder, tuple(shape))


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
