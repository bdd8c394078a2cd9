"""What a process has used: processor time and memory."""

import resource
import sys
import time
from collections.abc import Callable
from typing import Any


def peak_bytes() -> int:
    """The most memory that this process has had resident."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else peak * 1024


def timed(run: Callable[[], Any]) -> dict[str, float]:
    """Wall and processor seconds of a call (user and system, all threads)."""
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    run()
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    return {'seconds': seconds, 'cpu_seconds': after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}
