"""Greedy decoding."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from atlas_jax import errors

Array = jax.Array
TokensToLogits = Callable[[Array, Array, Any], tuple[Array, Any]]


def greedy(tokens_to_logits: TokensToLogits, cache: Any, batch: int, max_length: int, start_id: int, eos_id: int, pad_id: int) -> Array:
    """Takes the likeliest token at each step until every example has ended.

    Args:
      tokens_to_logits: (token [batch] int32, position scalar int32, cache) -> (logits [batch, vocab], cache).
      cache: what the first call gets, of `max_length - 1` positions or more; any pytree.
      max_length: longest sequence, the start token counted; at least 2.

    Returns:
      [batch, max_length - 1] int32 without the start token: each example up to and including its eos, then pad_id.

    Raises ConfigError for a max_length below 2.
    """
    if max_length < 2:
        raise errors.ConfigError(f'max_length is {max_length}; it must be at least 2, as the start token counts')

    def unfinished(state):
        position, ended, *_ = state
        return (position < max_length - 1) & ~jnp.all(ended)

    def step(state):
        position, ended, token, tokens, cache = state
        logits, cache = tokens_to_logits(token, position, cache)
        token = jnp.where(ended, pad_id, jnp.argmax(logits, axis=-1)).astype(jnp.int32)
        tokens = jax.lax.dynamic_update_index_in_dim(tokens, token, position, axis=1)
        return position + 1, ended | (token == eos_id), token, tokens, cache

    tokens = jnp.full((batch, max_length - 1), pad_id, jnp.int32)
    start = (jnp.zeros((), jnp.int32), jnp.zeros((batch,), bool), jnp.full((batch,), start_id, jnp.int32), tokens, cache)
    return jax.lax.while_loop(unfinished, step, start)[3]
