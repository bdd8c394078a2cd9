"""T5X checkpoints of a T5: read in all their layouts, and written in T5X's own, layers apart or
scanned.

A checkpoint is one msgpack file with the tree and a zarr folder for every array that is not inlined
in it (t5x_arrays.py), or a train state that Orbax wrote (t5x_orbax.py).

T5X's names are ours except in scanned layers: `encoder/encoder/X` holds all layers of
`encoder/layers_n/X`, on axis 1. Heads are joined or apart: [embed, heads * kv] or
[embed, heads, kv].
"""

import dataclasses
import functools
import math
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import msgpack
import numpy as np
import tensorstore as ts

from atlas_jax import errors
from atlas_jax.conversion import hf_names, t5x_arrays, t5x_orbax, weights
from atlas_jax.io import atomic
from atlas_jax.models import limits, t5

FILE = 'checkpoint'
# T5X's own number of this format (its VERSION). T5X reads 2 and above.
VERSION = 3
# A quarter of one parameter's layers in the 11B reader; all layers fit in the 3B one.
BLOCK_BYTES = 1 << 30
# msgpack's extension types as flax numbers them.
ARRAY, COMPLEX, SCALAR = 1, 2, 3
_CHUNKED = '__msgpack_chunked_array__'
# flax writes numpy's names into the msgpack file. A closed list, because np.dtype accepts many
# strings, and some mean Python objects.
_NUMPY_DTYPES = ('float16', 'float32', 'float64', 'int8', 'int16', 'int32', 'int64', 'uint8',
                 'uint16', 'uint32', 'uint64', 'bool')
_DTYPES = {name: np.dtype(name)
           for name in _NUMPY_DTYPES} | {'bfloat16': np.dtype(ml_dtypes.bfloat16)}
# Items in one map or list: msgpack allocates as many as a header announces.
_MAX_ITEMS = 1 << 20
# What truncated or altered files raise in msgpack, in numpy and in the code that walks the tree.
_BROKEN = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError,
           RecursionError, MemoryError, msgpack.exceptions.UnpackException)


