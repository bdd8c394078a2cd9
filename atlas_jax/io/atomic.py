"""Atomic writes: a file or folder is either the old or the new one, whenever the process dies."""

import contextlib
import errno
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import IO, Any

from atlas_jax import errors


@contextlib.contextmanager
def disk_full_is_a_user_error(path: str | os.PathLike) -> Iterator[None]:
    """Raises DiskFullError naming `path` for an ENOSPC or EDQUOT (quota) inside the block."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise errors.DiskFullError(f'{path}: the disk is full; free some space and run the same command again') from error
        raise


@contextlib.contextmanager
def writing(path: str | os.PathLike, mode: str = 'w') -> Iterator[IO[Any]]:
    """Opens a temporary file beside `path` and moves it to `path` when the block ends without an error.

    Raises DiskFullError: the disk is full, and `path` is unchanged.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.tmp{os.getpid()}')
    try:
        with disk_full_is_a_user_error(path):
            # Contents reach the disk before the name does: after a power cut the name must not stand for an empty file.
            with open(temporary, mode, encoding=None if 'b' in mode else 'utf-8') as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON, atomically. Raises DiskFullError, TypeError: no JSON value."""
    with writing(path) as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write('\n')


@contextlib.contextmanager
def writing_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields an empty temporary folder beside `path` that becomes `path` when the block ends without an error.

    `path` must not exist yet. Raises DiskFullError: the disk is full, and there is no `path`.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside `path`: a rename is atomic within one file system only.
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
    # A rename is on the disk when its folder is.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
