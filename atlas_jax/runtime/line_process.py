"""Worker processes that read requests and write answers as JSON lines. Two workers can be timed in
turn, each in its own environment.

The worker's standard output goes to standard error, so that a library's print is not mistaken for
an answer.
"""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from atlas_jax import errors


class Worker:
    """A running `python -m module` that takes one request at a time.

    Use it as a context manager.
    """

    def __init__(self, module: str, environment: Mapping[str, str] | None = None):
        """Starts the worker in `environment`, by default this process's."""
        self._name = module
        self._process = subprocess.Popen([sys.executable, '-m', module], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, text=True,
                                         env=None if environment is None else dict(environment))
        # Both are pipes.
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout

    def ask(self, action: str, **arguments: Any) -> Any:
        """Returns the JSON value that the worker's handler of this action returns.

        Raises:
          UserError: the handler raised a UserError; it has the same message.
          RuntimeError: the worker died.
        """
        try:
            self._requests.write(json.dumps({'action': action, **arguments}) + '\n')
            self._requests.flush()
            line = self._answers.readline()
        except BrokenPipeError:  # the worker died before it read the request
            line = ''
        if not line:
            code = self._process.wait()
            memory = ''
            if code == -signal.SIGKILL:
                memory = '; it was probably killed for lack of memory, take a smaller size'
            raise RuntimeError(f'{self._name} ended with code {code} during "{action}"{memory}')
        answer = json.loads(line)
        if 'user_error' in answer:
            raise errors.UserError(answer['user_error'])
        return answer['result']

    def close(self) -> None:
        """Ends the worker."""
        self._requests.close()
        self._process.wait()
        self._answers.close()

    def __enter__(self) -> 'Worker':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(handlers: Mapping[str, Callable[..., Any]]) -> None:
    """Answers requests on standard input until it ends.

    A handler takes its action's arguments and returns a JSON value.
    """
    # The descriptor is redirected, because C libraries print too.
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Line buffering, like standard error: a worker that dies must not lose its last lines.
        sys.stdout.reconfigure(line_buffering=True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {'result': handlers[request.pop('action')](**request)}
        except errors.UserError as error:
            answer = {'user_error': str(error)}
        answers.write(json.dumps(answer) + '\n')
        answers.flush()
