"""Files of torch.save, zip and the older layout, read without PyTorch and without unpickling.

An interpreter of pickle opcodes knows a closed list of names. Nothing is imported, called or built but the entries of `_CALLS`; any other
name is refused with one line that names it. `pickletools` only cuts the bytes into opcodes.
"""

import argparse
import contextlib
import dataclasses
import math
import pathlib
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

import ml_dtypes
import numpy as np

from atlas_jax import errors

# Element type of a storage, by the class that PyTorch names in the file.
_STORAGES = {
    'FloatStorage': np.float32, 'DoubleStorage': np.float64, 'HalfStorage': np.float16, 'BFloat16Storage': ml_dtypes.bfloat16,
    'LongStorage': np.int64, 'IntStorage': np.int32, 'ShortStorage': np.int16, 'CharStorage': np.int8, 'ByteStorage': np.uint8,
    'BoolStorage': np.bool_,
}
# Errors that truncated and altered files provoke in the interpreter and in pickletools.
_BROKEN_PICKLE = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, EOFError, RecursionError, MemoryError)


# Told apart from _BROKEN_PICKLE: the file is whole, and copying it again would not help.
class Refused(errors.ModelFolderError):
    """The pickle holds something that is no tensor, number, string, container or Namespace."""


@dataclasses.dataclass(frozen=True)
class Storage:
    """A record of the file that holds the elements of tensors: its key, dtype and number of elements."""

    key: str
    dtype: np.dtype
    elements: int


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor that is not read yet: a strided view of a storage; offset and strides in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


# A type of its own: were names strings, a pickle's strings could stand where only a name may.
@dataclasses.dataclass(frozen=True)
class _Name:
    """A Python name that the pickle mentions; one of the closed list."""

    name: str


def load_pickle(file: IO[bytes], storages: dict[str, Storage] | None = None) -> Any:
    """Reads the object of one pickle and leaves the file behind its end.

    Dicts, lists, tuples, numbers, strings, bytes and argparse.Namespaces are themselves. An OrderedDict becomes a dict, a tensor a
    `Tensor`, a torch.device a string.

    Args:
      storages: filled with the storages of the tensors, by key.

    Raises:
      Refused: the pickle holds anything else.
      ValueError, EOFError, and others of _BROKEN_PICKLE: the pickle is not whole.
    """
    machine = _Machine({} if storages is None else storages)
    # genops decodes opcodes and runs nothing. It stops behind STOP, where the next pickle of the older layout begins.
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == 'STOP':
            return machine.pop()
        machine.run(opcode.name, argument)
    raise EOFError('the pickle has no end')