class Checkpoint:
    """A checkpoint's parameters (`target`), read one array at a time, kernels as [in, out]. Skips
    the optimiser's state.

    Attributes:
      path: the folder.
      step: the training step; 0 if the file does not state it.

    Raises:
      ModelFolderError: a file is broken, the version is unknown, or an array's folder, metadata or
        chunk is missing.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        folder = t5x_orbax.state_folder(path) or path
        has_metadata = (folder / t5x_orbax.METADATA).is_file()
        # The file that holds the tree.
        self._file = folder / t5x_orbax.METADATA if has_metadata else folder / FILE
        tree = t5x_orbax.tree(folder) if has_metadata else _state_tree(folder)
        self._store = t5x_arrays.Store(folder)
        self._leaves: dict[str, t5x_arrays.Leaf] = {}
        self._cached: tuple[str, slice, np.ndarray] | None = None
        if not isinstance(tree.get('target'), dict):
            raise errors.ModelFolderError(f'{self._file}: no parameters ("target") in it; give a '
                                          'T5X checkpoint of a T5')
        try:
            self.step = self._step(tree)
            self._collect(tree['target'], ())
        except _BROKEN as error:
            raise _not_whole(self._file, error) from error

    def names(self) -> set[str]:
        """Returns the paths of all parameters, as `encoder/layers_0/mlp/wo/kernel`."""
        return set(self._leaves)

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of one array as it is stored."""
        return self._leaves[name].shape

    def read(self, name: str) -> np.ndarray:
        """Reads one array as float32. Raises ModelFolderError if it is damaged."""
        return self._float32(name, self._leaves[name].read(None))

    def read_layer(self, name: str, layer: int) -> np.ndarray:
        """Reads one layer [in, ...] of an array [in, layers, ...], as float32.

        Raises ModelFolderError if it is damaged.
        """
        if (self._cached is None or self._cached[0] != name
                or not self._cached[1].start <= layer < self._cached[1].stop):
            # Freed before the next read: two blocks would double the memory.
            self._cached = None
            # A chunk holds parts of all layers, so reading one layer decompresses every chunk; an
            # array of the largest models is 4 GB. Callers read layer after layer, so a block of
            # up to BLOCK_BYTES is read at once and kept.
            shape = self.shape(name)
            together = max(1, BLOCK_BYTES // max(1, 4 * math.prod(shape) // shape[1]))
            block = slice(layer, min(layer + together, shape[1]))
            self._cached = name, block, self._leaves[name].read(block)
        return self._float32(name, self._cached[2][:, layer - self._cached[1].start])

    def _float32(self, name: str, array: np.ndarray) -> np.ndarray:
        # In numpy, ml_dtypes' bfloat16 has kind V.
        if array.dtype.kind not in 'fV':
            raise errors.ModelFolderError(f'{self.path}: {name} holds {array.dtype}, expected '
                                          'floating-point numbers')
        return np.ascontiguousarray(array, np.float32)

    def _collect(self, node: dict[str, Any], parents: tuple[str, ...]) -> None:
        for key, value in node.items():
            here = (*parents, str(key))
            if isinstance(value, t5x_arrays.Inlined):
                self._leaves['/'.join(here)] = value
            # T5X recognises a placeholder by these three keys, too. No module of a T5 has these
            # names.
            elif isinstance(value, dict) and {'driver', 'kvstore', 'metadata'} <= set(value):
                self._leaves['/'.join(here)] = _open_placeholder(self._store, '/'.join(here), value)
            elif isinstance(value, str) and value.startswith(t5x_orbax.PLACEHOLDER):
                self._leaves['/'.join(here)] = self._store.open(
                    '/'.join(here), value.removeprefix(t5x_orbax.PLACEHOLDER))
            elif isinstance(value, dict) and _CHUNKED in value:
                self._leaves['/'.join(here)] = _chunked(value)
            elif isinstance(value, dict):
                self._collect(value, here)
            # Flax writes empty leaves as None.
            elif value is not None:
                raise ValueError(f'{"/".join(here)} is no array')

    def _step(self, tree: dict[str, Any]) -> int:
        state = tree.get('state')
        # An inlined int32 scalar, an integer, or an array of the store. Anything else counts as 0:
        # a missing step should not stop a conversion.
        step = state.get('step') if isinstance(state, dict) else None
        if isinstance(step, str) and step.startswith(t5x_orbax.PLACEHOLDER):
            try:
                array = self._store.open('step', step.removeprefix(t5x_orbax.PLACEHOLDER),
                                         integers=True).read(None)
            except errors.ModelFolderError:
                return 0
        else:
            array = step.array if isinstance(
                step, t5x_arrays.Inlined) else np.asarray(step if isinstance(step, int) else 0)
        return int(array) if array.size == 1 and array.dtype.kind in 'iu' else 0


def _state_tree(path: pathlib.Path) -> dict[str, Any]:
    """Reads the tree that T5X calls the optimizer: `target` and `state`."""
    if not (path / FILE).is_file():
        raise errors.ModelFolderError(f'{path}: neither a file {t5x_orbax.METADATA} nor {FILE} in '
                                      'it; copy the checkpoint again')
    try:
        with open(path / FILE, 'rb') as file:
            # max_buffer_size 0 lifts msgpack's limit of 100 MiB: arrays up to 1 GiB are inlined.
            # A stream, so that memory does not hold the file's bytes beside the arrays.
            contents = msgpack.Unpacker(file, raw=False, strict_map_key=False, ext_hook=_extension,
                                        max_buffer_size=0, max_array_len=_MAX_ITEMS,
                                        max_map_len=_MAX_ITEMS).unpack()
    except _BROKEN as error:
        raise _not_whole(path / FILE, error) from error
    if not isinstance(contents, dict):
        raise errors.ModelFolderError(f'{path / FILE}: not a T5X checkpoint; give the folder '
                                      'checkpoint_<step> that T5X wrote')
    # The oldest files hold only the state, without version and `optimizer`.
    version = contents.get('version', VERSION)
    if version not in (2, VERSION):
        raise errors.ModelFolderError(f'{path / FILE}: T5X format version {str(version)[:20]}; '
                                      f'versions 2 and {VERSION} are read')
    tree = contents.get('optimizer', contents)
    return tree if isinstance(tree, dict) else {}


def _not_whole(file: pathlib.Path, error: BaseException) -> errors.ModelFolderError:
    # It already names the array's folder.
    if isinstance(error, errors.ModelFolderError):
        return error
    kind = 'msgpack file' if file.name == FILE else 'tree'
    return errors.ModelFolderError(f'{file}: not a whole {kind} of T5X ({type(error).__name__}); '
                                   'copy the checkpoint again')


def _extension(code: int, data: bytes) -> Any:
    # Only the optimiser's state could be complex, and it is not read.
    if code == COMPLEX:
        return None
    if code not in (ARRAY, SCALAR):
        raise ValueError(f'msgpack extension {code}')
    # Payload [shape, dtype name, C-order bytes]. Read raw, as in flax, so the name is bytes. A
    # scalar has shape [].
    shape, dtype, content = msgpack.unpackb(data, raw=True)
    return t5x_arrays.Inlined(
        np.frombuffer(content, _DTYPES[dtype.decode()]).reshape([int(size) for size in shape]))


def _chunked(value: dict[str, Any]) -> t5x_arrays.Chunked:
    # flax turns lists into maps with the keys "0", "1", …, in any order.
    shape = tuple(int(value['shape'][str(i)]) for i in range(len(value['shape'])))
    pieces = tuple(value['chunks'][str(i)].array for i in range(len(value['chunks'])))
    # Compared now: reshape would fail much later, without naming the file.
    if sum(piece.size
           for piece in pieces) != math.prod(shape) or len({piece.dtype for piece in pieces}) != 1:
        raise ValueError('pieces of an array that do not fill it')
    return t5x_arrays.Chunked(shape, pieces)


def _open_placeholder(store: t5x_arrays.Store, name: str,
                      placeholder: dict[str, Any]) -> t5x_arrays.Zarr:
    """Opens the array of a placeholder that T5X itself wrote: TensorStore's spec of the array."""
    kvstore = placeholder['kvstore']
    if not isinstance(kvstore, dict) or not isinstance(placeholder['metadata'], dict):
        raise ValueError(f'an invalid placeholder of {name}')
    # TensorStore before 0.1.14 kept `path` beside `kvstore`.
    place = kvstore.get('path') or placeholder.get('path') or ''
    # Only the last name counts: the rest is where T5X wrote it (a dummy for a bucket). Newer
    # versions of TensorStore end the path with a slash.
    array = pathlib.PurePosixPath(str(place).rstrip('/')).name
    return store.open(name, array, placeholder['metadata'].get('shape'))


Read = Callable[[], np.ndarray]
# T5X's limit for an uncompressed chunk.
CHUNK_BYTES = 64 << 20
# T5X's own compression. Readers accept any; a test compares our files with recorded ones.
_COMPRESSOR = {'id': 'gzip', 'level': 1}
_ZARR_NAMES = {'float32': '<f4', 'bfloat16': 'bfloat16', 'float16': '<f2'}


def write_files(folder: pathlib.Path, arrays: Mapping[str, tuple[tuple[int, ...], Read]],
                dtype: str, step: int) -> None:
    """Writes a checkpoint's arrays one by one, then the msgpack file.

    Args:
      arrays: for each path in T5X's tree its shape and the function that reads it.

    Raises:
      DiskFullError: the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    placeholders = {}
    with atomic.storage_errors_are_user_errors(folder):
        for path, (shape, read) in arrays.items():
            placeholders[path] = _write_array(folder, 'target.' + path.replace('/', '.'), shape,
                                              read, dtype)
    # Without param_states, as T5X saves for inference: training from it starts with a fresh
    # optimiser.
    tree = {
        'version': VERSION, 'optimizer': {
            'target': hf_names.nest(placeholders), 'state': {'step': _inlined(np.int32(step))}}}
    # This file makes it a checkpoint, so a killed conversion leaves none.
    with atomic.writing(folder / FILE, 'wb') as file:
        file.write(msgpack.packb(tree))


def chunk_shape(shape: tuple[int, ...], item_bytes: int,
                limit_bytes: int = CHUNK_BYTES) -> list[int]:
    """Returns T5X's chunks: the whole array up to the limit, else the largest dimension shrinks to
    its next divisor until a chunk fits.
    """
    chunks = list(shape)
    while math.prod(chunks) * item_bytes > limit_bytes:
        # A divisor, because partial chunks would be padded.
        largest = max(range(len(chunks)), key=lambda axis: chunks[axis])
        chunks[largest] = next(
            size for size in range(chunks[largest] - 1, 0, -1) if shape[largest] % size == 0)
    return chunks


def _write_array(folder: pathlib.Path, name: str, shape: tuple[int, ...], read: Read,
                 dtype: str) -> dict[str, Any]:
    """Writes one array. Returns its placeholder in the tree."""
    numpy_dtype = np.dtype(ml_dtypes.bfloat16) if dtype == 'bfloat16' else np.dtype(dtype)
    metadata = {
        'shape': list(shape), 'chunks': chunk_shape(shape, numpy_dtype.itemsize),
        'compressor': _COMPRESSOR}
    # Without a fill value, chunks of zeros are written too; otherwise they would look missing.
    spec = {
        'driver': 'zarr', 'kvstore': {'driver': 'file', 'path': str((folder / name).absolute())},
        'metadata': {**metadata, 'dtype': _ZARR_NAMES[dtype], 'fill_value': None}}
    store = ts.open(spec, create=True).result()
    # The array does not change afterwards, so TensorStore need not copy it.
    store.write(np.asarray(read(), numpy_dtype),
                can_reference_source_data_indefinitely=True).result()
    # Relative to the checkpoint, with the slash that current TensorStore requires.
    return {
        'driver': 'zarr', 'dtype': dtype, 'kvstore': {'driver': 'file', 'path': f'{name}/'},
        'metadata': metadata}


def _inlined(value: np.generic) -> msgpack.ExtType:
    return msgpack.ExtType(ARRAY, msgpack.packb((value.shape, value.dtype.name, value.tobytes())))


# nn.scan puts the stack into a module of the same name: encoder/encoder/X has the layers,
# encoder/encoder_norm lies beside it.
_SCANNED = re.compile(r'(encoder/encoder|decoder/decoder)/(.+)')
_ATTENTION = re.compile(r'attention/(query|key|value|out)/kernel$')
_RELPOS = re.compile(r'(encoder|decoder)/layers_\d+/(relpos_bias/rel_embedding)')
# A parameter's place: its name in the checkpoint, and the layer on axis 1 or None.
_Place = tuple[str, int | None]


def of_checkpoint(checkpoint: Checkpoint) -> weights.Weights[t5.T5Config]:
    """Makes Weights of a checkpoint; infers the sizes from the shapes (weights.infer_t5).

    Raises:
      ModelFolderError: position biases differ between layers, or a parameter is missing, unknown or
        mis-shaped.
    """
    places = _places(checkpoint)
    # Compared with heads joined, as in our kernels.
    found = {path: _joined(path, _shape(checkpoint, place[0])) for path, place in places.items()}
    config = weights.infer_t5(checkpoint.path, found)
    expected = weights.expected_shapes(config)
    weights.check(checkpoint.path, found, expected, 'the sizes of its other parameters')
    # Joins separate heads: [embed, heads, kv] to [embed, heads * kv], [heads, kv, embed] to
    # [heads * kv, embed]. Both are head-major, so a reshape is enough once the layer is taken.
    return weights.Weights(config, expected,
                           lambda path: _take(checkpoint, places[path]).reshape(expected[path]))


def write(folder: pathlib.Path, opened: weights.Weights[t5.T5Config], scan: bool = False,
          dtype: str = 'float32', step: int = 0) -> None:
    """Writes a checkpoint of version 3, one array in memory at a time.

    Args:
      folder: becomes the checkpoint_<step> that T5X reads.
      scan: writes all layers of a parameter in one array, heads apart, as T5X's scalable_t5 does.
        Without it the names are those of T5X's minimal models.
      dtype: float32 or bfloat16.

    Raises:
      ConfigError: the format cannot store one of the model's settings.
      DiskFullError: the disk is full.
    """
    _check_defaults(opened)
    arrays: dict[str, tuple[tuple[int, ...], Read]]
    if scan:
        arrays = {
            _scanned_name(path): _scanned(opened, path, paths)
            for path, paths in opened.stacked().items()}
    else:
        arrays = {
            path: (opened.shapes[path], functools.partial(opened.read, path))
            for path in opened.order()}
    write_files(folder, arrays, dtype, step)


def _check_defaults(opened: weights.Weights[t5.T5Config]) -> None:
    inferred = weights.infer_t5('', opened.shapes)
    for field in dataclasses.fields(inferred):
        wanted, found = getattr(opened.config, field.name), getattr(inferred, field.name)
        # Neither dropout nor the computation's dtype changes the meaning of parameters.
        if wanted != found and field.name not in ('dropout_rate', 'dtype'):
            raise errors.ConfigError(f'{field.name} is {wanted}, which a T5X checkpoint cannot '
                                     f'say: it would be read as {found}; convert '
                                     'the reader to another kind')


def _places(checkpoint: Checkpoint) -> dict[str, _Place]:
    """Returns each parameter's place by our path.

    Layers that each have a position bias must have the same; the first one is taken.
    """
    places: dict[str, _Place] = {}
    # Sorted, so that the others are compared with the first layer's position bias.
    for name in sorted(checkpoint.names()):
        scanned = _SCANNED.fullmatch(name)
        if not scanned:
            _add(checkpoint, places, name, (name, None))
            continue
        shape = checkpoint.shape(name)
        if len(shape) < 2:
            raise errors.ModelFolderError(f'{checkpoint.path}: {name} has shape {list(shape)}, '
                                          'expected the layers on axis 1')
        if shape[1] > (most := limits.RANGES['num_layers'][1]):
            raise errors.ModelFolderError(f'{checkpoint.path}: {name} has {shape[1]:,} layers '
                                          f'(axis 1), expected at most {most}')
        for layer in range(shape[1]):
            _add(checkpoint, places, f'{scanned[1].split("/")[0]}/layers_{layer}/{scanned[2]}',
                 (name, layer))
    return places


def _add(checkpoint: Checkpoint, places: dict[str, _Place], path: str, place: _Place) -> None:
    relpos = _RELPOS.fullmatch(path)
    if relpos:
        path = f'{relpos[1]}/{relpos[2]}'
        if path in places and not np.array_equal(_take(checkpoint, places[path]),
                                                 _take(checkpoint, place)):
            raise errors.ModelFolderError(f'{checkpoint.path}: the layers have position biases of '
                                          f'their own ({place[0]}); a T5 shares one '
                                          'among its layers, and only that is supported')
    # One file with both layouts: only one of them was trained last.
    if path in places and not relpos:
        raise errors.ModelFolderError(f'{checkpoint.path}: both {places[path][0]} and {place[0]} '
                                      f'hold {path}')
    # The first of several equal position biases is read.
    places.setdefault(path, place)


def _take(checkpoint: Checkpoint, place: _Place) -> np.ndarray:
    name, layer = place
    return checkpoint.read(name) if layer is None else checkpoint.read_layer(name, layer)


def _shape(checkpoint: Checkpoint, name: str) -> tuple[int, ...]:
    """Returns the shape of one layer."""
    shape = checkpoint.shape(name)
    # [in, layers, ...] to [in, ...]
    return shape[:1] + shape[2:] if _SCANNED.fullmatch(name) else shape


def _joined(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape with heads and their dimensions on one axis."""
    attention = _ATTENTION.search(path)
    if not attention or len(shape) != 3:
        return shape
    if attention[1] == 'out':  # [heads, kv, embed]
        return shape[0] * shape[1], shape[2]
    return shape[0], shape[1] * shape[2]  # [embed, heads, kv]


def _scanned_name(path: str) -> str:
    """Returns T5X's name with scanned layers: encoder/layers/X becomes encoder/encoder/X."""
    # T5X scans the bias with the layers: encoder/encoder/relpos_bias/X.
    return re.sub(r'^(encoder|decoder)/(?:layers/|(?=relpos_bias/))', r'\1/\1/', path)


def _scanned(opened: weights.Weights[t5.T5Config], path: str,
             paths: list[str]) -> tuple[tuple[int, ...], Read]:
    """Returns a parameter's shape with its layers on axis 1, and the function that reads it."""
    config, side, shape = opened.config, path.split('/')[0], opened.shapes[paths[0]]
    if '/relpos_bias/' in path:  # T5X repeats the one bias for every layer
        paths = paths * (config.num_encoder_layers
                         if side == 'encoder' else config.num_decoder_layers)
    elif '/layers/' not in path:
        return shape, lambda: opened.read(paths[0])
    attention, heads = _ATTENTION.search(path), (config.num_heads, config.head_dim)
    if attention:
        shape = (*heads, shape[1]) if attention[1] == 'out' else (shape[0], *heads)
    # Layers on axis 1: query [embed, layers, heads, kv], out [heads, layers, kv, embed],
    # wi [embed, layers, mlp], relpos [heads, layers, buckets].
    stacked_shape = (shape[0], len(paths), *shape[1:])

    def read() -> np.ndarray:
        stacked = np.empty(stacked_shape, np.float32)
        for layer, name in enumerate(paths):
            # Attention: [embed, heads * kv] to [embed, heads, kv].
            stacked[:, layer] = opened.read(name).reshape(shape)
        return stacked

    return stacked_shape, read
