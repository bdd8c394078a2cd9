"""Starts every process of a test: in a session of its own, with empty standard input, its output kept in files, and a deadline.

At the deadline every Python process of the session prints its stacks and is killed, and the failure shows what was printed. A house test
forbids other ways to start a process.
"""

import contextlib
import faulthandler
import functools
import multiprocessing
import os
import pathlib
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest.mock
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import forkserver
from typing import IO, Any, NamedTuple, NoReturn

import psutil

from tests.testing import gate, streams

SECONDS = 200  # below the 240 s of a test, so that the failure shows what the process printed
_SHOWN = 4000  # characters of each output in a failure


class Done(NamedTuple):
    """How a process ended: its exit code, minus the signal's number if a signal ended it, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


class Process:
    """A running process, made by `started`."""

    def __init__(self, command: Sequence[Any], seconds: float, stdin: IO | None, merged: bool, folder: str, **options: Any):
        """Starts it. Output goes to files in `folder`: reading a pipe would wait for every grandchild that holds it open."""
        words = [str(word) for word in command]
        self.name, self._seconds, self._deadline = ' '.join(words)[:200], seconds, time.monotonic() + seconds
        self._files = [pathlib.Path(folder, name) for name in ('stdout', 'stderr')]
        with open(self._files[0], 'wb') as out, open(self._files[1], 'wb') as error:
            self._process = subprocess.Popen(words, stdin=stdin or subprocess.DEVNULL, stdout=out, start_new_session=True,
                                             stderr=subprocess.STDOUT if merged else error, **options)
        self.pid = self._process.pid
        with contextlib.suppress(OSError, AttributeError):  # aborted at the deadline, it must not write its memory to the disk
            resource.prlimit(self.pid, resource.RLIMIT_CORE, (0, 0))
        self._lines = open(self._files[0], encoding='utf-8', errors='replace')

    def wait(self) -> Done:
        """Waits until the process ends. Raises AssertionError at the deadline."""
        try:
            code = self._process.wait(max(self._deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            self._expired('ended')
        return Done(code, *self._printed())

    def wait_for_rest(self) -> None:
        """Waits until its children have ended or, as daemons do, left its session. Raises AssertionError at the deadline."""
        while _members(self.pid):
            self._sleep('ended with its children')

    def line(self) -> str:
        """Returns the next line on standard output, '' after the last. Raises AssertionError at the deadline."""
        text = ''
        while True:
            has_ended = not self.is_running()
            text += (part := self._lines.readline())
            if text.endswith('\n') or (has_ended and not part):
                return text
            self._sleep('printed another line')

    def wait_for(self, is_reached: Callable[[], Any], what: str = 'reached the point that the test waits for') -> None:
        """Waits until `is_reached()`. Raises AssertionError at the deadline, and when the process ends first."""
        while not is_reached():
            if not self.is_running() and not is_reached():
                raise AssertionError(f'{self.name} ended with {self._process.returncode} before it {what}{self._shown()}')
            self._sleep(what)

    def is_running(self) -> bool:
        """Says whether the process has not ended yet."""
        return self._process.poll() is None

    def signal(self, number: int) -> None:
        """Sends a signal to the process alone."""
        self._process.send_signal(number)

    def end(self) -> None:
        """Kills all processes of the session that still run."""
        _end_session(self.pid, signal.SIGKILL)
        self._process.wait()
        self._lines.close()

    def _sleep(self, what: str) -> None:
        if time.monotonic() > self._deadline:
            self._expired(what)
        time.sleep(0.01)

    def _expired(self, what: str) -> NoReturn:
        _end_session(self.pid, signal.SIGABRT)  # makes Python print the stacks of all threads
        _end_session(self.pid, signal.SIGKILL)
        raise AssertionError(f'{self.name} has not {what} within {self._seconds:g} s{self._shown()}')

    def _printed(self) -> list[str]:
        return [file.read_text(encoding='utf-8', errors='replace') for file in self._files]

    def _shown(self) -> str:
        return ''.join(f'\n--- {file.name}\n{text[-_SHOWN:]}' for file, text in zip(self._files, self._printed(), strict=True) if text)


def _members(session: int) -> list[int]:
    """Returns the processes of a session that still run. Children of `timeout` and of shells with job control have groups of their own."""
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getsid(pid) == session and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
    return found


def _end_session(session: int, number: int) -> None:
    """Sends a signal to all processes of a session, and waits up to 5 s until they have ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(session, number)
    for pid in _members(session):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpgid(pid) != session:  # a second SIGABRT would end Python while it prints its stacks
                os.kill(pid, number)
    until = time.monotonic() + 5
    while _members(session) and time.monotonic() < until:
        time.sleep(0.01)


