"""Tables looked up by token and by position."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.nn import embedding
from tests.testing import streams

TABLE = np.random.default_rng(0).standard_normal((13, 5)).astype(np.float32)
LAYER = embedding.Embedding(13, 5)
VARIABLES = {'params': {'embedding': TABLE}}
LENGTHS = [4, 0, 7, 1]


def _stream():
    return streams.flat(streams.random_passages(LENGTHS, 13, 7), LENGTHS, streams=2)


def test_tokens():
    tokens = np.array([[0, 12, 3], [3, 3, 7]])
    np.testing.assert_array_equal(LAYER.apply(VARIABLES, tokens), TABLE[tokens])


def test_token_gradient_adds_up_repeated_tokens():
    tokens, weights = np.array([3, 3, 7]), np.random.default_rng(1).standard_normal((3, 5)).astype(np.float32)
    found = jax.grad(lambda table: jnp.sum(LAYER.apply({'params': {'embedding': table}}, tokens) * weights))(TABLE)
    expected = np.zeros_like(TABLE)
    np.add.at(expected, tokens, weights)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_positions_restart_in_every_passage():
    stream = _stream()
    expected = np.where((stream.passage_indices >= 0)[..., None], TABLE[stream.positions], 0)
    np.testing.assert_array_equal(LAYER.apply(VARIABLES, stream, method='by_position'), expected)


def test_position_gradient_counts_each_position_and_has_no_scatter():
    stream = _stream()
    loss = lambda table: jnp.sum(LAYER.apply({'params': {'embedding': table}}, stream, method='by_position'))  # noqa: E731
    counts = np.array([sum(length > position for length in LENGTHS) for position in range(13)])
    np.testing.assert_array_equal(jax.grad(loss)(TABLE), np.repeat(counts[:, None], 5, axis=1))
    assert 'scatter' not in str(jax.make_jaxpr(jax.grad(loss))(TABLE))


def test_more_positions_than_known_is_refused():
    stream = streams.flat(streams.random_passages([3], 13, 14), [3])
    with pytest.raises(ValueError, match='14 tokens, but only 13 positions'):
        LAYER.apply(VARIABLES, stream, method='by_position')


def test_attend_gives_float32_logits():
    inputs = np.random.default_rng(1).standard_normal((2, 5)).astype(np.float32)
    logits = embedding.Embedding(13, 5, dtype='bfloat16').apply(VARIABLES, inputs, method='attend')
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, inputs @ TABLE.T, rtol=1e-5, atol=1e-6)
