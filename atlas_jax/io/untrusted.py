"""Content of files from anywhere: JSON that cannot exhaust the interpreter, and names that stay in their folder."""

import json
import pathlib
import stat
from typing import Any

# CPython refuses longer integers itself, by a ValueError that speaks of sys.set_int_max_str_digits.
_MAX_DIGITS = 4300
_MAX_NAME = 1024  # characters; file systems allow 255 a part


def parse_json(text: str | bytes) -> Any:
    """Returns the value of JSON text. All JSON that this project did not make in the same process is parsed here.

    Raises ValueError: not UTF-8, not JSON, brackets nested deeper than Python's stack, or an integer of more than 4,300 digits.
    """
    try:
        return json.loads(text, parse_int=_integer)
    except RecursionError as error:
        raise ValueError('brackets are nested too deep') from error


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
