"""Greedy decoding."""

from typing import Any

import jax
import jax.numpy as jnp

from atlas_jax.decoding import sequences
from atlas_jax.decoding.config import DecodingConfig

Array = jax.Array


def greedy(tokens_to_logits: sequences.TokensToLogits, cache: Any, batch: int, config: DecodingConfig, special: sequences.SpecialTokens,
           prefix: sequences.Prefix | None = None) -> sequences.Decoded:
    """Takes the likeliest token at each step until every example has ended.

    Args:
      tokens_to_logits: see sequences.py; one row an example.
      cache: what the first call gets, with room for `max_length - 1` positions.
      config: max_length and min_length count; max_length must be set.
      prefix: what the sequences have to begin with, or None.

    Returns:
      One sequence an example, without scores.
    """
    steps = config.max_length - 1
    start = jnp.full((batch,), special.start, jnp.int32)
    _, _, record = jax.eval_shape(tokens_to_logits, start, jnp.zeros((), jnp.int32), cache)
    records = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), record)

    def unfinished(state):
        position, ended, *_ = state
        return (position < steps) & ~jnp.all(ended)

    def step(state):
        position, ended, token, tokens, records, cache = state
        logits, cache, record = tokens_to_logits(token, position, cache)
        logits = sequences.allowed(logits, position, config.min_length, special.eos, prefix)
        token = jnp.where(ended, special.pad, jnp.argmax(logits, axis=-1)).astype(jnp.int32)
        tokens = jax.lax.dynamic_update_index_in_dim(tokens, token, position, axis=1)
        records = jax.tree.map(lambda total, new: total + jnp.where(_beside(ended, new), 0, new), records, record)
        return position + 1, ended | (token == special.eos), token, tokens, records, cache

    tokens = jnp.full((batch, steps), special.pad, jnp.int32)
    state = (jnp.zeros((), jnp.int32), jnp.zeros((batch,), bool), start, tokens, records, cache)
    *_, tokens, records, _ = jax.lax.while_loop(unfinished, step, state)
    return sequences.Decoded(tokens[:, None], None, jax.tree.map(lambda leaf: leaf[:, None], records))


def _beside(rows: Array, values: Array) -> Array:
    return rows.reshape(-1, *(1,) * (values.ndim - 1))
