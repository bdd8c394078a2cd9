"""Sizes and modification times of files as JSON values, which tell whether a file has changed."""

import os
import pathlib
from typing import Any


def state_of(path: pathlib.Path, name: str) -> list[Any]:
    """Returns [name, bytes, modification time in microseconds] of a file, [name, sorted names in
    it] of a folder, and [name] if there is neither.
    """
    try:
        status = path.stat()
    except OSError:
        return [name]
    if path.is_dir():
        return [name, sorted(os.listdir(path))]
    # Not nanoseconds: JSON readers keep integers exact only up to 2**53.
    return [name, status.st_size, status.st_mtime_ns // 1000]
