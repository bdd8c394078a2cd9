"""Reads untrusted content: JSON that cannot exhaust memory, and file names inside a folder."""

import json
import math
import pathlib
import stat
import types
import typing
from typing import Any

# CPython refuses longer integers too, but its message is about sys.set_int_max_str_digits.
_MAX_DIGITS = 4300
_MAX_NAME, _MAX_PART = 1024, 255  # characters, and bytes of a part: limits of file systems
# Limit for files that are read whole, such as configurations and tokenizers: ten times the size of
# the largest tokenizer.json.
MAX_FILE_BYTES = 1 << 28


def parse_json(text: str | bytes) -> Any:
    """Returns the value of JSON text; the package parses all JSON from outside the process here.

    Raises ValueError: not UTF-8, not JSON, brackets nested deeper than Python's stack, or an
    integer of more than 4,300 digits.
    """
    try:
        return json.loads(text, parse_int=_integer)
    except RecursionError as error:
        raise ValueError('brackets are nested too deep') from error


def parse_json_at(text: str, start: int) -> tuple[Any, int]:
    """Returns the JSON value that begins at a place of a text, and the place where it ends.

    Raises ValueError: the same errors as `parse_json`; json.JSONDecodeError also if the text ends
    inside the value.
    """
    try:
        return json.JSONDecoder(parse_int=_integer).raw_decode(text, start)
    except RecursionError as error:
        raise ValueError('brackets are nested too deep') from error


def read_json(path: pathlib.Path) -> Any:
    """Returns the value of a JSON file.

    Raises FileNotFoundError, ValueError: see `read_bytes` and `parse_json`.
    """
    return parse_json(read_bytes(path))


def read_bytes(path: pathlib.Path, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Returns the content of a file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: no regular file, no permission to read it, or more than `max_bytes`.
    """
    require_regular_file(path)
    try:
        # A sparse file takes no disk space, but would take all memory.
        if (size := path.stat().st_size) > max_bytes:
            raise ValueError(f'{size:,} bytes, expected at most {max_bytes:,}')
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f'it cannot be read: {error.strerror}') from error


def has_type(value: object, declared: Any) -> bool:
    """Returns True if a JSON value fits the declared type of a dataclass's field.

    Supports int, float, str, bool, None, classes, unions, tuple[X, ...] and dict[str, X]. JSON
    writes tuples as lists and 1.0 as 1. True, NaN and infinity are not numbers.
    """
    origin, arguments = typing.get_origin(declared), typing.get_args(declared)
    if origin in (types.UnionType, typing.Union):
        return any(has_type(value, each) for each in arguments)
    if origin is tuple:
        return isinstance(value, list | tuple) and all(
            has_type(each, arguments[0]) for each in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            has_type(each, arguments[1]) for each in value.values())
    if declared in (int, float) and isinstance(value, bool):
        return False
    if declared is float:
        return isinstance(value, int | float) and abs(value) < 1e300 and math.isfinite(value)
    return declared is Any or value is None and declared in (None, types.NoneType) or isinstance(
        value, declared)


def shown(value: object) -> str:
    """Returns a file's value for a message: one line, at most 80 characters."""
    # Containers are named by type: a few bytes of a pickle can stand for gigabytes of text.
    if isinstance(value, str | bytes):
        return repr(value[:80]) + ('…' if len(value) > 80 else '')
    if isinstance(value, int) and abs(value) >= 10**20:
        return f'an integer of {value.bit_length():,} bits'
    if value is None or isinstance(value, int | float):
        return repr(value)
    return f'a value of type {type(value).__name__}' if value else repr(value)[:80]


def inside(folder: pathlib.Path, name: object, *, links: bool = True) -> pathlib.Path:
    """Returns folder/name for a name that was read from a file; names use `/` on all systems.

    Set `links` to False for files to write or delete: then no link may lead out of the folder.
    Files to read may be links, since Hugging Face's cache consists of links to ../../blobs.

    Raises ValueError: the name is no text, empty, absolute, too long, contains a NUL or backslash,
    or leads out of the folder.
    """
    if (not isinstance(name, str) or not name or len(name) > _MAX_NAME or '\0' in name
            or '\\' in name):
        raise ValueError(f'{str(name)[:80]!r} is no file name')
    parts = pathlib.PurePosixPath(name)
    if not parts.parts:  # '.': the folder itself, which nobody may remove by a name
        raise ValueError(f'{name[:80]!r} is no file name')
    # encode raises a ValueError for half of a surrogate pair.
    if any(len(part.encode()) > _MAX_PART for part in parts.parts):
        raise ValueError(f'the name {name[:80]!r}… is too long')
    leads_out = parts.is_absolute() or '..' in parts.parts
    if leads_out or not (links or (folder / name).resolve().is_relative_to(folder.resolve())):
        raise ValueError(f'the name {name[:80]!r} leads out of the folder')
    return folder / name


def require_regular_file(path: pathlib.Path) -> None:
    """Raises ValueError: `path` exists and is no regular file; reading a pipe may never end."""
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        raise ValueError('no regular file (a folder, pipe or device)')


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f'an integer of {len(digits):,} digits')
    return int(digits)
