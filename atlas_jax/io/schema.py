"""Declared shapes of JSON values from files: tables of fields with types and ranges, compared before anything is done with a value."""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any, Protocol

from atlas_jax.io import untrusted


class Schema(Protocol):
    """The shape of a value."""

    def check(self, value: Any, where: str) -> None:
        """Raises ValueError, which names `where` in the file, if the value has another shape."""
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
    """Text that matches `pattern` in full; `what` says so in a message."""

    pattern: str
    what: str

    def check(self, value: Any, where: str) -> None:
        """Raises ValueError for anything else."""
        if not isinstance(value, str) or not re.fullmatch(self.pattern, value):
            raise _wrong(where, value, self.what)


@dataclasses.dataclass(frozen=True)
class FileName:
    """The name of a file below the folder that the value was read from."""

    def check(self, value: Any, where: str) -> None:
        """Raises ValueError for what leads out of the folder."""
        try:
            untrusted.inside(pathlib.Path(), value)
        except ValueError:
            raise _wrong(where, value, 'the name of a file in this folder') from None


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
class Row:
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
class Record:
    """An object of these fields, no others; `optional` ones may be absent."""

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


SHA256 = Text('[0-9a-f]{64}', 'a SHA-256 in hexadecimal')
LINE = Text(r'[^\x00-\x1f\x7f]{0,300}', 'text of one line')
# A path may lead anywhere; what the system cannot name is refused.
PATH = Text(r'[^\x00-\x1f\x7f]{0,4096}', 'a path')
FILES = Table(FileName(), Row((Integer(), SHA256)))  # {file: [bytes, SHA-256]}


def _wrong(where: str, value: Any, expected: str) -> ValueError:
    # Lists and objects by their type alone: they may be large, or too deep for Python to print.
    shown = type(value).__name__ if isinstance(value, list | dict) else repr(value)
    return ValueError(f'"{where}" is {shown if len(shown) <= 60 else shown[:57] + "…"}, expected {expected}')
