"""Reads JSON lines, with errors that name file, line and field, and writes them atomically."""

import codecs
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

from atlas_jax import errors
from atlas_jax.io import atomic, compressed, untrusted

MAX_LINE = 1 << 26  # bytes


def read(path: str | os.PathLike,
         required: Iterable[str] = ()) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number from 1, object) for every line that is not blank.

    The file may be compressed, or in a bucket (io/compressed.py).

    Raises InputFileError: a missing, empty or truncated file, a pipe or device, text that is not
    UTF-8, a line that is not a JSON object or has more than 64 MiB, or one without a `required`
    field. StorageError: a bucket cannot be read.
    """
    for number, row in read_each(path, required):
        if isinstance(row, errors.InputFileError):
            raise row
        yield number, row


def read_each(
    path: str | os.PathLike, required: Iterable[str] = ()
) -> Iterator[tuple[int, dict[str, Any] | errors.InputFileError]]:
    """Yields what `read` does, and (line number, error) for a bad line, then goes on.

    A bad line is no JSON object or lacks a field.

    Raises InputFileError: a missing, empty or truncated file, a pipe or device, or a line of more
    than 64 MiB. StorageError: a bucket cannot be read.
    """
    required, empty = tuple(required), True
    # As bytes: the error of a line that is not UTF-8 names the line, and lines end at \n only:
    # a text may hold U+2028.
    with compressed.reading(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b''), start=1):
            # A sparse file, or a small compressed one, may be a single line of any length.
            if len(line) > MAX_LINE:
                raise errors.InputFileError(path, f'more than {MAX_LINE:,} bytes', line=number,
                                            remedy='each line must be one JSON object')
            if number == 1:
                # Some editors write a byte order mark.
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                empty = False
                row: dict[str, Any] | errors.InputFileError
                try:
                    row = parse_line(path, number, line, required)
                except errors.InputFileError as error:
                    row = error
                yield number, row
    if empty:
        raise errors.InputFileError(path, 'the file is empty',
                                    remedy='it needs one JSON object a line')


def parse_line(path: str | os.PathLike, number: int, line: bytes,
               required: Iterable[str] = ()) -> dict[str, Any]:
    """Returns the object of one line.

    Raises InputFileError: not UTF-8, no JSON object, or a field is missing; names the line.
    """
    try:
        value = untrusted.parse_json(line.decode())
    except UnicodeDecodeError as error:
        raise errors.InputFileError(path, f'not UTF-8 text ({error.reason})', line=number,
                                    remedy='save the file as UTF-8') from error
    except ValueError as error:
        broken = (f'at column {error.colno}: {error.msg}'
                  if isinstance(error, json.JSONDecodeError) else f'({error})')
        raise errors.InputFileError(path, f'broken JSON {broken}', line=number,
                                    remedy='each line must be one JSON object') from error
    if not isinstance(value, dict):
        raise errors.InputFileError(path, f'expected a JSON object, found {type(value).__name__}',
                                    line=number)
    for field in required:
        if field not in value:
            found = ', '.join(sorted(value))[:200] or 'none'
            raise errors.InputFileError(path, 'missing', line=number, field=field,
                                        remedy=f'fields found: {found}')
    return value


def write(path: str | os.PathLike, rows: Iterable[dict[str, Any]]) -> None:
    """Writes one JSON object a line, atomically. Raises DiskFullError."""
    with atomic.writing(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + '\n')
