"""Reads single rows and other small ranges of files on this machine, many at a time: what a search found is spread over all of them."""

import concurrent.futures
import errno
import functools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar('Item')
# A disk answers many reads in the time of one; threads wait for it and hardly compute. A read that finds its page in memory takes
# microseconds.
THREADS = 32


def read(path: str | os.PathLike, starts: Sequence[int], targets: Sequence[np.ndarray]) -> None:
    """Fills arrays with a file's bytes; the file is opened once.

    Args:
      path: the file.
      starts: where each range begins, in bytes.
      targets: what each range is read into, contiguous arrays of bytes, [range] uint8.

    Raises:
      OSError: the file is missing, or ends before a range does; it names the file.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        for start, target in zip(starts, targets, strict=True):
            # Not mapped: the loss of a mapped file's end would kill the process.
            if os.preadv(file, [target.data], start) != len(target):
                raise OSError(errno.EIO, 'cut short', str(path))
    except OSError as error:
        error.filename = error.filename or str(path)  # a file's descriptor has no name
        raise
    finally:
        os.close(file)


def side_by_side(function: Callable[[Item], None], items: Iterable[Item]) -> None:
    """Calls a function for each item, in THREADS threads, and waits for all. Raises the first error.

    The function must not call this again: it would wait for a thread while it holds one.
    """
    list(_pool().map(function, items))


@functools.cache
def _pool() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(THREADS, 'reads rows')
