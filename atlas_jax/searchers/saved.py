"""Searchers saved beside their index: a folder each, with a file that says what it was made from."""

import contextlib
import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

from atlas_jax.io import atomic

FILE = 'searcher.json'
_VERSION = 1


def write(folder: pathlib.Path, description: dict[str, Any], write_files: Callable[[pathlib.Path], None]) -> None:
    """Replaces `folder` by one that `write_files` fills and `description` describes.

    A process killed in between leaves no folder, and the searcher is built again. Raises DiskFullError.
    """
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(FileExistsError), atomic.writing_folder(folder) as written:
        write_files(written)
        atomic.write_json(written / FILE, {'version': _VERSION, **description})


def read(folder: pathlib.Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """The description of the searcher in `folder`; None where there is none, or one that is not as wanted."""
    try:
        description = json.loads((folder / FILE).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return None
    wanted = {'version': _VERSION, **wanted}
    matches = isinstance(description, dict) and {name: description.get(name) for name in wanted} == wanted
    return description if matches else None
