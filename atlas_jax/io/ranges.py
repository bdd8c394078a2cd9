"""Reads many small ranges of local files at once, such as the rows that a search found."""

import concurrent.futures
import errno
import functools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar('Item')
# A disk serves many reads in the time of one, and the threads mostly wait for it.
THREADS = 32


def read(path: str | os.PathLike, starts: Sequence[int], targets: Sequence[np.ndarray]) -> None:
    """Fills arrays with a file's bytes; the file is opened once.

    Args:
      path: The file.
      starts: First byte of each range.
      targets: Contiguous arrays to fill, one a range, [range] uint8.

    Raises:
      OSError: the file is missing, or ends before a range does; names the file.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        for start, target in zip(starts, targets, strict=True):
            # Not memory-mapped: if a mapped file shrinks, the process is killed.
            if os.preadv(file, [target.data], start) != len(target):
                raise OSError(errno.EIO, 'cut short', str(path))
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        os.close(file)


def side_by_side(function: Callable[[Item], None], items: Iterable[Item]) -> None:
    """Calls a function for each item in THREADS threads and waits; raises the first error."""
    list(_pool().map(function, items))


@functools.cache
def _pool() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(THREADS, 'reads rows')
