"""What a PyTorch checkpoint's pickle says, without unpickling: an interpreter of opcodes with a closed list of what it knows.

Nothing is imported, called or built but the entries of `_CALLS`; a name outside them is refused with one line that names it. `pickletools`
only cuts the bytes into opcodes.
"""

import argparse
import dataclasses
import math
import pickletools
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from atlas_jax import errors

# Element type of a storage, by the class that PyTorch names in the file.
_STORAGES = {
    'FloatStorage': np.float32, 'DoubleStorage': np.float64, 'HalfStorage': np.float16, 'BFloat16Storage': ml_dtypes.bfloat16,
    'LongStorage': np.int64, 'IntStorage': np.int32, 'ShortStorage': np.int16, 'CharStorage': np.int8, 'ByteStorage': np.uint8,
    'BoolStorage': np.bool_,
}
# What truncated and altered files provoke in the interpreter and in pickletools.
BROKEN = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, EOFError, RecursionError, MemoryError)


class Refused(errors.ModelFolderError):
    """The pickle holds something that is no tensor, number, string, container or Namespace."""


@dataclasses.dataclass(frozen=True)
class Storage:
    """Where the elements of tensors lie: a record of the file, its dtype and number of elements."""

    key: str
    dtype: np.dtype
    elements: int


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor that was not read yet: a strided view of a storage, in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class _Name:
    """A global that the pickle mentions; in the closed list."""

    name: str


_MARK = object()


def load(file: BinaryIO, storages: dict[str, Storage] | None = None) -> Any:
    """The object of one pickle; leaves the file behind its end, and in `storages` those that its tensors lie in, by key.

    Dicts, lists, tuples, numbers, strings and bytes are themselves, an OrderedDict is a dict, an argparse.Namespace is one, tensors are
    `Tensor`s, a torch.device is a string.

    Raises Refused for anything else, and one of BROKEN for a pickle that is not whole.
    """
    machine = _Machine({} if storages is None else storages)
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == 'STOP':
            return machine.pop()
        machine.run(opcode.name, argument)
    raise EOFError('the pickle has no end')


class _Machine:
    """The stack and the memo."""

    def __init__(self, storages: dict[str, Storage]):
        self._storages = storages
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def pop(self) -> Any:
        """Takes the top of the stack."""
        value = self._stack.pop()
        if value is _MARK:
            raise ValueError('a mark where a value should be')
        return value

    def run(self, name: str, argument: Any) -> None:
        """Carries out one opcode."""
        if name in _IGNORED:
            return
        if name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            self._stack.append(argument)
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        else:
            raise Refused(f'pickle operation {name}')

    def _since_mark(self) -> list[Any]:
        position = max(i for i, value in enumerate(self._stack) if value is _MARK)
        values = self._stack[position + 1:]
        del self._stack[position:]
        return values

    def _tuple(self, length: int) -> None:
        values = [self.pop() for _ in range(length)]
        self._stack.append(tuple(reversed(values)))

    def _append(self, values: list[Any]) -> None:
        target = self._stack[-1]
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
        self._memo[len(self._memo) if number is None else int(number)] = self._stack[-1]

    def _name(self, name: str) -> None:
        if name not in _CALLS and name not in _STORAGE_NAMES:
            raise Refused(f'the Python name {" ".join(name.split())[:100]}')
        self._stack.append(_Name(name))

    def _stack_name(self) -> None:
        attribute, module = self.pop(), self.pop()
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise ValueError('a name that is no string')
        self._name(f'{module}.{attribute}')

    def _call(self, constructing: bool) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, _Name) or function.name not in _CALLS or (function.name in _CONSTRUCTED) != constructing:
            raise Refused(f'a call of {getattr(function, "name", "something that is no function")}')
        if type(arguments) is not tuple:
            raise ValueError('arguments that are no tuple')
        self._stack.append(_CALLS[function.name](*arguments))

    def _build(self) -> None:
        state, target = self.pop(), self._stack[-1]
        if type(target) is argparse.Namespace and type(state) is dict and all(isinstance(name, str) for name in state):
            vars(target).update(state)
        elif not (type(target) is dict and type(state) is dict and set(state) <= {'_metadata'}):  # versions of modules, no weights
            raise Refused(f'a state for {type(target).__name__}')

    def _storage(self) -> None:
        values = self.pop()
        kind, storage_type, key, _, elements, *view = values
        if kind != 'storage' or not isinstance(storage_type, _Name) or storage_type.name not in _STORAGE_NAMES:
            raise Refused(f'a persistent id of {getattr(storage_type, "name", "no known storage")}')
        if view and view != [None]:
            raise Refused('a view of a storage, as PyTorch before 0.4 wrote them')
        if not isinstance(key, str) or not _is_count(elements):
            raise ValueError('a storage without key or size')
        self._storages[key] = Storage(key, np.dtype(_STORAGE_NAMES[storage_type.name]), elements)
        self._stack.append(self._storages[key])


