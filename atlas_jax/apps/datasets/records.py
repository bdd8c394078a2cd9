"""Records of published files, whose fields are read with errors that name file, line and field."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeGuard, TypeVar

from atlas_jax import errors
from atlas_jax.io import json_array, jsonl, untrusted

_Made = TypeVar('_Made')


@dataclasses.dataclass(frozen=True)
class PublishedRecord:
    """One object of a published file.

    Attributes:
      path: The file.
      fields: The fields, as the publisher wrote them.
      line: The line, from 1, in a file of JSON lines or csv.
      place: The position in a file that is one JSON value, such as Data[3]; '' in other files.
    """

    path: pathlib.Path
    fields: Mapping[str, Any]
    line: int | None = None
    place: str = ''

    def wrong(self, field: str, problem: str, remedy: str = '') -> errors.InputFileError:
        """Returns an error about a field; the field '' means the whole record."""
        place = '.'.join(part for part in (self.place, field) if part)
        return errors.InputFileError(self.path, problem, line=self.line, field=place or None,
                                     remedy=remedy)

    def text(self, name: str, default: str | None = None) -> str:
        """Returns a text without surrounding blanks. If there is a default, it replaces a text
        that is missing, null or blank.

        Raises InputFileError: the text is missing, blank, not a text, or not valid Unicode.
        """
        value = self.fields.get(name)
        if default is not None and (value is None or value == ''):
            return default
        if name not in self.fields:
            raise self.wrong(name, 'missing',
                             f'fields found: {", ".join(sorted(self.fields))[:200]}')
        if not is_text(value) or not (value.strip() or default is not None):
            raise self.wrong(name,
                             f'expected a text that is not blank, found {untrusted.shown(value)}')
        return value.strip()

    def identity(self, name: str) -> str:
        """Returns an id, which is a text or a whole number, as text.

        Raises InputFileError: the id is missing, blank, or of another type.
        """
        value = self.fields.get(name)
        return str(value) if is_whole(value) else self.text(name)

    def identity_if_given(self, name: str) -> dict[str, str]:
        """Returns {'id': the id in the field `name`}, or {} if that is missing, null or ''.

        Raises InputFileError: the id is blank or of another type.
        """
        return {} if self.fields.get(name) in (None, '') else {'id': self.identity(name)}

    def answers(self, name: str) -> list[str]:
        """Returns the distinct answers in a list of texts, in their order.

        Raises InputFileError: the field is not a list of texts, or has no answer.
        """
        value = self.fields.get(name)
        if not isinstance(value, list) or not all(map(is_text, value)):
            raise self.wrong(name, f'expected a list of texts, found {untrusted.shown(value)}')
        if not (answers := distinct(value)):
            raise self.wrong(name, 'no answer that is not blank')
        return answers

    def objects(self, name: str) -> list['PublishedRecord']:
        """Returns a list of objects as records; a missing or null list is empty.

        Raises InputFileError: the field is something else.
        """
        value = self.fields.get(name) or []
        if not isinstance(value, list) or not all(isinstance(part, dict) for part in value):
            raise self.wrong(name, f'expected a list of objects, found {untrusted.shown(value)}')
        place = f'{self.place}.{name}' if self.place else name
        return [
            dataclasses.replace(self, fields=part, place=f'{place}[{number}]')
            for number, part in enumerate(value)]


def is_text(value: object) -> TypeGuard[str]:
    """Returns whether a JSON value is a text that UTF-8 can hold; half a surrogate pair is not."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def is_whole(value: object) -> TypeGuard[int]:
    """Returns whether a JSON value is a whole number; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def distinct(texts: Iterable[str]) -> list[str]:
    """Returns the texts without surrounding blanks, each once, in their order, without empty ones.
    """
    return list(dict.fromkeys(text.strip() for text in texts if text.strip()))


def read(path: pathlib.Path, form: str) -> Iterator[PublishedRecord | errors.InputFileError]:
    """Yields the records of a file, and for a record that cannot be read its error.

    Args:
      path: The file, compressed or not.
      form: 'lines' for JSON lines, 'array' for an array of objects. Any other value names the
        member of one object that holds the array, such as Data.

    Raises InputFileError: the file is missing, truncated or damaged, so that its rest cannot be
    read.
    """
    if form == 'lines':
        for line, fields in jsonl.read_each(path):
            yield fields if isinstance(fields, errors.InputFileError) else PublishedRecord(
                path, fields, line=line)
        return
    member = '' if form == 'array' else form
    for number, fields in json_array.elements(path, member):
        place = f'{member}[{number}]'
        if isinstance(fields, dict):
            yield PublishedRecord(path, fields, place=place)
        else:
            yield errors.InputFileError(path,
                                        f'expected an object, found {untrusted.shown(fields)}',
                                        field=place)


def attempt(record: PublishedRecord | errors.InputFileError,
            make: Callable[[PublishedRecord], _Made]) -> _Made | errors.InputFileError:
    """Returns what `make` makes of a record, or the error of the record or of `make`."""
    if isinstance(record, errors.InputFileError):
        return record
    try:
        return make(record)
    except errors.InputFileError as error:
        return error
