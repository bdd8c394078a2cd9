"""One writer of a store at a time."""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator

from atlas_jax import errors
from atlas_jax.io import atomic

FILE = 'lock'


@contextlib.contextmanager
def writing(folder: pathlib.Path) -> Iterator[None]:
    """Holds the folder's writer lock inside the block; creates the folder where missing. A killed process lets go of it.

    A folder that holds nothing but the lock afterwards is removed again. Raises StoreError at once: another writer holds the lock, or the
    folder cannot be written. DiskFullError.
    """
    descriptor = _acquire(folder)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if os.listdir(folder) == [FILE]:
                (folder / FILE).unlink()
                folder.rmdir()
        os.close(descriptor)


def _acquire(folder: pathlib.Path) -> int:
    while True:
        try:
            existed = folder.is_dir()
            with atomic.disk_full_is_a_user_error(folder):
                folder.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            if existed and not folder.exists():
                continue  # another writer removed its empty folder meanwhile
            raise errors.StoreError(f'{folder}: cannot write there ({error.strerror}); choose another folder') from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:  # 0: the writer before removed the file, so the lock guards nothing
                return descriptor
        except BlockingIOError as error:
            os.close(descriptor)
            raise errors.StoreError(f'{folder}: another process is writing this store; wait until it has finished') from error
        os.close(descriptor)
