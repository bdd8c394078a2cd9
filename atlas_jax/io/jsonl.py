"""JSON lines: read with errors that name file, line and field; written atomically."""

import json
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from atlas_jax import errors
from atlas_jax.io import atomic


def read(path: str | os.PathLike, required: Iterable[str] = ()) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number from 1, object) for every line that is not blank.

    Raises InputFileError: a missing or empty file, not UTF-8, a line that is not a JSON object, or one that lacks a `required` field.
    """
    # Line by line: files of millions of lines are read without being held.
    path, required, empty = pathlib.Path(path), tuple(required), True
    if not path.is_file():
        raise errors.InputFileError(path, 'no such file', remedy='give the path of a JSON-lines file')
    with open(path, encoding='utf-8-sig') as file:  # some editors put a byte order mark first
        try:
            for number, line in enumerate(file, start=1):  # not splitlines: a text may hold U+2028
                if line.strip():
                    empty = False
                    yield number, _parse(path, number, line, required)
        except UnicodeDecodeError as error:
            raise errors.InputFileError(path, f'not UTF-8 text ({error.reason})', remedy='save the file as UTF-8') from error
    if empty:
        raise errors.InputFileError(path, 'the file is empty', remedy='it needs one JSON object a line')


def _parse(path: pathlib.Path, number: int, line: str, required: tuple[str, ...]) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        problem = f'broken JSON at column {error.colno}: {error.msg}'
        raise errors.InputFileError(path, problem, line=number, remedy='each line must be one JSON object') from error
    if not isinstance(value, dict):
        raise errors.InputFileError(path, f'expected a JSON object, found {type(value).__name__}', line=number)
    for field in required:
        if field not in value:
            found = ', '.join(sorted(value)) or 'none'
            raise errors.InputFileError(path, 'missing', line=number, field=field, remedy=f'fields found: {found}')
    return value


def write(path: str | os.PathLike, rows: Iterable[dict[str, Any]]) -> None:
    """Writes one JSON object a line, atomically. Raises DiskFullError."""
    # A killed run leaves the old file or the new one, never half of one.
    with atomic.writing(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + '\n')
