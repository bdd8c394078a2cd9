"""Packing, and the two gathers that are inverse to each other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_jax.nn import token_stream
from tests.testing import streams

LENGTHS = [[5, 0, 7, 1, 3], [0, 2, 2, 0, 11]]
WIDTH, CAPACITY, LONGEST = 11, 19, 11


def _stream():
    tokens = np.stack([streams.random_passages(lengths, 97, WIDTH, seed) for seed, lengths in enumerate(LENGTHS)])
    return tokens, token_stream.pack(jnp.asarray(tokens), jnp.asarray(LENGTHS), CAPACITY, LONGEST)


def test_passages_lie_one_after_another():
    tokens, stream = _stream()
    for i, lengths in enumerate(LENGTHS):
        expected = np.concatenate([row[:n] for row, n in zip(tokens[i], lengths, strict=True)])
        total = sum(lengths)
        np.testing.assert_array_equal(stream.tokens[i, :total], expected)
        np.testing.assert_array_equal(stream.positions[i, :total], np.concatenate([np.arange(n) for n in lengths]))
        np.testing.assert_array_equal(stream.passage_indices[i, :total], np.repeat(np.arange(5), lengths))
        np.testing.assert_array_equal(stream.starts[i], np.cumsum(lengths) - lengths)
        assert (stream.passage_indices[i, total:] == -1).all()
        assert (stream.tokens[i, total:] == 0).all() and (stream.positions[i, total:] == 0).all()
    assert {leaf.dtype for leaf in jax.tree.leaves(stream)} == {jnp.dtype('int32')}


def test_rows_hold_each_passage_and_zeros():
    tokens, stream = _stream()
    rows = token_stream.to_rows(stream, stream.tokens[..., None].astype(jnp.float32))
    np.testing.assert_array_equal(rows[..., 0], tokens)
    np.testing.assert_array_equal(token_stream.row_mask(stream), tokens > 0)


def test_rows_may_be_wider_than_the_passages():
    tokens, _ = _stream()
    stream = token_stream.pack(jnp.asarray(tokens), jnp.asarray(LENGTHS), CAPACITY, 13)
    rows = token_stream.to_rows(stream, stream.tokens[..., None])
    assert rows.shape == (2, 5, 13, 1)
    np.testing.assert_array_equal(rows[..., :WIDTH, 0], tokens)


def test_to_stream_undoes_to_rows_and_keeps_trailing_dimensions():
    _, stream = _stream()
    values = jax.random.normal(jax.random.key(0), (2, CAPACITY, 2, 3))
    back = token_stream.to_stream(stream, token_stream.to_rows(stream, values))
    expected = jnp.where((stream.passage_indices >= 0)[..., None, None], values, 0)
    np.testing.assert_array_equal(back, expected)


def test_gradients_are_those_of_plain_indexing():
    _, stream = _stream()
    generator = np.random.default_rng(1)
    values = jnp.asarray(generator.standard_normal((2, CAPACITY, 3)), jnp.float32)
    rows = jnp.asarray(generator.standard_normal((2, 5, LONGEST, 3)), jnp.float32)
    indices = jnp.clip(stream.starts[..., None] + jnp.arange(LONGEST), 0, CAPACITY - 1)

    def plain_rows(values):
        taken = values[jnp.arange(2)[:, None, None], indices]
        return jnp.where(token_stream.row_mask(stream)[..., None], taken, 0)

    def plain_stream(rows):
        taken = rows[jnp.arange(2)[:, None], jnp.maximum(stream.passage_indices, 0), stream.positions]
        return jnp.where((stream.passage_indices >= 0)[..., None], taken, 0)

    for ours, plain, at, weights in ((token_stream.to_rows, plain_rows, values, rows),
                                     (token_stream.to_stream, plain_stream, rows, values)):
        found = jax.grad(lambda x, f=ours, w=weights: jnp.sum(f(stream, x) * w))(at)
        expected = jax.grad(lambda x, f=plain, w=weights: jnp.sum(f(x) * w))(at)
        np.testing.assert_array_equal(found, expected)


def test_backward_has_no_scatter():
    _, stream = _stream()
    values = jnp.ones((2, CAPACITY, 3))
    text = str(jax.make_jaxpr(jax.grad(lambda v: jnp.sum(token_stream.to_stream(stream, token_stream.to_rows(stream, v)**2))))(values))
    assert 'scatter' not in text and 'gather' in text


def test_a_stream_without_any_token():
    stream = token_stream.pack(jnp.zeros((1, 3, 4), jnp.int32), jnp.zeros((1, 3), jnp.int32), 5, 4)
    assert (stream.passage_indices == -1).all()
    gradient = jax.grad(lambda v: jnp.sum(token_stream.to_stream(stream, token_stream.to_rows(stream, v))))(jnp.ones((1, 5, 2)))
    np.testing.assert_array_equal(gradient, 0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=4, max_size=4), st.sampled_from([6, 8]))
def test_any_lengths(lengths, longest):
    tokens = streams.random_passages(lengths, 50, 6)
    stream, rows, back = _round_trip(tokens, np.asarray(lengths, np.int32), longest)
    np.testing.assert_array_equal(rows[:, :6], tokens)
    np.testing.assert_array_equal(back, stream.tokens[0])


@functools.partial(jax.jit, static_argnums=2)
def _round_trip(tokens, lengths, longest):
    stream = token_stream.pack(tokens[None], lengths[None], 24, longest)  # 24 tokens: full if every passage is full
    rows = token_stream.to_rows(stream, stream.tokens[..., None])
    return stream, rows[0, ..., 0], token_stream.to_stream(stream, rows)[0, ..., 0]