@contextlib.contextmanager
def started(command: Sequence[Any], *, seconds: float = SECONDS, env: Mapping[str, str] | None = None, cwd: Any = None,
            input: str | None = None, stdin: IO | None = None, merged: bool = False) -> Iterator[Process]:
    """Starts a process. The end of the block kills it and its children. An error in the block is shown with what it printed.

    Args:
      command: program and arguments.
      seconds: time from now to the deadline.
      env: the whole environment; defaults to this process's.
      cwd: working directory.
      input: text for standard input, which is empty by default.
      stdin: an open file for standard input.
      merged: writes standard error into standard output.
    """
    environment = {'PYTHONFAULTHANDLER': '1', **(os.environ if env is None else env)}
    if gate.MARK in os.environ:
        environment[gate.MARK] = os.environ[gate.MARK]
    with tempfile.TemporaryDirectory(prefix='atlas_jax_process_') as folder, contextlib.ExitStack() as files:
        if input is not None:
            stdin = files.enter_context(open(os.path.join(folder, 'stdin'), 'w+', encoding='utf-8'))
            stdin.write(input)
            stdin.seek(0)
        process = Process(command, seconds, stdin, merged, folder, env=environment, cwd=cwd)
        try:
            yield process
        except Exception as error:
            if (shown := process._shown()) and shown not in str(error):
                error.add_note(f'{process.name}{shown}')
            raise
        finally:
            process.end()


def run(command: Sequence[Any], *, check: bool = True, **options: Any) -> Done:
    """Runs a command to its end. Takes the options of `started`.

    Raises:
      AssertionError: it ran longer than `seconds`, or with `check` its exit code is not 0. The message has what it printed.
    """
    with started(command, **options) as process:
        done = process.wait()
        assert not check or done.returncode == 0, f'{process.name} ended with {done.returncode}{process._shown()}'
    return done


def run_together(program: Sequence[Any], processes: int = 2, devices: int = 4, seconds: float = SECONDS, **environment: str
                 ) -> list[tuple[int, str]]:
    """Runs `python PROGRAM...` in several processes of one jax.distributed run, each with `devices` fake CPU devices.

    Returns:
      (exit code, what it printed) of each process.

    Raises:
      AssertionError: one has not ended within `seconds`.
    """
    with contextlib.ExitStack() as stack:
        return [process.wait()[:2] for process in start_together(stack, program, processes, devices, seconds, **environment)]


def start_together(stack: contextlib.ExitStack, program: Sequence[Any], processes: int = 2, devices: int = 4, seconds: float = SECONDS,
                   **environment: str) -> list[Process]:
    """Starts the processes of run_together. They end when `stack` closes."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        address = f'127.0.0.1:{free.getsockname()[1]}'
    variables = {'JAX_COORDINATOR_ADDRESS': address, 'JAX_NUM_PROCESSES': str(processes), 'JAX_PLATFORMS': 'cpu',
                 'XLA_FLAGS': f'{streams.QUICK_FLAGS} --xla_force_host_platform_device_count={devices}'}
    return [stack.enter_context(started([sys.executable, *program], seconds=seconds, merged=True,
                                        env=os.environ | variables | {'JAX_PROCESS_ID': str(number)} | environment))
            for number in range(processes)]


@functools.cache
def _fork_server() -> multiprocessing.context.BaseContext:
    # Not a fork of this process: TensorStore's and jax's threads do not live on in a child. The server has imported all and used nothing.
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['atlas_jax.knowledge.verify', 'tests.testing.fake_store', 'tests.testing.crashes'])
    with unittest.mock.patch.dict(os.environ):
        os.environ.pop(gate.MARK, None)  # the server ends with this process, not with the session's tests
        forkserver.ensure_running()
    return context


def run_forked(function: Callable[..., Any], *arguments: Any, seconds: float = SECONDS) -> tuple[int, Any]:
    """Runs `function(*arguments)` in a process that starts in milliseconds: it is forked from one that has imported the library.

    Returns:
      (exit code, the function's result); None as the result if it raised or was killed.

    Raises:
      AssertionError: it has not ended within `seconds`. The message has its stacks.
    """
    receiver, sender = _fork_server().Pipe(duplex=False)
    with tempfile.NamedTemporaryFile('r', prefix='atlas_jax_process_') as stacks:
        process = _fork_server().Process(target=_forked, args=(sender, stacks.name, function, arguments))
        process.start()
        sender.close()
        answer = None
        try:
            if receiver.poll(seconds):
                with contextlib.suppress(EOFError):
                    answer = receiver.recv()
                process.join(seconds)
            if process.exitcode is None:
                _end_session(process.pid, signal.SIGABRT)
                raise AssertionError(f'{function.__name__}{arguments} has not ended within {seconds:g} s\n{stacks.read()}')
        finally:
            _end_session(process.pid, signal.SIGKILL)
            process.kill()  # it may not have made its session yet
            process.join(5)
            receiver.close()
    return process.exitcode, answer


def _forked(sender: Any, stacks: str, function: Callable[..., Any], arguments: Sequence[Any]) -> None:
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable(open(stacks, 'w'))
    sender.send(function(*arguments))
