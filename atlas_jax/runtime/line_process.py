"""A worker process that is asked in JSON lines and answers in JSON lines: two of them can be timed in turn, each in its own environment.

The worker's own standard output goes to standard error, so that nothing a library prints is taken for an answer.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from atlas_jax import errors


class Worker:
    """A running `python -m module`, asked one thing at a time. Use it as a context manager."""

    def __init__(self, module: str, environment: Mapping[str, str] | None = None):
        self._name = module
        self._process = subprocess.Popen([sys.executable, '-m', module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                         env=None if environment is None else dict(environment))

    def ask(self, action: str, **arguments: Any) -> Any:
        """What the worker's handler of this action returns.

        Raises:
          UserError: the worker raised one; with its line.
          RuntimeError: the worker died.
        """
        try:
            self._process.stdin.write(json.dumps({'action': action, **arguments}) + '\n')
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ''
        if not line:
            code = self._process.wait()
            memory = '; it was probably killed for want of memory, take a smaller size' if code == -9 else ''
            raise RuntimeError(f'{self._name} ended with code {code} during "{action}"{memory}')
        answer = json.loads(line)
        if 'user_error' in answer:
            raise errors.UserError(answer['user_error'])
        return answer['result']

    def close(self) -> None:
        """Ends the worker."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> 'Worker':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(handlers: Mapping[str, Callable[..., Any]]) -> None:
    """Answers requests on standard input until it ends: action -> handler(**arguments) -> a JSON value."""
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)  # like standard error: what it said is not lost when it dies
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {'result': handlers[request.pop('action')](**request)}
        except errors.UserError as error:
            answer = {'user_error': str(error)}
        answers.write(json.dumps(answer) + '\n')
        answers.flush()
