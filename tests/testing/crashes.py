"""Runs a function in a process of its own that dies, or whose disk fails, at a given operation on files."""

import builtins
import errno
import functools
import io
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import jax

_SECONDS = 120
KILLED, ENDED_BEFORE = -signal.SIGKILL, 3
# What changes a folder. Everything else that a kill could come between reads, computes, or is one of these below.
_CHANGES = ('replace', 'rename', 'unlink', 'rmdir', 'mkdir', 'fsync')


@functools.cache
def _context() -> multiprocessing.context.BaseContext:
    # Not a fork of this process: TensorStore's and jax's threads do not live on in a child. The server has imported all and used nothing.
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['atlas_jax.knowledge.verify', 'tests.testing.fake_store', __name__])
    return context


def run(function: Callable, *arguments: Any, kill_at: int | None = None, fail_at: int | None = None) -> tuple[int, Any]:
    """Runs `function(*arguments)` in a new process.

    Args:
      function: a function at the top of a module, because processes pass it by name.
      arguments: the function's arguments.
      kill_at: number of the change of the disk before which the process is killed; None never kills it.
      fail_at: number of the operation on files, reading included, that gives EIO; None lets every operation succeed.

    Returns:
      (exit code, what the function returned); its error with exit code 1; (KILLED, None) if it was killed; ENDED_BEFORE as the exit code
      if it ended before the planned fault.

    Raises:
      TimeoutError: if it has not ended after two minutes.
    """
    receiver, sender = _context().Pipe(duplex=False)
    process = _context().Process(target=_child, args=(sender, function, arguments, kill_at, fail_at))
    process.start()
    sender.close()
    try:
        if not receiver.poll(_SECONDS):
            process.kill()
            raise TimeoutError(f'{function.__name__}{arguments}: no end after {_SECONDS} seconds')
        answer = receiver.recv()
    except EOFError:
        answer = None
    process.join()
    return (process.exitcode, None) if answer is None else answer


def _child(sender, function: Callable, arguments: Sequence, kill_at: int | None, fail_at: int | None) -> None:
    sys.stderr = open(os.devnull, 'w')  # bars of progress
    jax.process_index()  # jax looks for its plugins at its first use, and their files are not the command's
    left = [-1]
    if kill_at is not None:
        left = _before_each(False, kill_at, lambda: os.kill(os.getpid(), signal.SIGKILL))
    if fail_at is not None:
        left = _before_each(True, fail_at, _fail)
    try:
        result = function(*arguments)
        answer = ENDED_BEFORE if left[0] >= 0 else 0, result
    except Exception as error:  # what a command raises is the test's to judge
        answer = 1, (type(error).__name__, str(error), traceback.format_exc())
    sender.send(answer)


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
