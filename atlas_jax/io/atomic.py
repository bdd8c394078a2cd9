"""Atomic writes: a file or folder is the old one or the new one, whenever the process dies."""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from typing import IO, Any

from atlas_jax import errors

# The writer holds a flock on its temporary file, or on this file in its temporary folder. The
# system frees it however the process ends, so the next writer recognises leftovers. A process
# number would not do: numbers are reused, and another machine cannot check them.
_LOCK = '.lock'
_DISK_FULL = re.compile(r'No space left on device|Disk quota exceeded|ENOSPC|EDQUOT')
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
# Failures of the disk or its network, and limits of the system.
_FAILING = (errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV, errno.EREMOTEIO, errno.EFBIG,
            errno.ELOOP, errno.ENAMETOOLONG, errno.EMFILE, errno.ENFILE)
_TEMPORARY = re.compile(r'\.(.+)\.tmp\d{12}', re.DOTALL)


@contextlib.contextmanager
def storage_errors_are_user_errors(path: str | os.PathLike) -> Iterator[None]:
    """Raises `user_error` for a storage OSError inside the block, and DiskFullError for errors of
    TensorStore or Orbax about a full disk. Other errors pass through.
    """
    try:
        yield
    except Exception as error:
        problem = user_error(path, error) if isinstance(error, OSError) else None
        # A DiskFullError from inside names a temporary folder; this one names the user's path.
        if problem is None and (isinstance(error, errors.DiskFullError) or says_disk_full(error)):
            problem = _disk_full(path)
        if problem is None:
            raise
        raise problem from error


def says_disk_full(error: Exception) -> bool:
    """Returns whether the text of an error tells of a full disk. TensorStore gives only a text."""
    return not isinstance(error, errors.UserError) and bool(_DISK_FULL.search(str(error)))


def user_error(path: str | os.PathLike, error: OSError) -> errors.UserError | None:
    """Returns a DiskFullError or StorageError for a full, failing or forbidden disk.

    Returns None for other errors, such as a missing file: the caller knows what they mean.

    Args:
      path: the path that was read or written, for errors that name no file.
      error: the system's error.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _disk_full(path)
    if error.errno in _FORBIDDEN:
        remedy = 'give a path that you may use'
    elif error.errno in _FAILING:
        remedy = 'check the disk, then run the same command again'
    else:
        return None
    return errors.StorageError(f'{error.filename or path}: cannot be read or written '
                               f'({os.strerror(error.errno)}); {remedy}')


def _disk_full(path: str | os.PathLike) -> errors.DiskFullError:
    return errors.DiskFullError(f'{path}: the disk is full; free some space and run the same '
                                'command again')


@contextlib.contextmanager
def writing(path: str | os.PathLike, mode: str = 'w') -> Iterator[IO[Any]]:
    """Opens a temporary file beside `path`, and moves it to `path` when the block ends without an
    error.

    Removes temporary files of killed writers in the folder first. Raises DiskFullError: `path` is
    unchanged.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path.parent)
    encoding = None if 'b' in mode else 'utf-8'
    while True:
        temporary = _beside(path)
        try:
            with storage_errors_are_user_errors(path), open(temporary, mode.replace('w', 'x'),
                                                            encoding=encoding) as file:
                if not _hold(file.fileno()):
                    continue
                yield file
                # The contents reach the disk before the name: after a power cut the name must not
                # belong to an empty file.
                file.flush()
                os.fsync(file.fileno())
                # Moved while locked, so that nobody takes it for a leftover.
                os.replace(temporary, path)
                _sync_folder(path.parent)
                return
        finally:
            # The error that ended the block counts, and the next writer removes the file.
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON, atomically.

    Raises DiskFullError. TypeError: not a JSON value.
    """
    with writing(path) as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write('\n')


@contextlib.contextmanager
def writing_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields an empty temporary folder beside `path`, which becomes `path` when the block ends
    without an error.

    `path` must not exist yet. Removes temporary folders of killed writers beside it first.

    Raises:
      FolderExistsError: another process is writing `path`, or has written it meanwhile.
      DiskFullError: `path` was not written.
    """
    path = pathlib.Path(path)
    with scratch_folder(path, alone=True) as temporary, storage_errors_are_user_errors(path):
        yield temporary
        try:
            os.rename(temporary, path)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise errors.FolderExistsError(f'{path}: another process has written it '
                                               'meanwhile; give another folder') from error
            raise
        (path / _LOCK).unlink()
        _sync_folder(path.parent)