class _Machine:
    """The pickle machine: a stack and a memo."""

    def __init__(self, storages: dict[str, Storage]):
        self._storages = storages
        self._stack: list[Any] = []
        # The stacks below each open mark. Marks among the values would be searched for, over the whole stack each time.
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def pop(self) -> Any:
        """Takes the top of the stack."""
        # A mark is no value: where one lies on top this stack is empty, and IndexError says that the pickle is broken.
        return self._stack.pop()

    def run(self, name: str, argument: Any) -> None:
        """Carries out one opcode. Raises Refused for one that is not known here."""
        # Tables for opcodes that only push; `_act` has those that change something.
        if name in _IGNORED:
            return
        if name in _LITERALS:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self._stack.append(_EMPTY[name]())
        else:
            self._act(name, argument)

    def _act(self, name: str, argument: Any) -> None:
        match name:
            case 'MARK':
                self._below.append(self._stack)
                self._stack = []
            case 'POP':
                # Pickle's POP takes a mark too.
                _ = self._stack.pop() if self._stack else self._since_mark()
            case 'POP_MARK':
                self._since_mark()
            case 'DUP':
                self._stack.append(self._stack[-1])
            case 'TUPLE1' | 'TUPLE2' | 'TUPLE3':
                self._tuple(int(name.removeprefix('TUPLE')))
            case 'TUPLE':
                self._push(tuple(self._since_mark()))
            case 'LIST':
                self._push(self._since_mark())
            case 'APPEND':
                self._append([self.pop()])
            case 'APPENDS':
                self._append(self._since_mark())
            case 'DICT':
                self._dict()
            case 'SETITEM':
                value, key = self.pop(), self.pop()
                self._set([key, value])
            case 'SETITEMS':
                self._set(self._since_mark())
            case 'PUT' | 'BINPUT' | 'LONG_BINPUT' | 'MEMOIZE':
                self._remember(argument)
            case 'GET' | 'BINGET' | 'LONG_BINGET':
                self._stack.append(self._memo[int(argument)])
            # pickletools gives "module name" with a blank between; STACK_GLOBAL (protocol 4) takes both from the stack.
            case 'GLOBAL':
                self._name(argument.replace(' ', '.'))
            case 'STACK_GLOBAL':
                self._stack_name()
            case 'REDUCE':
                self._call(constructing=False)
            case 'NEWOBJ':
                self._call(constructing=True)
            case 'BUILD':
                self._build()
            # A persistent id: PyTorch's reference to a storage, whose bytes lie outside the pickle.
            case 'BINPERSID':
                self._storage()
            # INST, OBJ, NEWOBJ_EX, PERSID and EXT1 to EXT4 end here, among others: torch.save does not write them, and some of them call.
            case _:
                raise Refused(f'pickle operation {name}')

    def _push(self, value: Any) -> None:
        # A method, so that the stack is looked up after the value was made: closing a mark changes it.
        self._stack.append(value)

    def _since_mark(self) -> list[Any]:
        # Without a mark pop raises IndexError, which a broken file may.
        values, self._stack = self._stack, self._below.pop()
        return values

    def _tuple(self, length: int) -> None:
        values = [self.pop() for _ in range(length)]  # last one first
        self._stack.append(tuple(reversed(values)))

    def _append(self, values: list[Any]) -> None:
        target = self._stack[-1]
        # type, not isinstance: nothing in here has subclasses, and none may slip in.
        if type(target) is not list:
            raise ValueError('append to something that is no list')
        target.extend(values)

    def _set(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not dict or len(values) % 2:
            raise ValueError('items for something that is no dict')
        _fill(target, zip(values[::2], values[1::2], strict=True))

    def _dict(self) -> None:
        values = self._since_mark()
        self._stack.append({})
        self._set(values)

    def _remember(self, number: int | None) -> None:
        # MEMOIZE has no number: it takes the next one.
        self._memo[len(self._memo) if number is None else int(number)] = self._stack[-1]

    def _name(self, name: str) -> None:
        if name not in _CALLS and name not in _STORAGE_NAMES:
            # The name is shown on one line and cut, for it may be anything.
            raise Refused(f'the Python name {" ".join(name.split())[:100]}')
        self._stack.append(_Name(name))

    def _stack_name(self) -> None:
        attribute, module = self.pop(), self.pop()
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise ValueError('a name that is no string')
        self._name(f'{module}.{attribute}')

    def _call(self, constructing: bool) -> None:
        arguments, function = self.pop(), self.pop()
        # A class is made by NEWOBJ and a function called by REDUCE; torch.save never does it the other way round.
        if not isinstance(function, _Name) or function.name not in _CALLS or (function.name in _CONSTRUCTED) != constructing:
            raise Refused(f'a call of {getattr(function, "name", "something that is no function")}')
        if type(arguments) is not tuple:
            raise ValueError('arguments that are no tuple')
        self._stack.append(_CALLS[function.name](*arguments))

    def _build(self) -> None:
        state, target = self.pop(), self._stack[-1]
        # Attributes of a Namespace, set without calling anything of its own.
        if type(target) is argparse.Namespace and type(state) is dict and all(isinstance(name, str) for name in state):
            vars(target).update(state)
        elif not (type(target) is dict and type(state) is dict and set(state) <= {'_metadata'}):  # _metadata: versions of modules
            raise Refused(f'a state for {type(target).__name__}')

    def _storage(self) -> None:
        values = self.pop()
        # ('storage', class, key, device, elements) and in the old layout the view; the device it was saved from means nothing here.
        kind, storage_type, key, _, elements, *view = values
        if kind != 'storage' or not isinstance(storage_type, _Name) or storage_type.name not in _STORAGE_NAMES:
            raise Refused(f'a persistent id of {getattr(storage_type, "name", "no known storage")}')
        # A sixth entry was a view of another storage.
        if view and view != [None]:
            raise Refused('a view of a storage, as PyTorch before 0.4 wrote them')
        if not isinstance(key, str) or not _is_count(elements):
            raise ValueError('a storage without key or size')
        self._storages[key] = Storage(key, np.dtype(_STORAGE_NAMES[storage_type.name]), elements)
        self._stack.append(self._storages[key])


def _fill(target: dict, items: Iterable[tuple[Any, Any]]) -> None:
    for key, value in items:
        if type(key) not in (str, int):  # hashing nested tuples can take exponential time
            raise ValueError('a key that is no string or whole number')
        target[key] = value


def _is_small(value: Any, limit: int) -> bool:
    """Returns True if at most `limit` values are met on the way through all containers, shared ones each time again."""
    # A tuple that holds another one twice, 27 times over, is 110 bytes in a pickle; a list may hold itself.
    left = [value]
    for _ in range(limit):
        if not left:
            return True
        value = left.pop()
        children = vars(value).values() if isinstance(value, argparse.Namespace) else value.values() if isinstance(value, dict) else value
        if isinstance(value, argparse.Namespace | dict | list | tuple):
            if len(children) > limit:
                return False
            left.extend(children)
        if len(left) > limit:
            return False
    return not left


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_) -> Tensor:
    counts = [offset, *shape, *strides]
    if not isinstance(storage, Storage) or not all(_is_count(value) for value in counts) or len(shape) != len(strides):
        raise ValueError('a tensor that is not described as one')
    # as_strided checks no bounds: strides of a forged file would read foreign memory. A stride of 0 (torch.expand)
    # stays inside and yet makes a few bytes an array of any size, hence the second bound.
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if 0 not in shape and (last >= storage.elements or math.prod(shape) > storage.elements):
        raise ValueError('a tensor that reaches beyond its storage')
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(data: Any, *_) -> Tensor:
    if not isinstance(data, Tensor):
        raise ValueError('a parameter that is no tensor')
    return data


