"""One writer of a folder at a time."""

import contextlib
import fcntl
import json
import os
import pathlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

from atlas_jax import errors
from atlas_jax.io import atomic
from atlas_jax.io.folder import Folder, storage_errors

FILE = 'lock'
# A bucket knows no locks that end with their process: a writer says how long it will hold its own and says so anew in time.
LEASE_SECONDS = 300
_leases: dict[str, Callable[[], None]] = {}  # buckets' folders that this process writes: what `confirm` calls


@contextlib.contextmanager
def writing(folder: Folder, noun: str, error: type[errors.UserError]) -> Iterator[None]:
    """Holds the folder's writer lock inside the block; creates the folder where missing. A killed process lets go of it, on a disk at once.

    A folder that holds nothing but the lock afterwards is removed again. `noun` is what the folder holds, for messages.

    Raises `error` at once: another writer holds the lock, or the folder cannot be written. DiskFullError, StorageError.
    """
    with _lease(folder, noun, error) if folder.local is None else _flock(folder.local, noun, error):
        yield


def confirm(folder: Folder) -> None:
    """Called before what was written becomes the folder's version; does nothing where this process holds no lock of it in a bucket.

    Raises the lock's error where another writer has taken over, because this process slept for longer than LEASE_SECONDS. StorageError.
    """
    _leases.get(str(folder), lambda: None)()


@contextlib.contextmanager
def _flock(folder: pathlib.Path, noun: str, error: type[errors.UserError]) -> Iterator[None]:
    descriptor = _acquire(folder, noun, error)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if os.listdir(folder) == [FILE]:
                (folder / FILE).unlink()
                folder.rmdir()
        os.close(descriptor)


def _acquire(folder: pathlib.Path, noun: str, error: type[errors.UserError]) -> int:
    while True:
        try:
            existed = folder.is_dir()
            with atomic.disk_full_is_a_user_error(folder):
                folder.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as problem:
            if existed and not folder.exists():
                continue  # another writer removed its empty folder meanwhile
            raise error(f'{folder}: cannot write there ({problem.strerror}); choose another folder') from problem
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:  # 0: the writer before removed the file, so the lock guards nothing
                return descriptor
        except BlockingIOError as problem:
            os.close(descriptor)
            raise error(f'{folder}: another process is writing this {noun}; wait until it has finished') from problem
        except OSError as problem:
            os.close(descriptor)
            raise error(f'{folder}: cannot be locked ({problem.strerror}); choose a folder on a local disk') from problem
        os.close(descriptor)


@contextlib.contextmanager
def _lease(folder: Folder, noun: str, error: type[errors.UserError]) -> Iterator[None]:
    store, writer = folder.open(), f'process {os.getpid()} on {socket.gethostname()}'

    def write(expected: bytes) -> bytes:
        """Writes the lease if nobody else has since; b'' where somebody has."""
        content = json.dumps({'writer': writer, 'until': time.time() + LEASE_SECONDS}).encode()
        return store.write(FILE, content, if_equal=expected).result().generation

    with storage_errors(folder):
        found = store.read(FILE).result()
        held = json.loads(found.value) if found.state == 'value' else {'until': 0}
        mine = write(found.stamp.generation) if held['until'] < time.time() else b''
    if not mine:
        raise error(f'{folder}: another process is writing this {noun} ({held.get("writer", "just started")}); wait until it has finished')
    done, state, turn = threading.Event(), [mine], threading.Lock()

    def renew() -> None:
        with turn:
            state[0] = state[0] and write(state[0])

    def keep() -> None:
        while not done.wait(LEASE_SECONDS / 5) and state[0]:
            with contextlib.suppress(ValueError):
                renew()

    def check() -> None:
        with storage_errors(folder):
            renew()
        if not state[0]:
            raise error(f'{folder}: this process slept for more than {LEASE_SECONDS} s, and another one has begun to write this {noun}; '
                        'nothing was changed; run the same command again')

    keeper = threading.Thread(target=keep, daemon=True)
    keeper.start()
    _leases[str(folder)] = check
    try:
        yield
    finally:
        del _leases[str(folder)]
        done.set()
        keeper.join()
        with contextlib.suppress(ValueError):
            if state[0]:  # else another writer has taken over
                store.write(FILE, None, if_equal=state[0]).result()
