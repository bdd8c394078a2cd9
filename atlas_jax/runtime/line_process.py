"""Worker processes that read requests and write answers as JSON lines: two can be timed in turn, each in its own environment.

The worker's standard output goes to standard error, so that no library's print is taken for an answer. It ends with the process that asks
it, however that one ends: its requests end then.
"""

import contextlib
import io
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from atlas_jax import errors

CLOSE_SECONDS = 10.0  # for ending by itself, which takes jax or PyTorch about a second
_LOOK_SECONDS = 0.5  # between two looks whether the worker lives; an answer is read when it comes


class Worker:
    """A running `python -m module` that takes one request at a time. Use it as a context manager."""

    def __init__(self, module: str, environment: Mapping[str, str] | None = None):
        """Starts the worker in `environment`, by default this process's."""
        self._name = module
        # A group of its own, so that what it starts can be ended with it.
        self._process = subprocess.Popen([sys.executable, '-m', module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0,
                                         env=None if environment is None else dict(environment))
        assert self._process.stdin is not None and self._process.stdout is not None  # they are pipes
        self._requests, self._answers = self._process.stdin, self._process.stdout

    def ask(self, action: str, **arguments: Any) -> Any:
        """Returns the JSON value that the worker's handler of this action returns. Waits for as long as the worker lives.

        Raises:
          UserError: the handler raised one; the message is the same.
          RuntimeError: the worker died.
        """
        try:
            self._requests.write(json.dumps({'action': action, **arguments}).encode() + b'\n')
            self._requests.flush()
            line = self._answer()
        except BrokenPipeError:  # it died before it read the request
            line = b''
        if not line:
            code = self._ended(CLOSE_SECONDS)
            memory = '; it was probably killed for lack of memory, take a smaller size' if code == -signal.SIGKILL else ''
            raise RuntimeError(f'{self._name} ended with code {code} during "{action}"{memory}')
        answer = json.loads(line)
        if 'user_error' in answer:
            raise errors.UserError(answer['user_error'])
        return answer['result']

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Ends the worker and what it has started: by the end of its requests, and by signals after `seconds`."""
        with contextlib.suppress(BrokenPipeError):  # it died with a request unread
            self._requests.close()
        if self._process.returncode is None:
            self._ended(seconds)
        self._answers.close()

    def __enter__(self) -> 'Worker':
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        # After an error, such as Ctrl-C, nobody waits for what the worker computes.
        self.close(CLOSE_SECONDS if error_type is None else 0)

    def _answer(self) -> bytes:
        """Returns the next line, b'' if the worker has died. Does not wait for the end of the pipe: the worker's children may hold it."""
        line, answers = bytearray(), select.poll()
        answers.register(self._answers, select.POLLIN)
        while not line.endswith(b'\n'):
            has_died = self._process.poll() is not None  # before the look at the pipe, which then has all that it wrote
            if answers.poll(0 if has_died else 1000 * _LOOK_SECONDS):
                if not (part := os.read(self._answers.fileno(), 1 << 16)):
                    return b''
                line += part
            elif has_died:
                return b''
        return bytes(line)

    def _ended(self, seconds: float) -> int:
        """Returns the exit code of a worker that is to end; one that takes longer than `seconds` is terminated, then killed."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(CLOSE_SECONDS)
        with contextlib.suppress(ProcessLookupError):  # nothing of its group is left
            os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()  # SIGKILL ends it, whatever it does


def serve(handlers: Mapping[str, Callable[..., Any]]) -> None:
    """Answers requests on standard input until it ends. A handler takes its action's arguments and returns a JSON value."""
    threading.Thread(target=_end_with_requests, daemon=True).start()
    # Descriptors, not sys.stdout alone: C libraries print too.
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # as standard error is: the last lines of a worker that dies are not lost
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {'result': handlers[request.pop('action')](**request)}
        except errors.UserError as error:
            answer = {'user_error': str(error)}
        answers.write(json.dumps(answer) + '\n')
        answers.flush()


def _end_with_requests() -> None:
    """Ends this process CLOSE_SECONDS after its requests, whatever it computes: the process that asked may have been killed."""
    requests = select.poll()
    requests.register(0, 0)  # reports nothing but the end
    requests.poll()
    time.sleep(CLOSE_SECONDS)
    os._exit(1)
