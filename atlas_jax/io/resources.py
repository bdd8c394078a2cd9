"""What a process has used, processor time and memory, and giving memory back."""

import contextlib
import ctypes
import resource
import sys
import time
from collections.abc import Callable
from typing import Any


def peak_bytes() -> int:
    """The most memory that this process has had resident."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else peak * 1024


def release_freed() -> None:
    """Gives memory that was freed back to the system, where the C library can: before a first step, what loading a model took.

    A step's temporaries are one block, which does not fit between what is left; the allocator's settings would keep both (docs/design.md).
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # no glibc
        ctypes.CDLL(None).malloc_trim(0)


def timed(run: Callable[[], Any]) -> dict[str, float]:
    """Wall and processor seconds of a call (user and system, all threads)."""
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    run()
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    return {'seconds': seconds, 'cpu_seconds': after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}
