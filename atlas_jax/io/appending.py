"""Appends to files from a thread that keeps them open, so that a slow disk or a bucket holds nobody up."""

import contextlib
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator

from atlas_jax.io import atomic
from atlas_jax.io.folder import Folder, Place

# A bucket gets the whole file each time, for its files cannot be appended to.
SYNC_SECONDS = 30.0
_LOOK_SECONDS = 0.5  # between two looks whether the thread lives


class _DiskFile:
    """A file that is appended to at once."""

    def __init__(self, folder: Folder, name: str):
        assert folder.local is not None
        self._file = open(folder.local / name, 'ab', buffering=0)

    def write(self, data: bytes) -> None:
        """Writes all of it."""
        while data:  # a disk may take a part
            data = data[self._file.write(data):]

    def sync(self) -> None:
        """Waits until everything is on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class _BucketFile:
    """A file that is held in memory, and written whole when it is synced."""

    def __init__(self, folder: Folder, name: str):
        self._folder, self._name, self._content, self._is_whole = folder, name, bytearray(), True
        with contextlib.suppress(FileNotFoundError):
            self._content += folder.read(name)

    def write(self, data: bytes) -> None:
        """Keeps it."""
        self._content += data
        self._is_whole = False

    def sync(self) -> None:
        """Writes the file if something was appended."""
        if not self._is_whole:
            self._folder.write(self._name, bytes(self._content))
            self._is_whole = True

    def close(self) -> None:
        """Does nothing: the last sync has written everything."""


class Appender:
    """Appends to files in the order of the calls. A context manager; leaving it waits until everything is on the disk.

    Other processes of the machine see what was appended to a file on a disk within moments. It is on the disk, or in the bucket, after
    `sync_seconds` or after `flush`. The first error ends all writing; every later call raises it.
    """

    def __init__(self, sync_seconds: float = SYNC_SECONDS):
        """Starts the thread."""
        self._sync_seconds = sync_seconds
        self._asked: queue.SimpleQueue[tuple[Folder, str, bytes] | threading.Event | None] = queue.SimpleQueue()
        self._files: dict[str, _DiskFile | _BucketFile] = {}  # of the thread alone, by path
        self._problem: Exception | None = None
        self._was_raised = False
        # A daemon: a process that ends without leaving the block must not wait for it.
        self._thread = threading.Thread(target=self._run, name='appender', daemon=True)
        self._thread.start()

    def __enter__(self) -> 'Appender':
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        self._asked.put(None)
        self._thread.join()  # it ends with what was asked before, when the disk has taken it
        if error_type is None:
            self._raise_problem()
        elif self._problem is not None and not self._was_raised:
            # The error that ended the block goes on; this one is told all the same.
            print(f'atlas-jax: {" ".join(str(self._problem).split())}', file=sys.stderr, flush=True)

    def append(self, folder: Place, name: str, data: bytes) -> None:
        """Has `data` written at the end of a file in `folder`, and returns at once. Raises DiskFullError, StorageError: of an earlier call.
        """
        self._raise_problem()
        self._asked.put((Folder(folder), name, data))

    def flush(self) -> None:
        """Waits until everything is on the disk. Raises DiskFullError, StorageError."""
        done = threading.Event()
        self._asked.put(done)
        # For as long as the disk takes, and not for a thread that has ended.
        while not done.wait(_LOOK_SECONDS) and self._thread.is_alive():
            pass
        self._raise_problem()
        if not done.is_set():
            raise RuntimeError('the thread that appends has ended; what was appended since is not on the disk')

    def _raise_problem(self) -> None:
        if self._problem is not None:
            self._was_raised = True
            raise self._problem

    def _run(self) -> None:
        due = None  # when what was written must be on the disk
        while True:
            try:
                asked = self._asked.get(timeout=None if due is None else max(due - time.monotonic(), 0))
            except queue.Empty:
                asked = threading.Event()  # nobody waits for it
            if isinstance(asked, tuple):
                self._write(*asked)
                due = time.monotonic() + self._sync_seconds if due is None else due
                continue
            due = None
            for path, file in self._files.items():
                with self._noting_problems(path):
                    file.sync()
            if asked is None:
                break
            asked.set()
        for path, file in self._files.items():
            with self._noting_problems(path):
                file.close()

    def _write(self, folder: Folder, name: str, data: bytes) -> None:
        # After an error no more: a file with a hole would be worse than a short one.
        if self._problem is not None:
            return
        path = f'{folder}/{name}'
        with self._noting_problems(path):
            if path not in self._files:
                self._files[path] = (_BucketFile if folder.local is None else _DiskFile)(folder, name)
            self._files[path].write(data)

    @contextlib.contextmanager
    def _noting_problems(self, path: str) -> Iterator[None]:
        """Keeps the first error inside the block for the next call."""
        try:
            with atomic.storage_errors_are_user_errors(path):
                yield
        except Exception as problem:
            self._problem = self._problem or problem
