"""Processor time and memory of this process, and returning freed memory to the system."""

import contextlib
import ctypes
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

_COMPILED = '/jax/core/compile/backend_compile_duration'  # name of jax's event


def peak_bytes() -> int:
    """Returns the peak resident memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else peak * 1024  # KiB on Linux


def release_freed() -> None:
    """Returns freed memory to the system, if the C library can. Call it before the first step,
    which needs the memory that loading has used.

    A step's temporaries are one large block that does not fit into the freed holes. With the
    allocator's settings the process would keep both (docs/design.md).
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # no glibc
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def releasing_freed(least_seconds: float = 1.0) -> Iterator[None]:
    """Calls `release_freed` now, and inside the block after each compilation of at least
    `least_seconds`, before the program runs.

    Compiling a large program leaves some 100 MB of freed holes.
    """
    def compiled(event: str, duration_secs: float, **_: str | int) -> None:
        if event == _COMPILED and duration_secs >= least_seconds:
            release_freed()

    release_freed()
    jax.monitoring.register_event_duration_secs_listener(compiled)
    try:
        yield
    finally:
        jax.monitoring.unregister_event_duration_listener(compiled)


def timed(run: Callable[[], Any]) -> dict[str, float]:
    """Returns a call's wall and processor seconds (user and system, all threads) as `seconds` and
    `cpu_seconds`.
    """
    # Both clocks, because processor seconds vary less on a busy machine.
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    run()
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    return {
        'seconds': seconds,
        'cpu_seconds': after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}
