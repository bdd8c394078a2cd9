"""Pooling of passages, also empty ones, and normalisation."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.models import bert, contriever
from tests.testing import streams

CONFIG = contriever.ContrieverConfig(vocab_size=41, emb_dim=22, num_heads=2, num_layers=1, mlp_dim=29, max_positions=13, dropout_rate=0.0)
LENGTHS = [5, 0, 11, 1, 2, 7]
TOKENS = streams.random_passages(LENGTHS, 41, 11)
PARAMS = streams.perturbed(nn.unbox(contriever.init_params(CONFIG, jax.random.key(0))))


def _embed(stream, **options):
    return jax.jit(contriever.Contriever(dataclasses.replace(CONFIG, **options)).apply)({'params': PARAMS}, stream)


@pytest.mark.parametrize('pooling', contriever.POOLINGS)
@pytest.mark.parametrize('count', [1, 3])
def test_pooling(pooling, count):
    stream = streams.flat(TOKENS, LENGTHS, streams=count)
    hidden = jax.jit(bert.Bert(CONFIG).apply)({'params': PARAMS['bert']}, stream)
    found = _embed(stream, pooling=pooling)
    assert found.shape == (count, 6 // count, 22) and found.dtype == jnp.float32
    for s, i in np.ndindex(count, 6 // count):
        start, length = int(stream.starts[s, i]), int(stream.lengths[s, i])
        states = np.asarray(hidden[s, start:start + length])
        if length == 0:
            expected = np.zeros(22)
        elif pooling == 'cls':
            expected = states[0]
        else:
            expected = states.sum(axis=0) / (length if pooling == 'average' else np.sqrt(length))
        np.testing.assert_allclose(found[s, i], expected, rtol=1e-5, atol=1e-6)


def test_normalised_embeddings_have_length_one_and_empty_ones_zero():
    norms = np.linalg.norm(_embed(streams.flat(TOKENS, LENGTHS), normalize=True)[0], axis=-1)
    np.testing.assert_allclose(norms, np.array(LENGTHS) > 0, rtol=1e-6)


def test_gradients_are_finite_with_empty_passages_and_equal_in_both_layouts():
    def gradient(stream):
        model = contriever.Contriever(dataclasses.replace(CONFIG, normalize=True))
        weights = np.random.default_rng(0).standard_normal((6, 22)).astype(np.float32)
        return jax.jit(jax.grad(lambda p: jnp.sum(model.apply({'params': p}, stream).reshape(6, 22) * weights)))(PARAMS)

    found, expected = gradient(streams.flat(TOKENS, LENGTHS)), gradient(streams.padded(TOKENS, LENGTHS))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        # the key bias has no influence: its gradient is rounding noise
        np.testing.assert_allclose(a, b, atol=5e-5 * max(float(np.abs(b).max()), 1e-2))


def test_unknown_pooling_is_named():
    with pytest.raises(errors.ConfigError, match="pooling is 'max'"):
        dataclasses.replace(CONFIG, pooling='max')


def test_axes_are_named():
    boxed = jax.eval_shape(lambda key: contriever.init_params(CONFIG, key), jax.random.key(0))
    leaves = jax.tree.leaves(boxed, is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned))
    assert all(isinstance(leaf, nn.Partitioned) and len(leaf.names) == leaf.value.ndim for leaf in leaves)
    assert boxed['bert']['layers_0']['attention']['query']['kernel'].names == ('embed', 'joined_kv')
