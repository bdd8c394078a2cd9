"""Notes to the user, printed by the first process of a run only."""

import functools
import sys


def is_first() -> bool:
    """Returns whether this process prints for the run: process 0, or one that never imported jax.
    """
    # A program that has not imported jax is no part of a run. Importing it here would wait for the
    # other processes, or take a TPU from the program that trains.
    jax = sys.modules.get('jax')
    return jax is None or jax.process_index() == 0


def say(text: str, *, to_stdout: bool = False) -> None:
    """Prints a text on standard error, or on standard output; process 0 only."""
    if is_first():
        print(text, file=sys.stdout if to_stdout else sys.stderr, flush=True)


# An evaluation prepares its examples more than once, and a training run for every evaluation. A
# server lives for months: the cache must not grow without end.
@functools.lru_cache(256)
def say_once(text: str) -> None:
    """Prints a text on standard error the first time that it is said; process 0 only."""
    say(text)
