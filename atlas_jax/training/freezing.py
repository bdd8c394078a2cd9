"""An optimiser that waits: parameters and moments stay as they are in the first updates."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class FrozenState(NamedTuple):
    """`updates_done` scalar int32, and the state of the transformation that waits."""

    updates_done: jax.Array
    inner: Any


def frozen_for(transformation: optax.GradientTransformation, steps: int) -> optax.GradientTransformation:
    """Updates nothing, moments and counters included, in the first `steps` updates; then it is `transformation`.

    Its own counters start at 0 when it sets in. In graph: nothing compiles again.
    """
    if steps == 0:
        return transformation

    def init(params: Any) -> FrozenState:
        return FrozenState(jnp.zeros((), jnp.int32), transformation.init(params))

    def update(gradients: Any, state: FrozenState, params: Any = None) -> tuple[Any, FrozenState]:
        frozen = state.updates_done < steps
        updates, inner = transformation.update(gradients, state.inner, params)
        updates = jax.tree.map(lambda new: jnp.where(frozen, jnp.zeros_like(new), new), updates)
        inner = jax.tree.map(lambda old, new: jnp.where(frozen, old, new), state.inner, inner)
        return updates, FrozenState(state.updates_done + 1, inner)

    return optax.GradientTransformation(init, update)
