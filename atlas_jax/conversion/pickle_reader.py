"""Reads pickles without unpickling them.

An interpreter of pickle opcodes knows a closed list of names. Nothing is imported, called or built
except the entries of `_CALLS`; any other name is refused with one line that names it. `pickletools`
only cuts the bytes into opcodes.
"""

import argparse
import dataclasses
import math
import pickletools
from collections.abc import Callable, Iterable
from typing import IO, Any

import ml_dtypes
import numpy as np

from atlas_jax import errors

# Element type of a storage, by the class that PyTorch names in the file.
_STORAGES = {
    'FloatStorage': np.float32,
    'DoubleStorage': np.float64,
    'HalfStorage': np.float16,
    'BFloat16Storage': ml_dtypes.bfloat16,
    'LongStorage': np.int64,
    'IntStorage': np.int32,
    'ShortStorage': np.int16,
    'CharStorage': np.int8,
    'ByteStorage': np.uint8,
    'BoolStorage': np.bool_}
# What truncated and altered files raise in the interpreter and in pickletools.
BROKEN = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, EOFError,
          RecursionError, MemoryError)


# Not one of BROKEN: the file is whole, and copying it again would not help.
class Refused(errors.ModelFolderError):
    """The pickle holds more than tensors, numbers, strings, containers and Namespaces."""


@dataclasses.dataclass(frozen=True)
class Storage:
    """A record of the file with elements of tensors: its key, dtype and number of elements."""

    key: str
    dtype: np.dtype
    elements: int


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor not read yet: a strided view of a storage. Offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


# A separate type: if names were strings, a pickle's string could pass as a name.
@dataclasses.dataclass(frozen=True)
class _Name:
    """A Python name from the closed list that the pickle mentions."""

    name: str


def load_pickle(file: IO[bytes], storages: dict[str, Storage] | None = None) -> Any:
    """Reads the object of one pickle and leaves the file after its end.

    Dicts, lists, tuples, numbers, strings, bytes and argparse.Namespaces stay what they are. An
    OrderedDict becomes a dict, a tensor a `Tensor`, a torch.device a string.

    Args:
      storages: filled with the storages of the tensors, by key.

    Raises:
      Refused: the pickle holds anything else.
      ValueError, EOFError, and others of BROKEN: the pickle is not whole.
    """
    machine = _Machine({} if storages is None else storages)
    # genops decodes opcodes and runs nothing. It stops after STOP, where the next pickle of the
    # older layout begins.
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
        # The stacks below each open mark. Marks among the values would need a search over the
        # whole stack.
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def pop(self) -> Any:
        """Takes the top of the stack."""
        # A mark is not a value: above one this stack is empty, and IndexError means that the pickle
        # is broken.
        return self._stack.pop()

    def run(self, name: str, argument: Any) -> None:
        """Carries out one opcode. Raises Refused for an unknown one."""
        # Opcodes that only push stand in tables; `_act` has those that change something.
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
            # pickletools gives "module name", separated by a space; STACK_GLOBAL (protocol 4)
            # takes both from the stack.
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
            # PyTorch's reference to a storage, whose bytes lie outside the pickle.
            case 'BINPERSID':
                self._storage()
            # INST, OBJ, NEWOBJ_EX, PERSID, EXT1 to EXT4 and others: torch.save does not write
            # them, and some of them call functions.
            case _:
                raise Refused(f'pickle operation {name}')

    def _push(self, value: Any) -> None:
        # A method, so that `self._stack` is looked up after `_since_mark` has replaced it.
        self._stack.append(value)

    def _since_mark(self) -> list[Any]:
        # Without a mark pop raises IndexError, one of BROKEN.
        values, self._stack = self._stack, self._below.pop()
        return values

    def _tuple(self, length: int) -> None:
        values = [self.pop() for _ in range(length)]  # last one first
        self._stack.append(tuple(reversed(values)))

    def _append(self, values: list[Any]) -> None:
        target = self._stack[-1]
        # type, not isinstance: no subclass may slip in.
        if type(target) is not list:
            raise ValueError('append to something other than a list')
        target.extend(values)

    def _set(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not dict or len(values) % 2:
            raise ValueError('items for something other than a dict')
        _fill(target, zip(values[::2], values[1::2], strict=True))

    def _dict(self) -> None:
        values = self._since_mark()
        self._stack.append({})
        self._set(values)

    def _remember(self, number: int | None) -> None:
        # MEMOIZE has no number and takes the next one.
        self._memo[len(self._memo) if number is None else int(number)] = self._stack[-1]

    def _name(self, name: str) -> None:
        if name not in _CALLS and name not in _STORAGE_NAMES:
            # Shown on one line and cut, because the name may be anything.
            raise Refused(f'the Python name {" ".join(name.split())[:100]}')
        self._stack.append(_Name(name))

    def _stack_name(self) -> None:
        attribute, module = self.pop(), self.pop()
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise ValueError('a name that is not a string')
        self._name(f'{module}.{attribute}')

    def _call(self, constructing: bool) -> None:
        arguments, function = self.pop(), self.pop()
        # NEWOBJ makes a class and REDUCE calls a function; torch.save never does it the other way
        # round.
        if not isinstance(function, _Name) or function.name not in _CALLS or (
                function.name in _CONSTRUCTED) != constructing:
            called = getattr(function, 'name', 'something that is not a function')
            raise Refused(f'a call of {called}')
        if type(arguments) is not tuple:
            raise ValueError('arguments that are not a tuple')
        self._stack.append(_CALLS[function.name](*arguments))

    def _build(self) -> None:
        state, target = self.pop(), self._stack[-1]
        # Sets a Namespace's attributes without calling any of its methods.
        if type(target) is argparse.Namespace and type(state) is dict and all(
                isinstance(name, str) for name in state):
            vars(target).update(state)
        # _metadata: versions of modules
        elif not (type(target) is dict and type(state) is dict and set(state) <= {'_metadata'}):
            raise Refused(f'a state for {type(target).__name__}')

    def _storage(self) -> None:
        values = self.pop()
        # ('storage', class, key, device, elements), and in the old layout the view. The device it
        # was saved from does not matter here.
        kind, storage_type, key, _, elements, *view = values
        if kind != 'storage' or not isinstance(storage_type,
                                               _Name) or storage_type.name not in _STORAGE_NAMES:
            raise Refused(f'a persistent id of {getattr(storage_type, "name", "no known storage")}')
        # A sixth entry describes a view of another storage.
        if view and view != [None]:
            raise Refused('a view of a storage, as PyTorch before 0.4 wrote them')
        if not isinstance(key, str) or not _is_count(elements):
            raise ValueError('a storage without key or size')
        self._storages[key] = Storage(key, np.dtype(_STORAGE_NAMES[storage_type.name]), elements)
        self._stack.append(self._storages[key])


def _fill(target: dict, items: Iterable[tuple[Any, Any]]) -> None:
    for key, value in items:
        if type(key) not in (str, int):  # hashing nested tuples can take exponential time
            raise ValueError('a key that is neither a string nor an integer')
        target[key] = value


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_) -> Tensor:
    counts = [offset, *shape, *strides]
    if not isinstance(storage, Storage) or not all(
            _is_count(value) for value in counts) or len(shape) != len(strides):
        raise ValueError('a wrong description of a tensor')
    # as_strided does not check bounds: forged strides would read foreign memory. A stride of 0
    # (torch.expand) stays inside but can turn a few bytes into an array of any size; hence the
    # second bound.
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if 0 not in shape and (last >= storage.elements or math.prod(shape) > storage.elements):
        raise ValueError('a tensor that reaches beyond its storage')
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(data: Any, *_) -> Tensor:
    if not isinstance(data, Tensor):
        raise ValueError('a parameter that is not a tensor')
    return data


