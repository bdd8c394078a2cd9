"""A worker for the tests of line_process: echoes, prints, fails, dies, and does not end."""

import os
import signal
import sys
import threading
import time

from atlas_jax import errors
from atlas_jax.runtime import line_process


def fail() -> None:
    """Raises a user's error."""
    raise errors.ConfigError('no such thing')


def chatter(text: str) -> str:
    """Prints, as libraries do."""
    print('chatter on standard output')
    return text.upper()


def stay() -> None:
    """Goes on behind the last request, and at SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=time.sleep, args=(600,)).start()


if __name__ == '__main__':
    line_process.CLOSE_SECONDS = float(os.environ.get('CLOSE_SECONDS', 600))
    line_process.serve({'echo': lambda value: value, 'chatter': chatter, 'fail': fail, 'die': lambda: os._exit(3),
                        'stay': stay, 'sleep': lambda seconds: time.sleep(seconds),
                        'environment': lambda name: os.environ.get(name), 'modules': lambda: sorted(sys.modules)})
