"""Greedy decoding over a table instead of a model; what it finds is in search_test."""

import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax.decoding import greedy, sequences
from atlas_jax.decoding.config import DecodingConfig

SPECIAL = sequences.SpecialTokens(start=2, eos=1, pad=0)


def _follow(successors, calls):
    """tokens_to_logits of a chain in which `successors[token]` comes next; calls get the positions."""
    table = jnp.asarray(successors)

    def tokens_to_logits(token, position, cache):
        jax.debug.callback(calls.append, position)
        return jax.nn.one_hot(table[token], len(successors)), cache + 1, token

    return tokens_to_logits


def _greedy(tokens_to_logits, batch, max_length):
    return greedy.greedy(tokens_to_logits, jnp.zeros(()), batch, DecodingConfig(max_length=max_length), SPECIAL)


def test_follows_the_likeliest_token_and_pads_after_eos():
    # 2 -> 3 -> 4 -> eos; 5 -> 6 -> 5 never ends
    table = jnp.asarray([0, 0, 3, 4, 1, 6, 5])

    def tokens_to_logits(token, position, cache):
        start = jnp.where(position == 0, jnp.array([2, 5]), token)
        return jax.nn.one_hot(table[start], 7), cache, token

    decoded = _greedy(tokens_to_logits, 2, 7)
    np.testing.assert_array_equal(decoded.tokens, [[[3, 4, 1, 0, 0, 0]], [[6, 5, 6, 5, 6, 5]]])
    assert decoded.tokens.dtype == jnp.int32
    np.testing.assert_array_equal(decoded.records, [[2 + 3 + 4], [2 + 6 + 5 + 6 + 5 + 6]])


def test_stops_when_all_have_ended():
    calls = []
    tokens = _greedy(_follow([0, 0, 3, 1], calls), 3, 31).tokens
    jax.effects_barrier()
    np.testing.assert_array_equal(tokens[:, 0, :3], [[3, 1, 0]] * 3)
    assert sorted(int(position) for position in calls) == [0, 1]


def test_the_shortest_length():
    np.testing.assert_array_equal(_greedy(_follow([0, 0, 3, 1], []), 2, 2).tokens, [[[3]], [[3]]])
