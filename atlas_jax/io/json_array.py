"""Large JSON files that are one array, or one object with an array: read element by element, never as a whole."""

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
# What may stand before the array of an object: other members with plain values, such as SQuAD's version.
_BEFORE = rf'\s*\{{(?:\s*{_STRING}\s*:\s*(?:{_STRING}|[\w.+-]+)\s*,)*\s*"%s"\s*:\s*\['


class Opening(NamedTuple):
    """How a JSON file begins.

    kind    'array'; 'member', an object whose array is `member`; or 'lines', whose first line is an object
    fields  names in the first element or line; empty if it is no object
    member  '' for the other two kinds
    """

    kind: str
    fields: frozenset[str]
    member: str = ''


def opening(path: str | os.PathLike, members: tuple[str, ...] = ()) -> Opening:
    """Returns how a JSON file begins, compressed or not; `members` are the arrays of objects to look for.

    Raises InputFileError: a missing, damaged or empty file, or one that begins with neither an array nor an object.
    """
    path = pathlib.Path(path)
    with _Text(path) as text:
        for member in ('', *members):
            if _start_of(text.held, member) is not None:
                first = next(elements(path, member))[1]
                return Opening('member' if member else 'array', frozenset(first if isinstance(first, dict) else ()), member)
        text.place = len(text.held) - len(text.held.lstrip())
        if text.at(1) != '{':
            what = 'begins with neither a JSON array nor a JSON object' if text.held.strip() else 'the file is empty'
            raise errors.InputFileError(path, what, remedy='give the file as its publisher writes it')
        return Opening('lines', frozenset(text.value('at its beginning')))


def elements(path: str | os.PathLike, member: str = '') -> Iterator[tuple[int, Any]]:
    """Yields (number from 0, element) of a file's array of objects or lists, or of the array that is a member of its one object.

    Memory holds one element and a few MiB. What stands behind the array of a member is not read.

    Raises InputFileError: a missing, damaged or truncated file, no such array, one that is empty, or an element of more than 64 MiB.
    """
    path = pathlib.Path(path)
    with _Text(path) as text:
        place = _start_of(text.held, member)
        if place is None:
            what = f'does not begin with an object that has the array "{member}"' if member else 'does not begin with a JSON array'
            raise errors.InputFileError(path, what, remedy='give the file as its publisher writes it')
        number, text.place = 0, place
        while text.goes_on(number):
            yield number, text.value(f'in element {number}')
            number += 1
    if not number:
        raise errors.InputFileError(path, f'the array "{member}" is empty' if member else 'the array is empty', remedy=_REMEDY)


def _start_of(text: str, member: str) -> int | None:
    """Returns the place behind the opening bracket, None if the text has none there."""
    found = re.match(_BEFORE % re.escape(member) if member else r'\s*\[', text)
    return found.end() if found else None


class _Text:
    """A file's text, decoded as far as it is needed: `held` is what was read and not dropped, `place` where the reading stands in it."""

    def __init__(self, path: pathlib.Path):
        self._path, self._opened = path, compressed.reading(path)
        self._decoder = codecs.getincrementaldecoder('utf-8')()
        self.held, self.place = '', 0

    def __enter__(self) -> '_Text':
        self._file = self._opened.__enter__()
        if self._file.peek(3)[:3] == codecs.BOM_UTF8:  # some editors put it first
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
            found = _BETWEEN.match(self.held, self.place)
            if found and found.end() < len(self.held):
                break
            if not self._fill():
                raise errors.InputFileError(self._path, f'truncated: it ends inside the array, behind {number} elements', remedy=_REMEDY)
        self.place = found.end()
        # No comma before the first element and before the end, one before every other.
        if bool(found[1]) != (number > 0 and self.at(1) != ']'):
            raise errors.InputFileError(self._path, f'broken JSON before element {number}: a comma too many or too few', remedy=_REMEDY)
        return self.at(1) != ']'

    def value(self, where: str) -> Any:
        """Returns the value at the place, which moves behind it. Raises InputFileError: it is broken, or longer than 64 MiB."""
        while True:
            try:
                value, end = untrusted.parse_json_at(self.held, self.place)
                # A number may go on behind what is held.
                if end < len(self.held) or not self._fill():
                    self.place = end
                    return value
            except json.JSONDecodeError as error:
                # Broken and unfinished look alike: decided where no more can be read.
                if len(self.held) - self.place > _MAX_ELEMENT:
                    raise errors.InputFileError(self._path, f'broken JSON {where}, or more than {_MAX_ELEMENT:,} characters',
                                                remedy=_REMEDY) from error
                if not self._fill():
                    raise errors.InputFileError(self._path, f'broken or truncated JSON {where} ({error.msg})', remedy=_REMEDY) from error
            except ValueError as error:
                raise errors.InputFileError(self._path, f'broken JSON {where} ({error})', remedy=_REMEDY) from error

    def _fill(self) -> bool:
        """Drops what was read and reads on; returns False at the end. Raises InputFileError: no UTF-8."""
        self.held, self.place = self.held[self.place:], 0
        # As much as is held already: an element of any size is then tried a few times only.
        block = self._file.read(max(_CHUNK, len(self.held)))
        try:
            self.held += self._decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise errors.InputFileError(self._path, f'not UTF-8 text ({error.reason})', remedy=_REMEDY) from error
        return bool(block)
