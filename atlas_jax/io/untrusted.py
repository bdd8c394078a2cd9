"""Content of files from anywhere: JSON that cannot exhaust the interpreter, and names that stay in their folder."""

import json
import math
import pathlib
import stat
import types
import typing
from typing import Any

# CPython refuses longer integers itself, by a ValueError that speaks of sys.set_int_max_str_digits.
_MAX_DIGITS = 4300
_MAX_NAME, _MAX_PART = 1024, 255  # characters, and bytes of a part, as file systems allow
# Of a file that is read whole: configurations, tokenizers, documents. The largest tokenizer.json are a tenth of it.
MAX_FILE_BYTES = 1 << 28


def parse_json(text: str | bytes) -> Any:
    """Returns the value of JSON text. All JSON that this project did not make in the same process is parsed here.

    Raises ValueError: not UTF-8, not JSON, brackets nested deeper than Python's stack, or an integer of more than 4,300 digits.
    """
    try:
        return json.loads(text, parse_int=_integer)
    except RecursionError as error:
        raise ValueError('brackets are nested too deep') from error


def parse_json_at(text: str, start: int) -> tuple[Any, int]:
    """Returns the JSON value that begins at a place of a longer text, and where it ends.

    Raises ValueError: as `parse_json`; json.JSONDecodeError also where the text ends inside the value.
    """
    try:
        return json.JSONDecoder(parse_int=_integer).raw_decode(text, start)
    except RecursionError as error:
        raise ValueError('brackets are nested too deep') from error


def read_json(path: pathlib.Path) -> Any:
    """Returns the value of a JSON file. Raises FileNotFoundError, and ValueError as `read_bytes` and `parse_json`."""
    return parse_json(read_bytes(path))


def read_bytes(path: pathlib.Path, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Returns the content of a file that is held in memory at once.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: no regular file, one that may not be read, or one of more than `max_bytes`.
    """
    require_regular_file(path)
    try:
        # A file of holes takes no disk and all of the memory.
        if (size := path.stat().st_size) > max_bytes:
            raise ValueError(f'{size:,} bytes, expected at most {max_bytes:,}')
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f'it cannot be read: {error.strerror}') from error


def has_type(value: object, declared: Any) -> bool:
    """Returns True if a value of JSON is of the declared type of a dataclass's field.

    Known are int, float, str, bool, None, classes, unions, tuple[X, ...] and dict[str, X]. JSON has lists for tuples, and 1 for 1.0; True
    is no number, and NaN and infinity are none either.
    """
    origin, arguments = typing.get_origin(declared), typing.get_args(declared)
    if origin in (types.UnionType, typing.Union):
        return any(has_type(value, each) for each in arguments)
    if origin is tuple:
        return isinstance(value, list | tuple) and all(has_type(each, arguments[0]) for each in value)
    if origin is dict:
        return isinstance(value, dict) and all(has_type(each, arguments[1]) for each in value.values())
    if declared is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300 and math.isfinite(value)
    if declared is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return declared is Any or value is None and declared in (None, types.NoneType) or isinstance(value, declared)


def shown(value: object) -> str:
    """Returns a value of a file as a message shows it: on one line, at most 80 characters."""
    # Containers by their kind alone: a few bytes of a pickle or of JSON can stand for gigabytes of text.
    if isinstance(value, str | bytes):
        return repr(value[:80]) + ('…' if len(value) > 80 else '')
    if isinstance(value, int) and abs(value) >= 10**20:
        return f'an integer of {value.bit_length():,} bits'
    if value is None or isinstance(value, int | float):
        return repr(value)
    return f'a value of type {type(value).__name__}' if value else repr(value)[:80]


def inside(folder: pathlib.Path, name: object, *, links: bool = True) -> pathlib.Path:
    """Returns folder/name for a name that was read from a file; names use `/`, whatever the system.

    Without `links` a link must not lead out either: use it for what is written or deleted. What is read may be a link, for the cache of
    Hugging Face consists of links to ../../blobs.

    Raises ValueError: no text, empty, absolute, too long, with a NUL or a backslash, or one that leads out of the folder.
    """
    if not isinstance(name, str) or not name or len(name) > _MAX_NAME or '\0' in name or '\\' in name:
        raise ValueError(f'{str(name)[:80]!r} is no file name')
    parts = pathlib.PurePosixPath(name)
    if not parts.parts:  # '.': the folder itself, which nobody may remove by a name
        raise ValueError(f'{name[:80]!r} is no file name')
    # encode raises a ValueError of its own for half of a surrogate pair.
    if any(len(part.encode()) > _MAX_PART for part in parts.parts):
        raise ValueError(f'the name {name[:80]!r}… is too long')
    leads_out = parts.is_absolute() or '..' in parts.parts
    if leads_out or not (links or (folder / name).resolve().is_relative_to(folder.resolve())):
        raise ValueError(f'the name {name[:80]!r} leads out of the folder')
    return folder / name


def require_regular_file(path: pathlib.Path) -> None:
    """Raises ValueError if `path` exists and is no regular file: a pipe would wait for ever, a device never ends."""
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        raise ValueError('no regular file (a folder, pipe or device)')


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f'an integer of {len(digits):,} digits')
    return int(digits)
