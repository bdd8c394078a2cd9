"""Greedy decoding over a table instead of a model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.decoding import greedy

PAD, EOS, START = 0, 1, 2


def _follow(successors, calls=None):
    """tokens_to_logits of a chain in which `successors[token]` comes next; the cache counts the calls."""
    table = jnp.asarray(successors)

    def tokens_to_logits(token, position, cache):
        if calls is not None:
            jax.debug.callback(calls.append, position)
        return jax.nn.one_hot(table[token], len(successors)), cache + 1

    return tokens_to_logits


def test_follows_the_likeliest_token_and_pads_after_eos():
    # 2 -> 3 -> 4 -> eos; 5 -> 6 -> 5 never ends
    table = jnp.asarray([0, 0, 3, 4, 1, 6, 5])

    def tokens_to_logits(token, position, cache):
        start = jnp.where(position == 0, jnp.array([2, 5]), token)
        return jax.nn.one_hot(table[start], 7), cache

    tokens = greedy.greedy(tokens_to_logits, (), 2, 7, START, EOS, PAD)
    np.testing.assert_array_equal(tokens, [[3, 4, 1, 0, 0, 0], [6, 5, 6, 5, 6, 5]])
    assert tokens.dtype == jnp.int32


def test_stops_when_all_have_ended():
    calls = []
    tokens = greedy.greedy(_follow([0, 0, 3, 1], calls), jnp.zeros(()), 3, 31, START, EOS, PAD)
    jax.effects_barrier()
    np.testing.assert_array_equal(tokens[:, :3], [[3, 1, 0]] * 3)
    assert sorted(int(position) for position in calls) == [0, 1]


def test_positions_count_from_the_start_token():
    def tokens_to_logits(token, position, cache):
        return jax.nn.one_hot(jnp.full(token.shape, position + 3), 11), cache

    np.testing.assert_array_equal(greedy.greedy(tokens_to_logits, (), 1, 5, START, EOS, PAD), [[3, 4, 5, 6]])


def test_the_shortest_length():
    with pytest.raises(errors.ConfigError, match='max_length is 1'):
        greedy.greedy(_follow([0, 0, 3, 1]), jnp.zeros(()), 2, 1, START, EOS, PAD)
    np.testing.assert_array_equal(greedy.greedy(_follow([0, 0, 3, 1]), jnp.zeros(()), 2, 2, START, EOS, PAD), [[3], [3]])