# Python keeps the order of a dict, so state_dict's OrderedDict needs no class of its own.
def _ordered_dict(items: Any = ()) -> dict:
    result: dict = {}
    _fill(result, items)
    return result


def _device(kind: Any, index: Any = None) -> str:
    # Devices stand in `opt` only: a name is all that is kept.
    if not isinstance(kind, str) or not (index is None or _is_count(index)):
        raise ValueError('a device that is not named')
    return kind if index is None else f'{kind}:{index}'


# Protocol number and frame lengths: genops has used them.
_IGNORED = ('PROTO', 'FRAME')
_LITERALS = ('INT', 'BININT', 'BININT1', 'BININT2', 'LONG', 'LONG1', 'LONG4', 'FLOAT', 'BINFLOAT', 'STRING', 'BINSTRING', 'SHORT_BINSTRING',
             'UNICODE', 'BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8', 'BINBYTES', 'SHORT_BINBYTES', 'BINBYTES8')
_CONSTANTS: dict[str, Any] = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False, 'EMPTY_TUPLE': ()}
_EMPTY: dict[str, type] = {'EMPTY_LIST': list, 'EMPTY_DICT': dict}
_STORAGE_NAMES = {f'torch.{name}': dtype for name, dtype in _STORAGES.items()}
# The only Python names that a pickle may mention beside storages, and the function that stands for each.
_CALLS: dict[str, Callable[..., Any]] = {
    'torch._utils._rebuild_tensor_v2': _tensor, 'torch._utils._rebuild_tensor': _tensor, 'torch._utils._rebuild_parameter': _parameter,
    'collections.OrderedDict': _ordered_dict, 'torch.device': _device, 'argparse.Namespace': argparse.Namespace,
}
# Made by NEWOBJ (a class); the others by REDUCE (a call).
_CONSTRUCTED = ('argparse.Namespace',)