@contextlib.contextmanager
def scratch_folder(path: str | os.PathLike, *, alone: bool = False) -> Iterator[pathlib.Path]:
    """Yields an empty temporary folder beside `path`, and removes it when the block ends. Removes
    temporary folders of killed writers first.

    Raises:
      FolderExistsError: `alone` is set, and another process has a temporary folder for this path.
      DiskFullError.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name in remove_abandoned(path.parent) and alone:
        raise errors.FolderExistsError(f'{path}: another process is writing it; wait until it has '
                                       'finished, or give another folder')
    with storage_errors_are_user_errors(path):
        temporary, descriptor = _make(path)
    try:
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            _remove(temporary)
        os.close(descriptor)


def remove_abandoned(folder: pathlib.Path) -> set[str]:
    """Removes the temporary files and folders in `folder` whose writers have died. Returns the
    names that other processes are writing there.
    """
    alive = set()
    with contextlib.suppress(OSError):  # some folders may be written but not listed
        for name in os.listdir(folder):
            if (match := _TEMPORARY.fullmatch(name)) and not _removed(folder / name):
                alive.add(match[1])
    return alive


def _beside(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f'.{path.name}.tmp{secrets.randbelow(10**12):012}')


def _make(path: pathlib.Path) -> tuple[pathlib.Path, int]:
    """Makes a temporary folder for `path` with a lock file. Returns the folder, and a descriptor of
    the file that holds the lock.
    """
    while True:
        # Beside `path`: a rename is atomic within one file system only.
        temporary = _beside(path)
        temporary.mkdir()
        try:
            descriptor = os.open(temporary / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        except FileNotFoundError:
            continue  # another process took the empty folder for a leftover
        except OSError:
            temporary.rmdir()
            raise
        if _hold(descriptor):
            return temporary, descriptor
        os.close(descriptor)


def _hold(descriptor: int) -> bool:
    """Locks a file that this process has just made. Returns False if another process took it for a
    leftover before.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # the disk has no locks, so nobody can lock and remove the file
    return os.fstat(descriptor).st_nlink > 0


def _removed(temporary: pathlib.Path) -> bool:
    """Removes a temporary file or folder unless its writer lives. Returns False if the writer
    lives.
    """
    try:
        is_folder = stat.S_ISDIR(temporary.lstat().st_mode)
        descriptor = os.open(temporary / _LOCK if is_folder else temporary,
                             os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        # It is gone, or a folder without a lock file: its writer was killed, or is about to make
        # the file. An empty folder is removed; a living writer makes another.
        with contextlib.suppress(OSError):
            temporary.rmdir()
        return True
    except OSError:
        return True  # a link, or not ours
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # its writer lives, or the disk has no locks
        os.close(descriptor)
        return False
    with contextlib.suppress(OSError):
        _remove(temporary)
    os.close(descriptor)
    return True


def _remove(temporary: pathlib.Path) -> None:
    if not temporary.is_dir():
        temporary.unlink(missing_ok=True)
        return
    # The lock file goes last: if this process is killed too, the rest is still recognised.
    for path in temporary.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != _LOCK:
            path.unlink(missing_ok=True)
    (temporary / _LOCK).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        temporary.rmdir()


def _sync_folder(folder: pathlib.Path) -> None:
    # A rename reaches the disk with its folder.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
