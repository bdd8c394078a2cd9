"""One writer of a folder at a time."""

import contextlib
import errno
import fcntl
import json
import math
import os
import pathlib
import socket
import threading
import time
from collections.abc import Iterator

import tensorstore

from atlas_jax import errors
from atlas_jax.io import atomic, untrusted
from atlas_jax.io.folder import Folder, storage_errors

FILE = 'lock'
# A bucket has no locks that end with their process. A writer stores the end of its lease there, and
# renews the lease five times in this time.
LEASE_SECONDS = 300
_leases: dict[str, '_Lease'] = {}  # by folder: the leases that this process holds


@contextlib.contextmanager
def writing(folder: Folder, noun: str, error: type[errors.UserError],
            waits: bool = False) -> Iterator[None]:
    """Holds the folder's writer lock inside the block; creates the folder if it is missing.

    A killed process loses the lock: on a disk at once, in a bucket after LEASE_SECONDS. A folder
    that holds only the lock at the end is removed.

    Args:
      folder: the folder of the lock file.
      noun: the kind of folder, for messages.
      error: the type of error to raise.
      waits: waits for the end of a bucket's lease unless its writer renews it, so that the same
        command continues after a kill.

    Raises:
      UserError: `error`, another writer holds the lock, or the folder cannot be written. At once,
        or after the wait.
      DiskFullError, StorageError.
    """
    with _leased(folder, noun, error, waits) if folder.local is None else _locked(
            folder.local, noun, error):
        yield


def confirm(folder: Folder) -> None:
    """Checks that this process still holds the folder's lock; call it before a commit. Does nothing
    on a disk.

    Raises:
      UserError: the lock's `error`: this process slept for more than LEASE_SECONDS, and another
        writer has taken over.
      StorageError.
    """
    if lease := _leases.get(str(folder)):
        lease.confirm()


@contextlib.contextmanager
def _locked(folder: pathlib.Path, noun: str, error: type[errors.UserError]) -> Iterator[None]:
    descriptor = _acquire(folder, noun, error)
    try:
        yield
    finally:
        # Under the lock, so that no other writer's folder is removed.
        with contextlib.suppress(OSError):
            if os.listdir(folder) == [FILE]:
                (folder / FILE).unlink()
                folder.rmdir()
        os.close(descriptor)


def _acquire(folder: pathlib.Path, noun: str, error: type[errors.UserError]) -> int:
    """Returns the locked file's descriptor. Raises `error`, DiskFullError."""
    while True:
        try:
            existed = folder.is_dir()
            folder.mkdir(parents=True, exist_ok=True)
            # A link is not followed, because that would create the file it leads to.
            descriptor = os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError as problem:
            if problem.errno == errno.ELOOP:
                raise error(
                    f'{folder / FILE}: a link, which could lead anywhere; remove it') from problem
            if existed and not folder.exists():
                continue  # another writer removed its empty folder meanwhile
            if isinstance(full := atomic.user_error(folder, problem), errors.DiskFullError):
                raise full from problem
            raise error(f'{folder}: cannot write there ({problem.strerror}); choose another folder'
                        ) from problem
        try:
            # The system frees a flock however the process ends; a process number would stay.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # 0 links: the last writer removed the file, so its lock guards nothing.
            if os.fstat(descriptor).st_nlink:
                return descriptor
        except BlockingIOError as problem:
            os.close(descriptor)
            raise error(f'{folder}: another process is writing this {noun}; wait until it has '
                        'finished') from problem
        except OSError as problem:
            os.close(descriptor)
            raise error(f'{folder}: cannot be locked ({problem.strerror}); choose a folder on a '
                        'local disk') from problem
        os.close(descriptor)


@contextlib.contextmanager
def _leased(folder: Folder, noun: str, error: type[errors.UserError],
            waits: bool) -> Iterator[None]:
    lease = _Lease(folder, noun, error, waits)
    keeper = threading.Thread(target=lease.keep, daemon=True)
    keeper.start()
    _leases[str(folder)] = lease
    try:
        yield
    finally:
        del _leases[str(folder)]
        lease.done.set()
        keeper.join()
        lease.end()


