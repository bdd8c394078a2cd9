"""The text of gin files: read with limits, and split into statements without running anything."""

import contextlib
import pathlib
import tokenize
from collections.abc import Callable, Iterator
from typing import Any

from gin import config_parser

from atlas_jax import errors
from atlas_jax.apps.gin_files import values as gin_values
from atlas_jax.io import untrusted

# Far more than any experiment needs. A larger file was made to exhaust the machine.
_MOST_BYTES = 2**20
MOST_DEPTH = 20  # nested brackets, and macros inside macros

# Imports of earlier releases, and the modules that they name today.
_MOVED_IMPORTS = {
    'from atlas_jax import api': 'from atlas_jax.answering import api',
    'from atlas_jax import evaluate': 'from atlas_jax.evaluation import evaluate',
    'from atlas_jax.planning import workload': 'from atlas_jax.apps.planning import workload'}


def read_text(path: pathlib.Path) -> str:
    """Reads a gin file. Imports of moved modules are rewritten to their present place, line for
    line.

    Raises ConfigError: a pipe, a device, a file that is too large, or no text.
    """
    try:
        untrusted.require_regular_file(path)
        with open(path, encoding='utf-8') as file:
            text = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        raise errors.ConfigError(f'{path}: cannot be read as text ({error})') from error
    if len(text) > _MOST_BYTES:
        raise errors.ConfigError(f'{path}: larger than {_MOST_BYTES // 2**20} MiB, so it is no '
                                 'gin file')
    return '\n'.join(_MOVED_IMPORTS.get(line.strip(), line) for line in text.split('\n'))


def statements(text: str) -> Iterator[Any]:
    """Parses gin statements; references and macros stay plain values. Raises SyntaxError, and
    whatever else `one_line_errors` turns into a ConfigError.
    """
    return config_parser.ConfigParser(text, gin_values.Delegate())


def require_inside(name: str, place: str) -> None:
    """Raises ConfigError: an include leaves the folders of gin files. A file from elsewhere must
    not read the user's other files.
    """
    try:
        untrusted.inside(pathlib.Path(), name)
    except ValueError as error:
        raise errors.ConfigError(f'{place}: include {name!r:.80}: {error}; give that file by '
                                 '--gin_file') from error


@contextlib.contextmanager
def one_line_errors(place_of: Callable[[int], str], remedy: str = '') -> Iterator[None]:
    """Turns errors of gin's parser into ConfigErrors of one line.

    Args:
      place_of: maps a line number to the place that the message begins with.
      remedy: ends the message, in place of the line's text.

    Raises ConfigError: the parser failed.
    """
    whole = place_of(0).removesuffix(':0')
    try:
        yield
    except SyntaxError as error:
        # gin's own errors carry (file, line, ...) beside the message.
        line = int(error.args[1][1] if len(error.args) > 1 else error.lineno or 0)
        problem = error.msg.strip().splitlines()[0].rstrip('.')
        found = remedy or f', found: {" ".join((error.text or "").split()):.200}'
        raise errors.ConfigError(f'{place_of(line)}: {problem}{found}') from error
    except RecursionError as error:  # gin's parser calls itself for every bracket
        raise errors.ConfigError(f'{whole}: brackets are nested deeper than {MOST_DEPTH}'
                                 ) from error
    # gin raises these for a list as a dict key and for a name without a parameter.
    except (TypeError, ValueError, AssertionError) as error:
        raise errors.ConfigError(f'{whole}: {" ".join(str(error).split())}{remedy}') from error
    except tokenize.TokenError as error:  # the file ends inside a bracket or a string
        message, (line, _) = error.args
        raise errors.ConfigError(f'{place_of(line)}: {message}; is a bracket or quote left open?'
                                 f'{remedy}') from error
