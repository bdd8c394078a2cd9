"""Appends to files from a thread that keeps them open, so that a slow disk or a mounted bucket holds nobody up."""

import contextlib
import io
import os
import pathlib
import queue
import sys
import threading
import time
from collections.abc import Iterator

from atlas_jax.io import atomic

# A mounted bucket uploads the whole file when it is synced.
SYNC_SECONDS = 30.0


class Appender:
    """Appends to files in the order of the calls. A context manager; leaving it waits until everything is on the disk.

    Other processes of the machine see what was appended within moments. It is on the disk, or in a mounted bucket, after `sync_seconds` or
    after `flush`. The first error of the disk ends all writing; every later call raises it.
    """

    def __init__(self, sync_seconds: float = SYNC_SECONDS):
        """Starts the thread."""
        self._sync_seconds = sync_seconds
        self._asked: queue.SimpleQueue[tuple[pathlib.Path, bytes] | threading.Event | None] = queue.SimpleQueue()
        self._files: dict[pathlib.Path, io.RawIOBase] = {}  # of the thread alone
        self._problem: Exception | None = None
        self._was_raised = False
        # A daemon: a process that ends without leaving the block must not wait for it.
        self._thread = threading.Thread(target=self._run, name='appender', daemon=True)
        self._thread.start()

    def __enter__(self) -> 'Appender':
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        self._asked.put(None)
        self._thread.join()
        if error_type is None:
            self._raise_problem()
        elif self._problem is not None and not self._was_raised:
            # The error that ended the block goes on; this one is told all the same.
            print(f'atlas-jax: {" ".join(str(self._problem).split())}', file=sys.stderr, flush=True)

    def append(self, path: pathlib.Path, data: bytes) -> None:
        """Has `data` written at the end of the file, and returns at once. Raises DiskFullError, StorageError: of an earlier call."""
        self._raise_problem()
        self._asked.put((path, data))

    def flush(self) -> None:
        """Waits until everything is on the disk. Raises DiskFullError, StorageError."""
        done = threading.Event()
        self._asked.put(done)
        done.wait()
        self._raise_problem()

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
                    os.fsync(file.fileno())
            if asked is None:
                break
            asked.set()
        for path, file in self._files.items():
            with self._noting_problems(path):
                file.close()

    def _write(self, path: pathlib.Path, data: bytes) -> None:
        # After an error no more: a file with a hole would be worse than a short one.
        if self._problem is not None:
            return
        with self._noting_problems(path):
            if path not in self._files:
                self._files[path] = open(path, 'ab', buffering=0)
            while data:  # a disk may take a part
                data = data[self._files[path].write(data):]

    @contextlib.contextmanager
    def _noting_problems(self, path: pathlib.Path) -> Iterator[None]:
        """Keeps the first error inside the block for the next call."""
        try:
            with atomic.storage_errors_are_user_errors(path):
                yield
        except Exception as problem:
            self._problem = self._problem or problem
