"""A worker for the tests of line_process: echoes, prints, fails, dies."""

import os
import sys

from atlas_jax import errors
from atlas_jax.runtime import line_process


def fail() -> None:
    """Raises a user's error."""
    raise errors.ConfigError('no such thing')


def chatter(text: str) -> str:
    """Prints, as libraries do."""
    print('chatter on standard output')
    return text.upper()


if __name__ == '__main__':
    line_process.serve({'echo': lambda value: value, 'chatter': chatter, 'fail': fail, 'die': lambda: os._exit(3),
                        'environment': lambda name: os.environ.get(name), 'modules': lambda: sorted(sys.modules)})
