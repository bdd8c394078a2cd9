"""One writer at a time."""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator

from atlas_jax import errors
from atlas_jax.io import atomic


@contextlib.contextmanager
def writing(folder: pathlib.Path) -> Iterator[None]:
    """Holds the folder's writer lock inside the block; creates the folder where missing. A killed process lets go of it.

    Raises IndexFolderError at once: another writer holds it, or the folder cannot be written. DiskFullError.
    """
    try:
        with atomic.disk_full_is_a_user_error(folder):
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder / 'lock', os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise errors.IndexFolderError(f'{folder}: cannot write there ({error.strerror}); choose another folder') from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise errors.IndexFolderError(f'{folder}: another process is writing this index; wait until it has finished') from error
        except OSError as error:
            raise errors.IndexFolderError(f'{folder}: cannot be locked ({error.strerror}); choose a folder on a local disk') from error
        yield
    finally:
        os.close(descriptor)
