"""Runs a function in a process of its own that dies, or whose disk fails, at a given operation on files."""

import builtins
import errno
import functools
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import jax

from tests.testing import processes

KILLED, ENDED_BEFORE = -signal.SIGKILL, 3
_SECONDS = 60
# What changes a folder. Everything else that a kill could come between reads, computes, or is one of these below.
_CHANGES = ('replace', 'rename', 'unlink', 'rmdir', 'mkdir', 'fsync')


def run(function: Callable, *arguments: Any, kill_at: int | None = None, fail_at: int | None = None) -> tuple[int, Any]:
    """Runs `function(*arguments)` in a new process.

    Args:
      function: of a module, as processes pass it by name.
      arguments: for it.
      kill_at: number of the change of the disk before which the process is killed; None kills it never.
      fail_at: number of the operation on files, reading included, that gives EIO; None lets none fail.

    Returns:
      (exit code, what the function returned); its error with exit code 1; (KILLED, None) of a killed process; ENDED_BEFORE as the code of
      one that ended before the fault that was ordered.
    """
    code, answer = processes.run_forked(_child, function, arguments, kill_at, fail_at, seconds=_SECONDS)
    return (code, None) if answer is None else answer


def _child(function: Callable, arguments: Sequence, kill_at: int | None, fail_at: int | None) -> tuple[int, Any]:
    sys.stderr = open(os.devnull, 'w')  # bars of progress
    jax.process_index()  # jax looks for its plugins at its first use, and their files are not the command's
    left = [-1]
    if kill_at is not None:
        left = _before_each(False, kill_at, lambda: os.kill(os.getpid(), signal.SIGKILL))
    if fail_at is not None:
        left = _before_each(True, fail_at, _fail)
    try:
        result = function(*arguments)
        return ENDED_BEFORE if left[0] >= 0 else 0, result
    except Exception as error:  # what a command raises is the test's to judge
        return 1, (type(error).__name__, str(error), traceback.format_exc())


def _fail() -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def _before_each(reading_too: bool, number: int, act: Callable[[], None]) -> list[int]:
    """Calls `act` before the operation of this number, from 0, in this process; returns how many are left until then, as it changes."""
    left = [number]

    def count() -> None:
        left[0] -= 1
        if left[0] == -1:
            act()

    def counted(function: Callable, counts: Callable[..., bool] = lambda *_, **__: True) -> Callable:
        @functools.wraps(function)
        def wrapper(*arguments, **options):
            if counts(*arguments, **options):
                count()
            return function(*arguments, **options)
        return wrapper

    for name in _CHANGES:
        setattr(os, name, counted(getattr(os, name)))
    builtins.open = io.open = counted(open, lambda file, mode='r', *_, **__: reading_too or any(letter in mode for letter in 'wxa'))
    os.open = counted(os.open, lambda path, flags, *_, **__: reading_too or bool(flags & os.O_CREAT))
    return left
