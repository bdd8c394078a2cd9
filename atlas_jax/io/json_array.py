"""Reads large JSON files, one array or one object with an array, element by element."""

import codecs
import json
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from atlas_jax import errors
from atlas_jax.io import compressed, untrusted

_MAX_ELEMENT = 1 << 26  # characters
_CHUNK = 1 << 20  # bytes
_REMEDY = 'download or copy the file again'
_BETWEEN = re.compile(r'[ \t\r\n]*(,?)[ \t\r\n]*')
_STRING = r'"(?:[^"\\]|\\.)*"'
# Members with plain values, such as SQuAD's version, may stand before the array of an object.
_BEFORE = rf'\s*\{{(?:\s*{_STRING}\s*:\s*(?:{_STRING}|[\w.+-]+)\s*,)*\s*"%s"\s*:\s*\['


class Opening(NamedTuple):
    """How a JSON file begins.

    Attributes:
      kind: 'array'; 'member', an object with the array `member`; or 'lines', JSON lines.
      fields: Field names of the first element or line; empty if it is no object.
      member: Name of the array for kind 'member', else ''.
    """

    kind: str
    fields: frozenset[str]
    member: str = ''


def opening(path: str | os.PathLike, members: tuple[str, ...] = ()) -> Opening:
    """Returns how a JSON file, compressed or not, begins.

    Args:
      path: The file.
      members: Names of arrays to look for if the file is one object.

    Raises InputFileError: a missing, damaged or empty file, or one that begins with neither an
    array nor an object.
    """
    path = pathlib.Path(path)
    with _Text(path) as text:
        for member in ('', *members):
            if _start_of(text.held, member) is not None:
                first = next(elements(path, member))[1]
                return Opening('member' if member else 'array',
                               frozenset(first if isinstance(first, dict) else ()), member)
        text.place = len(text.held) - len(text.held.lstrip())
        if text.at(1) != '{':
            what = ('begins with neither a JSON array nor a JSON object' if text.held.strip()
                    else 'the file is empty')
            raise errors.InputFileError(path, what,
                                        remedy='give the file as its publisher writes it')
        return Opening('lines', frozenset(text.value('at its beginning')))


def elements(path: str | os.PathLike, member: str = '') -> Iterator[tuple[int, Any]]:
    """Yields (number from 0, element) of a file's array, or of the array `member` of its object.

    Memory holds one element and a few MiB. Text after a member's array is not read.

    Raises InputFileError: a missing, damaged or truncated file, no such array, an empty array, or
    an element of more than 64 MiB.
    """
    path = pathlib.Path(path)
    with _Text(path) as text:
        place = _start_of(text.held, member)
        if place is None:
            what = f'an object that has the array "{member}"' if member else 'a JSON array'
            raise errors.InputFileError(path, f'does not begin with {what}',
                                        remedy='give the file as its publisher writes it')
        number, text.place = 0, place
        while text.goes_on(number):
            yield number, text.value(f'in element {number}')
            number += 1
    if not number:
        raise errors.InputFileError(
            path, f'the array "{member}" is empty' if member else 'the array is empty',
            remedy=_REMEDY)


def _start_of(text: str, member: str) -> int | None:
    """Returns the place after the array's opening bracket, or None."""
    match = re.match(_BEFORE % re.escape(member) if member else r'\s*\[', text)
    return match.end() if match else None


class _Text:
    """A file's text, decoded as needed.

    Attributes:
      held: Text that was read and not yet dropped.
      place: Current position in `held`.
    """

    def __init__(self, path: pathlib.Path):
        self._path, self._opened = path, compressed.reading(path)
        self._decoder = codecs.getincrementaldecoder('utf-8')()
        self.held, self.place = '', 0

    def __enter__(self) -> '_Text':
        self._file = self._opened.__enter__()
        if self._file.peek(3)[:3] == codecs.BOM_UTF8:  # some editors write a byte order mark
            self._file.read(3)
        self._fill()
        return self

    def __exit__(self, *raised) -> None:
        self._opened.__exit__(*raised)

    def at(self, count: int) -> str:
        """Returns the next characters."""
        return self.held[self.place:self.place + count]

    def goes_on(self, number: int) -> bool:
        """Moves to element `number` of an array; returns False at its closing bracket.

        Raises InputFileError: the file ends, or a comma is missing.
        """
        while True:
            match = _BETWEEN.match(self.held, self.place)
            if match and match.end() < len(self.held):
                break
            if not self._fill():
                raise errors.InputFileError(self._path, 'truncated: it ends inside the array, '
                                            f'after {number} elements', remedy=_REMEDY)
        self.place = match.end()
        # A comma stands before every element except the first, and not before the end.
        if bool(match[1]) != (number > 0 and self.at(1) != ']'):
            raise errors.InputFileError(self._path, f'broken JSON before element {number}: a '
                                        'comma too many or too few', remedy=_REMEDY)
        return self.at(1) != ']'

    def value(self, where: str) -> Any:
        """Returns the value at the current position and moves past it.

        Raises InputFileError: it is broken, or longer than 64 MiB.
        """
        while True:
            try:
                value, end = untrusted.parse_json_at(self.held, self.place)
                # A number at the end may continue in the text not read yet.
                if end < len(self.held) or not self._fill():
                    self.place = end
                    return value
            except json.JSONDecodeError as error:
                # Broken and unfinished JSON look alike until the file ends.
                if len(self.held) - self.place > _MAX_ELEMENT:
                    raise errors.InputFileError(self._path, f'broken JSON {where}, or more than '
                                                f'{_MAX_ELEMENT:,} characters',
                                                remedy=_REMEDY) from error
                if not self._fill():
                    raise errors.InputFileError(self._path,
                                                f'broken or truncated JSON {where} ({error.msg})',
                                                remedy=_REMEDY) from error
            except ValueError as error:
                raise errors.InputFileError(self._path, f'broken JSON {where} ({error})',
                                            remedy=_REMEDY) from error

    def _fill(self) -> bool:
        """Drops the text before the position and reads on; returns False at the end of the file.

        Raises InputFileError: not UTF-8.
        """
        self.held, self.place = self.held[self.place:], 0
        # Doubles the text in memory, so that an element of any size is tried a few times only.
        block = self._file.read(max(_CHUNK, len(self.held)))
        try:
            self.held += self._decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise errors.InputFileError(self._path, f'not UTF-8 text ({error.reason})',
                                        remedy=_REMEDY) from error
        return bool(block)