def _parse(content: bytes) -> tuple[float, str]:
    """Returns the end of the lease in a bucket's lock file, and its writer; a file that is not ours
    holds no lease.
    """
    try:
        held = untrusted.parse_json(content)
        # Bounded, so that a clock that is far ahead does not lock a folder for ever.
        return min(float(held['until']),
                   time.time() + LEASE_SECONDS), ' '.join(str(held['writer']).split())[:200]
    except (ValueError, KeyError, TypeError, OverflowError):
        return 0, 'nobody'


class _Lease:
    """A writer's lease on a bucket's folder. The writer holds it while the lock file has the
    generation that it wrote last.
    """

    def __init__(self, folder: Folder, noun: str, error: type[errors.UserError], waits: bool):
        """Takes the lease. Raises `error`: another writer has it."""
        self._folder, self._noun, self._error = folder, noun, error
        self._writer = f'process {os.getpid()} on {socket.gethostname()}'
        self._turn = threading.Lock()
        self.done = threading.Event()
        with storage_errors(folder):
            self._store = folder.open()
            found = self._store.read(FILE).result()
            until, holder = _parse(found.value) if found.state == 'value' else (0, 'just started')
            if waits and until >= time.time():
                print(f'{folder}: {holder} has not ended with this {noun}; waiting for at most '
                      f'{until - time.time():.0f} s to see whether '
                      'it was killed', flush=True)
                found, until = self._waited(found, until)
            self._generation = self._write(found.stamp.generation) if until < time.time() else b''
        # No generation: another writer came between our read and our write.
        if not self._generation:
            raise error(f'{folder}: another process is writing this {noun} ({holder}); wait until '
                        'it has finished')

    def _waited(self, held: tensorstore.KvStore.ReadResult,
                until: float) -> tuple[tensorstore.KvStore.ReadResult, float]:
        """Waits until the lease in the lock file ends or its writer changes the file. Returns the
        file and the end of its lease after the wait.
        """
        while time.time() <= until:
            time.sleep(min(LEASE_SECONDS / 60, max(until - time.time(), 0) + 0.01))
            now = self._store.read(FILE).result()
            if now.stamp.generation != held.stamp.generation:
                return now, 0 if now.state == 'missing' else math.inf
        return held, until

    def keep(self) -> None:
        """Renews the lease until `done` is set; runs in its own thread."""
        while not self.done.wait(LEASE_SECONDS / 5) and self._generation:
            # If the bucket does not answer, there are four more attempts.
            with contextlib.suppress(ValueError):
                self._renew()

    def confirm(self) -> None:
        """Renews the lease now. Raises the lock's error if another writer has taken it."""
        with storage_errors(self._folder):
            self._renew()
        if not self._generation:
            raise self._error(f'{self._folder}: this process slept for more than {LEASE_SECONDS} '
                              's, and another one has begun to write '
                              f'this {self._noun}; nothing was changed; run the same command again')

    def end(self) -> None:
        """Removes the lock file, unless another writer has taken over."""
        # If the bucket does not answer, the lease ends by itself.
        with contextlib.suppress(ValueError):
            if self._generation:
                self._store.write(FILE, None, if_equal=self._generation).result()

    def _renew(self) -> None:
        with self._turn:  # the thread and `confirm` must not renew the same generation
            if self._generation:
                self._generation = self._write(self._generation)

    def _write(self, expected: bytes) -> bytes:
        """Writes the lock file if it still has the generation `expected`. Returns the new
        generation, or b'' if it had another one.
        """
        # if_equal: if two writers find the lease free, one gets it.
        content = json.dumps({'writer': self._writer,
                              'until': time.time() + LEASE_SECONDS}).encode()
        return self._store.write(FILE, content, if_equal=expected).result().generation