# The layout of torch.save(_use_new_zipfile_serialization=False): magic number, version, system, object and storage keys, each a pickle;
# then the storages.
# PyTorch's MAGIC_NUMBER and PROTOCOL_VERSION.
_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001
# zipfile raises RuntimeError for encrypted members and NotImplementedError for methods of compression that it lacks.
_BROKEN = (*_BROKEN_PICKLE, zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, RuntimeError, OSError)
_PIECE_BYTES = 16 << 20
_ZIP = b'PK\x03\x04'  # a zip file's first record
_MAX_OPTIONS = 100_000  # values in `opt`; the original has about 150


@contextlib.contextmanager
def _mistakes_of(path: pathlib.Path) -> Iterator[None]:
    """Turns the errors that a broken or unwelcome file provokes into one line."""
    try:
        yield
    except Refused as error:
        raise errors.ModelFolderError(f'{path}: its pickle holds {error}, which is neither a tensor, a number, a string nor a '
                                      'Namespace and is never executed; save the weights alone') from error
    except FileNotFoundError as error:
        raise errors.ModelFolderError(f'{path}: no such file; copy it again') from error
    except _BROKEN as error:
        raise errors.ModelFolderError(f'{path}: not a whole PyTorch file ({type(error).__name__}); copy it again') from error


