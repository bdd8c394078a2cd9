"""Lets the host hear what an answer step does while it runs: the passages that were found, and each token as it is decoded.

A compiled program is one call; without this its first token is known when its last one is. A program that is listened to is another one
than a silent one, for it calls the host back; it computes the same. JAX keeps no program with calls of the host in its persistent cache
(`_cache_write` in jax/_src/compiler.py), so each process compiles those that are listened to anew.
"""

import contextlib
from collections.abc import Iterator
from typing import Protocol

import jax
import numpy as np

from atlas_jax import types


class Listener(Protocol):
    """Hears one batch; called from a thread of jax, so it must be quick and must not raise."""

    def found(self, retrieved: types.Retrieved) -> None:
        """Takes what was retrieved, on the host."""

    def decoded(self, position: int, tokens: np.ndarray) -> None:
        """Takes the tokens at a position, [batch] int32; padding where a sequence has ended."""


# Compiled programs outlive the listener of one call, so they call whoever listens at that moment. One thread answers (serving/batching.py).
_listeners: list[Listener] = []


@contextlib.contextmanager
def listening(listener: Listener | None) -> Iterator[None]:
    """Has `listener` hear the steps that run inside the block; None hears nothing."""
    if listener is None:
        yield
        return
    _listeners.append(listener)
    try:
        yield
        # Results may be there before the last call was made.
        jax.effects_barrier()
    finally:
        _listeners.remove(listener)


def tell_found(retrieved: types.Retrieved) -> None:
    """Tells the listener what was retrieved; called while a step is traced."""
    jax.debug.callback(_found, retrieved)


def tell_decoded(position: jax.Array, tokens: jax.Array) -> None:
    """Tells the listener the tokens [batch] int32 at a position, a scalar int32; called while a step is traced."""
    jax.debug.callback(_decoded, position, tokens)


def _found(retrieved: types.Retrieved) -> None:
    for listener in tuple(_listeners):
        listener.found(jax.tree.map(np.asarray, retrieved))


def _decoded(position: jax.Array, tokens: jax.Array) -> None:
    for listener in tuple(_listeners):
        listener.decoded(int(position), np.asarray(tokens))