# A dict keeps its order, so it can replace state_dict's OrderedDict.
def _ordered_dict(items: Any = ()) -> dict:
    result: dict = {}
    _fill(result, items)
    return result


def _device(kind: Any, index: Any = None) -> str:
    # Only `opt` has devices; the name is enough.
    if not isinstance(kind, str) or not (index is None or _is_count(index)):
        raise ValueError('a device without a name')
    return kind if index is None else f'{kind}:{index}'


# Protocol number and frame lengths, which genops has used.
_IGNORED = ('PROTO', 'FRAME')
_LITERALS = ('INT', 'BININT', 'BININT1', 'BININT2', 'LONG', 'LONG1', 'LONG4', 'FLOAT', 'BINFLOAT',
             'STRING', 'BINSTRING', 'SHORT_BINSTRING', 'UNICODE', 'BINUNICODE', 'SHORT_BINUNICODE',
             'BINUNICODE8', 'BINBYTES', 'SHORT_BINBYTES', 'BINBYTES8')
_CONSTANTS: dict[str, Any] = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False, 'EMPTY_TUPLE': ()}
_EMPTY: dict[str, type] = {'EMPTY_LIST': list, 'EMPTY_DICT': dict}
_STORAGE_NAMES = {f'torch.{name}': dtype for name, dtype in _STORAGES.items()}
# The only Python names besides storages that a pickle may mention, and the function called in
# place of each.
_CALLS: dict[str, Callable[..., Any]] = {
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_tensor': _tensor,
    'torch._utils._rebuild_parameter': _parameter,
    'collections.OrderedDict': _ordered_dict,
    'torch.device': _device,
    'argparse.Namespace': argparse.Namespace}
# A class, made by NEWOBJ; the others are called by REDUCE.
_CONSTRUCTED = ('argparse.Namespace',)
