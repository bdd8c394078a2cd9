"""Atomic writes: a file or folder is either the old one or the new one, whenever the process dies."""

import contextlib
import errno
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

from atlas_jax import errors


@contextlib.contextmanager
def disk_full_is_a_user_error(path) -> Iterator[None]:
    """Turns ENOSPC (and the quota's EDQUOT) inside the block into a DiskFullError that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise errors.DiskFullError(f'{path}: the disk is full; free some space and run the same command again') from error
        raise


@contextlib.contextmanager
def writing(path: str | os.PathLike, mode: str = 'w') -> Iterator[Any]:
    """Opens a temporary neighbour of `path` and moves it there when the block ends well.

    Raises DiskFullError when the disk is full; `path` then still holds what it held.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.tmp{os.getpid()}')
    try:
        with disk_full_is_a_user_error(path):
            with open(temporary, mode, encoding=None if 'b' in mode else 'utf-8') as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON, atomically."""
    with writing(path) as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write('\n')


@contextlib.contextmanager
def writing_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives an empty temporary folder beside `path` that becomes `path` when the block ends well.

    `path` must not exist yet. Raises DiskFullError when the disk is full.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.tmp{os.getpid()}')
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        with disk_full_is_a_user_error(path):
            yield temporary
            os.rename(temporary, path)
            _sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sync_folder(folder: pathlib.Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