def _fill(target: dict, items: Iterable[tuple[Any, Any]]) -> None:
    for key, value in items:
        if type(key) not in (str, int):  # the hash of nested tuples can take for ever
            raise ValueError('a key that is no string or whole number')
        target[key] = value


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_) -> Tensor:
    counts = [offset, *shape, *strides]
    if not isinstance(storage, Storage) or not all(_is_count(value) for value in counts) or len(shape) != len(strides):
        raise ValueError('a tensor that is not described as one')
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if 0 not in shape and (last >= storage.elements or math.prod(shape) > storage.elements):
        raise ValueError('a tensor that reaches beyond its storage')
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(data: Any, *_) -> Tensor:
    if not isinstance(data, Tensor):
        raise ValueError('a parameter that is no tensor')
    return data


def _ordered_dict(items: Any = ()) -> dict:
    result: dict = {}
    _fill(result, items)
    return result


def _device(kind: Any, index: Any = None) -> str:
    if not isinstance(kind, str) or not (index is None or _is_count(index)):
        raise ValueError('a device that is not named')
    return kind if index is None else f'{kind}:{index}'


_STORAGE_NAMES = {f'torch.{name}': dtype for name, dtype in _STORAGES.items()}
_CALLS: dict[str, Callable[..., Any]] = {
    'torch._utils._rebuild_tensor_v2': _tensor, 'torch._utils._rebuild_tensor': _tensor, 'torch._utils._rebuild_parameter': _parameter,
    'collections.OrderedDict': _ordered_dict, 'torch.device': _device, 'argparse.Namespace': argparse.Namespace,
}
_CONSTRUCTED = ('argparse.Namespace',)
_IGNORED = ('PROTO', 'FRAME')
_CONSTANTS: dict[str, Callable[[], Any]] = {
    'MARK': lambda: _MARK, 'NONE': lambda: None, 'NEWTRUE': lambda: True, 'NEWFALSE': lambda: False, 'EMPTY_LIST': list,
    'EMPTY_TUPLE': tuple, 'EMPTY_DICT': dict,
}
_LITERALS = ('INT', 'BININT', 'BININT1', 'BININT2', 'LONG', 'LONG1', 'LONG4', 'FLOAT', 'BINFLOAT', 'STRING', 'BINSTRING', 'SHORT_BINSTRING',
             'UNICODE', 'BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8', 'BINBYTES', 'SHORT_BINBYTES', 'BINBYTES8')
_ACTIONS: dict[str, Callable[[_Machine, Any], Any]] = {
    'POP': lambda machine, _: machine._stack.pop(), 'POP_MARK': lambda machine, _: machine._since_mark(),
    'DUP': lambda machine, _: machine._stack.append(machine._stack[-1]),
    'TUPLE1': lambda machine, _: machine._tuple(1), 'TUPLE2': lambda machine, _: machine._tuple(2),
    'TUPLE3': lambda machine, _: machine._tuple(3), 'TUPLE': lambda machine, _: machine._stack.append(tuple(machine._since_mark())),
    'LIST': lambda machine, _: machine._stack.append(machine._since_mark()),
    'APPEND': lambda machine, _: machine._append([machine.pop()]), 'APPENDS': lambda machine, _: machine._append(machine._since_mark()),
    'DICT': lambda machine, _: machine._dict(),
    'SETITEM': lambda machine, _: machine._set(list(reversed([machine.pop(), machine.pop()]))),
    'SETITEMS': lambda machine, _: machine._set(machine._since_mark()),
    'PUT': _Machine._remember, 'BINPUT': _Machine._remember, 'LONG_BINPUT': _Machine._remember, 'MEMOIZE': _Machine._remember,
    'GET': lambda machine, number: machine._stack.append(machine._memo[int(number)]),
    'BINGET': lambda machine, number: machine._stack.append(machine._memo[int(number)]),
    'LONG_BINGET': lambda machine, number: machine._stack.append(machine._memo[int(number)]),
    'GLOBAL': lambda machine, name: machine._name(name.replace(' ', '.')), 'STACK_GLOBAL': lambda machine, _: machine._stack_name(),
    'REDUCE': lambda machine, _: machine._call(False), 'NEWOBJ': lambda machine, _: machine._call(True),
    'BUILD': lambda machine, _: machine._build(), 'BINPERSID': lambda machine, _: machine._storage(),
}
