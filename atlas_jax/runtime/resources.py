"""What a process has used, processor time and memory, and giving memory back."""

import contextlib
import ctypes
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

_COMPILED = '/jax/core/compile/backend_compile_duration'  # the event's name in jax


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


@contextlib.contextmanager
def releasing_freed(least_seconds: float = 1.0) -> Iterator[None]:
    """`release_freed` now, and within the block after every compilation of so many seconds: before what it made first runs.

    A large program's compiler leaves holes of some 100 MB between what stays.
    """
    def compiled(event: str, seconds: float, **_: Any) -> None:
        if event == _COMPILED and seconds >= least_seconds:
            release_freed()

    release_freed()
    jax.monitoring.register_event_duration_secs_listener(compiled)
    try:
        yield
    finally:
        jax.monitoring.unregister_event_duration_listener(compiled)


def timed(run: Callable[[], Any]) -> dict[str, float]:
    """Wall and processor seconds of a call (user and system, all threads)."""
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    run()
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    return {'seconds': seconds, 'cpu_seconds': after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}
