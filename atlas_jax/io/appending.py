"""Appends to files in a thread, so that a slow disk or bucket does not hold up the caller."""

import contextlib
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator

from atlas_jax.io import atomic
from atlas_jax.io.folder import Folder, Place

# A bucket's files cannot be appended to: every sync writes the whole file.
SYNC_SECONDS = 30.0


class _DiskFile:
    """A file on disk, appended to at once."""

    def __init__(self, folder: Folder, name: str):
        assert folder.local is not None
        self._file = open(folder.local / name, 'ab', buffering=0)

    def write(self, data: bytes) -> None:
        """Writes the data."""
        while data:  # a single write may be partial
            data = data[self._file.write(data):]

    def sync(self) -> None:
        """Waits until everything is on disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class _BucketFile:
    """A file in a bucket, held in memory and written whole at each sync."""

    def __init__(self, folder: Folder, name: str):
        self._folder, self._name, self._content, self._is_whole = folder, name, bytearray(), True
        with contextlib.suppress(FileNotFoundError):
            self._content += folder.read(name)

    def write(self, data: bytes) -> None:
        """Keeps the data in memory."""
        self._content += data
        self._is_whole = False

    def sync(self) -> None:
        """Writes the file if something was appended."""
        if not self._is_whole:
            self._folder.write(self._name, bytes(self._content))
            self._is_whole = True

    def close(self) -> None:
        """Does nothing: the last sync wrote everything."""


class Appender:
    """Appends to files in the order of the calls.

    A context manager; leaving it waits until everything is written. Data is on disk or in the
    bucket after `flush` or after `sync_seconds`; other processes of the machine see it on a disk at
    once. The first error ends all writing, and every later call raises it.
    """

    def __init__(self, sync_seconds: float = SYNC_SECONDS):
        """Starts the thread."""
        self._sync_seconds = sync_seconds
        self._tasks: queue.SimpleQueue[tuple[Folder, str, bytes] | threading.Event
                                       | None] = queue.SimpleQueue()
        self._files: dict[str, _DiskFile | _BucketFile] = {}  # by path; only the thread uses it
        self._problem: Exception | None = None
        self._was_raised = False
        # A daemon, so that a process that never leaves the block can end.
        self._thread = threading.Thread(target=self._run, name='appender', daemon=True)
        self._thread.start()

    def __enter__(self) -> 'Appender':
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        self._tasks.put(None)
        self._thread.join()
        if error_type is None:
            self._raise_problem()
        elif self._problem is not None and not self._was_raised:
            # The error that ended the block is raised; this one is printed.
            print(f'atlas-jax: {" ".join(str(self._problem).split())}', file=sys.stderr, flush=True)

    def append(self, folder: Place, name: str, data: bytes) -> None:
        """Queues data for the end of a file in `folder` and returns at once.

        Raises DiskFullError, StorageError: an earlier write failed.
        """
        self._raise_problem()
        self._tasks.put((Folder(folder), name, data))

    def flush(self) -> None:
        """Waits until everything is written. Raises DiskFullError, StorageError."""
        done = threading.Event()
        self._tasks.put(done)
        done.wait()
        self._raise_problem()

    def _raise_problem(self) -> None:
        if self._problem is not None:
            self._was_raised = True
            raise self._problem

    def _run(self) -> None:
        due = None  # time of the next sync
        while True:
            try:
                task = self._tasks.get(
                    timeout=None if due is None else max(due - time.monotonic(), 0))
            except queue.Empty:
                task = threading.Event()  # a sync that nobody waits for
            if isinstance(task, tuple):
                self._write(*task)
                due = time.monotonic() + self._sync_seconds if due is None else due
                continue
            due = None
            for path, file in self._files.items():
                with self._noting_problems(path):
                    file.sync()
            if task is None:
                break
            task.set()
        for path, file in self._files.items():
            with self._noting_problems(path):
                file.close()

    def _write(self, folder: Folder, name: str, data: bytes) -> None:
        # Nothing is written after an error: a short file is better than one with a hole.
        if self._problem is not None:
            return
        path = f'{folder}/{name}'
        with self._noting_problems(path):
            if path not in self._files:
                kind = _BucketFile if folder.local is None else _DiskFile
                self._files[path] = kind(folder, name)
            self._files[path].write(data)

    @contextlib.contextmanager
    def _noting_problems(self, path: str) -> Iterator[None]:
        """Keeps the first error of the block, for the next call to raise."""
        try:
            with atomic.storage_errors_are_user_errors(path):
                yield
        except Exception as problem:
            self._problem = self._problem or problem
