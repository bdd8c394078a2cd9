"""Reports an answer step's progress to the host while it runs: the passages found, and each token
as it is decoded.

A compiled program is one call, so otherwise its first token is known only with its last. A program
that reports computes the same as one that does not, but is compiled separately. JAX does not keep
programs that call the host in its persistent cache (`_cache_write` in jax/_src/compiler.py), so
each process compiles them again.
"""

import contextlib
from collections.abc import Iterator
from typing import Protocol

import jax
import numpy as np

from atlas_jax import types


class Listener(Protocol):
    """Receives the reports of one batch. A thread of jax calls it, so it must be quick and must not
    raise.
    """

    def found(self, retrieved: types.Retrieved) -> None:
        """Receives the retrieved passages, on the host."""

    def decoded(self, position: int, tokens: np.ndarray) -> None:
        """Receives the tokens at a position, [batch] int32; padding after a sequence's end."""


# Compiled programs outlive a call's listener, so they call the current listeners. One thread
# answers (apps/serving/batching.py).
_listeners: list[Listener] = []


@contextlib.contextmanager
def listening(listener: Listener | None) -> Iterator[None]:
    """Reports the steps that run inside the block to `listener`; None does nothing."""
    if listener is None:
        yield
        return
    _listeners.append(listener)
    try:
        yield
        # Results may arrive before the last report.
        jax.effects_barrier()
    finally:
        _listeners.remove(listener)


def tell_found(retrieved: types.Retrieved) -> None:
    """Reports the retrieved passages; called while a step is traced."""
    jax.debug.callback(_found, retrieved)


def tell_decoded(position: jax.Array, tokens: jax.Array) -> None:
    """Reports the tokens [batch] int32 at a position, a scalar int32; called while a step is
    traced.
    """
    jax.debug.callback(_decoded, position, tokens)


def _found(retrieved: types.Retrieved) -> None:
    for listener in tuple(_listeners):
        listener.found(jax.tree.map(np.asarray, retrieved))


def _decoded(position: jax.Array, tokens: jax.Array) -> None:
    for listener in tuple(_listeners):
        listener.decoded(int(position), np.asarray(tokens))
