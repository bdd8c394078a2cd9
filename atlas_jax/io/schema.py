"""Shapes of JSON values from files, read from the annotations of dataclasses.

A value is compared with its shape before anything is done with it: anybody may have written the
file. A field's annotation gives its type; `Annotated[int, Integer(1, 9)]` also gives its range.
"""

import dataclasses
import pathlib
import re
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Protocol

from atlas_jax.io import untrusted


class Schema(Protocol):
    """The shape of a value."""

    def check(self, value: Any, where: str) -> None:
        """Raises ValueError, which names the place `where` in the file, if the value does not
        fit.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Integer:
    """A whole number from `least` to `most`."""

    least: int = 0
    most: int = 2**53  # other programs' JSON keeps whole numbers up to this one

    def check(self, value: Any, where: str) -> None:
        """Raises ValueError for anything else, true and false included."""
        if type(value) is not int or not self.least <= value <= self.most:
            raise _wrong(where, value, f'a whole number from {self.least} to {self.most}')


@dataclasses.dataclass(frozen=True)
class Number:
    """A number from `least` to `most`."""

    least: float
    most: float

    def check(self, value: Any, where: str) -> None:
        """Raises ValueError for anything else, true, false and NaN included."""
        if type(value) not in (int, float) or not self.least <= value <= self.most:
            raise _wrong(where, value, f'a number from {self.least} to {self.most}')


@dataclasses.dataclass(frozen=True)
class Boolean:
    """True or false."""

    def check(self, value: Any, where: str) -> None:
        """Raises ValueError for anything else."""
        if not isinstance(value, bool):
            raise _wrong(where, value, 'true or false')


@dataclasses.dataclass(frozen=True)
class Text:
    """Text that matches `pattern` in full; `what` describes it in messages."""

    pattern: str
    what: str

    def check(self, value: Any, where: str) -> None:
        """Raises ValueError for anything else."""
        if not isinstance(value, str) or not re.fullmatch(self.pattern, value):
            raise _wrong(where, value, self.what)


def one_of(names: typing.Iterable[str], what: str) -> Text:
    """Returns the shape of a text that is one of `names`."""
    return Text('|'.join(map(re.escape, names)), what)


@dataclasses.dataclass(frozen=True)
class FileName:
    """The name of a file below the folder that the value was read from."""

    def check(self, value: Any, where: str) -> None:
        """Raises ValueError for a name that leads out of the folder."""
        try:
            untrusted.inside(pathlib.Path(), value)
        except ValueError:
            raise _wrong(where, value, 'the name of a file in this folder') from None


@dataclasses.dataclass(frozen=True)
class Anything:
    """Any JSON value."""

    def check(self, value: Any, where: str) -> None:
        """Does nothing."""


@dataclasses.dataclass(frozen=True)
class Array:
    """At least `least` values of one shape."""

    of: Schema
    least: int = 0

    def check(self, value: Any, where: str) -> None:
        """Raises ValueError for anything else."""
        if not isinstance(value, list) or len(value) < self.least:
            raise _wrong(where, value, f'a list of at least {self.least}')
        for number, each in enumerate(value):
            self.of.check(each, f'{where}[{number}]')


@dataclasses.dataclass(frozen=True)
class TupleOf:
    """A list with a shape for each place."""

    of: tuple[Schema, ...]

    def check(self, value: Any, where: str) -> None:
        """Raises ValueError for anything else."""
        if not isinstance(value, list) or len(value) != len(self.of):
            raise _wrong(where, value, f'a list of {len(self.of)}')
        for number, (schema, each) in enumerate(zip(self.of, value, strict=True)):
            schema.check(each, f'{where}[{number}]')


@dataclasses.dataclass(frozen=True)
class Table:
    """An object of any keys of one shape, and values of one shape."""

    keys: Schema
    of: Schema

    def check(self, value: Any, where: str) -> None:
        """Raises ValueError for anything else."""
        if not isinstance(value, dict):
            raise _wrong(where, value, 'an object')
        for key, each in value.items():
            self.keys.check(key, f'{where}, a key')
            self.of.check(each, f'{where}[{key[:40]!r}]')


@dataclasses.dataclass(frozen=True)
class OrNull:
    """Null, or a value of a shape."""

    of: Schema

    def check(self, value: Any, where: str) -> None:
        """Raises ValueError for anything else."""
        if value is not None:
            self.of.check(value, where)


@dataclasses.dataclass(frozen=True)
class ObjectOf:
    """An object with these fields and no others; `optional` ones may be absent."""

    fields: Mapping[str, Schema]
    optional: frozenset[str] = frozenset()

    def check(self, value: Any, where: str = '') -> None:
        """Raises ValueError for anything else."""
        if not isinstance(value, dict):
            raise _wrong(where, value, 'an object')
        prefix = f'{where}.' if where else ''
        if unknown := sorted(value.keys() - self.fields.keys()):
            raise ValueError(f'unknown field "{prefix}{unknown[0][:40]}"')
        for name, schema in self.fields.items():
            if name in value:
                schema.check(value[name], f'{prefix}{name}')
            elif name not in self.optional:
                raise ValueError(f'no field "{prefix}{name}"')

    def without(self, *names: str) -> dict[str, Schema]:
        """Returns the other fields, for an older version of the object."""
        return {name: each for name, each in self.fields.items() if name not in names}


@dataclasses.dataclass(frozen=True)
class Items:
    """For `Annotated`: the least number of values in an array."""

    least: int


SHA256 = Text('[0-9a-f]{64}', 'a SHA-256 in hexadecimal')
LINE = Text(r'[^\x00-\x1f\x7f]{0,300}', 'text of one line')
# A path may lead anywhere; what the system cannot name is refused.
PATH = Text(r'[^\x00-\x1f\x7f]{0,4096}', 'a path')
Sha256 = Annotated[str, SHA256]
Path = Annotated[str, PATH]
Positive = Annotated[int, Integer(1)]
# {file below the folder: (bytes, SHA-256)}
Files = dict[Annotated[str, FileName()], tuple[int, Sha256]]
_SIMPLE: dict[Any, Schema] = {
    int: Integer(), bool: Boolean(), str: LINE, float: Number(-1e9, 1e9), Any: Anything(),
    object: Anything()}


def of(declared: Any) -> Schema:
    """Returns the shape that an annotation declares.

    Known are int (at least 0), bool, float (up to 1e9, so that sums stay finite), str (one line),
    Any, X | None, tuples, dicts and mappings, dataclasses, and `Annotated` with a shape or `Items`.
    Every field of a dataclass must be there.
    """
    origin, arguments = typing.get_origin(declared), typing.get_args(declared)
    if origin is Annotated:
        if isinstance(arguments[1], Items):
            return Array(of(typing.get_args(arguments[0])[0]), arguments[1].least)
        return arguments[1]
    if origin is tuple:
        if arguments[1:] == (...,):
            return Array(of(arguments[0]))
        return TupleOf(tuple(of(each) for each in arguments))
    if origin in (types.UnionType, typing.Union):
        return OrNull(of(arguments[0]))
    if origin is not None and issubclass(origin, Mapping):
        return Table(of(arguments[0]), of(arguments[1]))
    return ObjectOf(_fields(declared)) if dataclasses.is_dataclass(declared) else _SIMPLE[declared]


def object_of(declared: Any) -> ObjectOf:
    """Returns the shape of a dataclass; see `of`."""
    return ObjectOf(_fields(declared))


def build(declared: Any, value: Any) -> Any:
    """Returns the dataclass, tuple or plain value that a JSON value of this shape stands for.

    A schema in place of an annotation leaves the value as it is.
    Fields that are absent take their defaults. Raises TypeError: the value was not checked before.
    """
    origin, arguments = typing.get_origin(declared), typing.get_args(declared)
    if origin is Annotated:
        return build(arguments[0], value)
    if origin is tuple:
        kinds = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
        return tuple(build(kind, each) for kind, each in zip(kinds, value, strict=True))
    if origin in (types.UnionType, typing.Union):
        return None if value is None else build(arguments[0], value)
    if origin is not None and issubclass(origin, Mapping):
        return {key: build(arguments[1], each) for key, each in value.items()}
    if not (isinstance(declared, type) and dataclasses.is_dataclass(declared)):
        return value
    hints = typing.get_type_hints(declared, include_extras=True)
    return declared(**{name: build(hints[name], each) for name, each in value.items()})


def _fields(declared: Any) -> dict[str, Schema]:
    hints = typing.get_type_hints(declared, include_extras=True)
    return {field.name: of(hints[field.name]) for field in dataclasses.fields(declared)}


def _wrong(where: str, value: Any, expected: str) -> ValueError:
    # Lists and objects by their type alone: they may be large, or too deep for Python to print.
    shown = type(value).__name__ if isinstance(value, list | dict) else repr(value)
    return ValueError(f'"{where}" is {shown if len(shown) <= 60 else shown[:57] + "…"}, expected '
                      f'{expected}')