class TorchFile:
    """The tensors of one file, read one at a time, in the layout of the file: linear layers [out, in].

    path: the file.
    root: the saved object: dicts, lists, numbers, strings, a Namespace, and `Tensor`s. A lone tensor has the name ''.

    Raises:
      ModelFolderError: the file is missing or broken, holds something that is neither tensor, number, string, container nor Namespace, or
        `within` names no dict of tensors.
    """

    def __init__(self, path: pathlib.Path, within: str | None = None):
        self.open(path)
        tensors = {'': self.root} if isinstance(self.root, Tensor) else self.root
        if within is not None:
            tensors = self.root.get(within) if isinstance(self.root, dict) else None
        if not isinstance(tensors, dict):
            raise errors.ModelFolderError(f'{path}: expected a dict of tensors{f" under {within!r}" if within else ""}, found '
                                          f'{type(tensors).__name__}; give a file of model weights')
        self._tensors: dict[str, Tensor] = tensors
        # Looked through at once, so that no conversion fails in its middle.
        for name, tensor in tensors.items():
            if not isinstance(name, str) or not isinstance(tensor, Tensor):
                raise errors.ModelFolderError(f'{path}: {str(name)[:100]} is no tensor but {type(tensor).__name__}; give a file of model '
                                              'weights')

    def open(self, path: pathlib.Path) -> Any:
        """Returns the saved object, whatever it is, and finds where its tensors are. Raises ModelFolderError."""
        self.path = path
        self._cached: tuple[str, bytearray] | None = None
        self._places: dict[str, Any] = {}
        with _mistakes_of(path), open(path, 'rb') as file:
            self._is_zip = file.read(4) == _ZIP
            self.root = self._read_zip() if self._is_zip else self._read_legacy(file)
        return self.root

    @property
    def options(self) -> dict[str, Any]:
        """The Namespace saved as `opt`, as a dict; empty if there is none.

        Raises ModelFolderError: written out it would be endless, or too large to look at.
        """
        found = self.root.get('opt') if isinstance(self.root, dict) else None
        if not isinstance(found, argparse.Namespace):
            return {}
        if not _is_small(found, _MAX_OPTIONS):
            raise errors.ModelFolderError(f'{self.path}: its options (opt) hold more than {_MAX_OPTIONS:,} values; save the weights alone')
        return dict(vars(found))

    def names(self) -> set[str]:
        """Returns the names of all tensors."""
        return set(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of one tensor, without reading it."""
        return self._tensors[name].shape

    def read(self, name: str, dtype: type | None = np.float32) -> np.ndarray:
        """Reads one tensor, [...] of `dtype` (None: as stored). Raises ModelFolderError: its bytes are missing or damaged."""
        tensor = self._tensors[name]
        with _mistakes_of(self.path):
            # Storages are little-endian, as numpy is on every machine that JAX runs on.
            data = np.frombuffer(self._storage(tensor), tensor.storage.dtype)
            # as_strided of no elements may not start behind the end.
            if 0 in tensor.shape:
                return np.zeros(tensor.shape, dtype)
            # The bounds of a tensor were checked against the announced size; it must be the true one before as_strided looks.
            if data.size != tensor.storage.elements:
                raise ValueError(f'{data.size} elements for {name}, expected {tensor.storage.elements}')
            # PyTorch counts strides in elements, numpy in bytes.
            strides = [stride * data.itemsize for stride in tensor.strides]
            # Strides, for PyTorch saves a transposed or sliced tensor as a view of its storage; copied to row order as float32.
            view = np.lib.stride_tricks.as_strided(data[tensor.offset:], tensor.shape, strides, writeable=False)
            return np.asarray(view, dtype)

    def _storage(self, tensor: Tensor) -> bytearray:
        """Reads a tensor's storage; keeps one that holds other tensors too."""
        storage = tensor.storage
        if self._cached is not None and self._cached[0] == storage.key:
            return self._cached[1]
        self._cached = None  # freed before the next storage is read: two would double the memory
        size = storage.elements * storage.dtype.itemsize
        if self._is_zip:
            # Before it is read: a file of holes can hold terabytes.
            if self._places[storage.key].file_size != size:
                raise ValueError(f'{self._places[storage.key].file_size} bytes of a storage, expected {size}')
            with zipfile.ZipFile(self.path) as archive, archive.open(self._places[storage.key]) as file:
                content = _read_all(file)  # to the end, where zipfile compares the checksum
        else:
            start = self._places[storage.key]
            with open(self.path, 'rb') as file:
                file.seek(start)
                content = bytearray(file.read(size))
        # Others share the storage, as tied weights and slices do; a whole one is not asked for again.
        if math.prod(tensor.shape) < storage.elements:
            self._cached = storage.key, content
        return content

    def _read_zip(self) -> Any:
        with zipfile.ZipFile(self.path) as archive:
            records = {record.filename: record for record in archive.infolist()}
            pickles = [name for name in records if name.endswith('/data.pkl')]
            # torch.save never compresses: a compressed record could be a bomb.
            if len(pickles) != 1 or any(record.compress_type != zipfile.ZIP_STORED for record in records.values()):
                raise ValueError('not the zip file of torch.save')
            folder = pickles[0].removesuffix('data.pkl')
            # Files of PyTorch before 2.1 do not state it: little-endian is assumed.
            order = folder + 'byteorder'
            if order in records and (records[order].file_size > 16 or archive.read(order) != b'little'):
                raise ValueError('not little-endian')
            self._places = {name.removeprefix(folder + 'data/'): record for name, record in records.items()
                            if name.startswith(folder + 'data/')}
            with archive.open(pickles[0]) as file:
                return load_pickle(file)

    def _read_legacy(self, file: IO[bytes]) -> Any:
        file.seek(0)
        if load_pickle(file) != _LEGACY_MAGIC or load_pickle(file) != _LEGACY_VERSION:
            raise ValueError('not the file of torch.save')
        load_pickle(file)  # the writer's system
        storages: dict[str, Storage] = {}
        root = load_pickle(file, storages)
        # In the order of this list: 8 bytes with the number of elements, then the elements. Skipped over: `read` seeks the place.
        for key in load_pickle(file):
            # Hashing nested tuples can take exponential time.
            if not isinstance(key, str):
                raise ValueError('the key of a storage is no string')
            elements = int.from_bytes(file.read(8), 'little')
            # Skipped, not read: a tensor's bytes are read when it is asked for.
            size = elements * storages[key].dtype.itemsize
            self._places[key] = file.tell()
            file.seek(size, 1)
        return root


def read_object(path: pathlib.Path) -> Any:
    """Returns the object of a file of pickle or torch.save, as `load_pickle` does. Raises ModelFolderError: as TorchFile."""
    with _mistakes_of(path), open(path, 'rb') as file:
        is_zip = file.read(4) == _ZIP
        file.seek(0)
        # A plain pickle begins with its object, the older layout with a number.
        if not is_zip and (found := load_pickle(file)) != _LEGACY_MAGIC:
            return found
    return TorchFile.__new__(TorchFile).open(path)


def _read_all(file: IO[bytes]) -> bytearray:
    """Reads to the end, piece by piece: reading at once would hold the content twice."""
    content = bytearray()
    while piece := file.read(_PIECE_BYTES):
        content += piece
    return content
