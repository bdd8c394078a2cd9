"""Buckets as recorded from the original; the Toeplitz layout against plain indexing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.nn import t5_layers
from tests.testing import streams


@pytest.mark.parametrize('direction', ['bidirectional', 'unidirectional'])
def test_buckets_as_recorded(direction):
    recorded = np.load(streams.FIXTURES / 'parity' / 'relpos.npz')
    found = t5_layers.position_buckets(recorded['relative_position'], direction == 'bidirectional', 32, 128)
    np.testing.assert_array_equal(found, recorded[f'{direction}_32_128'])


def _bias(bidirectional, buckets=8, max_distance=11):
    layer = t5_layers.RelativePositionBias(3, buckets, max_distance, bidirectional, emb_dim=5)
    return layer, {'rel_embedding': np.random.default_rng(0).standard_normal((3, buckets)).astype(np.float32)}


def _plain(params, length, bidirectional, buckets=8, max_distance=11):
    positions = np.arange(length)
    table = t5_layers.position_buckets(positions[None, :] - positions[:, None], bidirectional, buckets, max_distance)  # key - query
    return params['rel_embedding'][:, table]


@pytest.mark.parametrize('bidirectional', [True, False])
@pytest.mark.parametrize('length', [1, 2, 13, 37])
def test_bias_equals_plain_indexing(bidirectional, length):
    layer, params = _bias(bidirectional)
    np.testing.assert_array_equal(layer.apply({'params': params}, length), _plain(params, length, bidirectional))


def test_gradient_equals_that_of_indexing_and_has_no_scatter():
    layer, params = _bias(True)
    weights = jax.random.normal(jax.random.key(0), (3, 13, 13))
    loss = lambda p: jnp.sum(layer.apply({'params': p}, 13) * weights)  # noqa: E731
    found = jax.grad(loss)(params)['rel_embedding']
    expected = np.zeros((3, 8))
    table = t5_layers.position_buckets(np.arange(13)[None, :] - np.arange(13)[:, None], True, 8, 11)
    for bucket in range(8):
        expected[:, bucket] = np.where(table == bucket, weights, 0).sum(axis=(1, 2))
    assert streams.error(found, expected) <= 1e-5
    assert 'scatter' not in str(jax.make_jaxpr(jax.grad(loss))(params))


@pytest.mark.parametrize('position', [0, 4, 12])
def test_a_row_is_a_row_of_the_whole(position):
    layer, params = _bias(False)
    row = layer.apply({'params': params}, jnp.int32(position), 13, method='row')
    assert row.shape == (3, 1, 13)
    np.testing.assert_array_equal(row[:, 0, :position + 1], _plain(params, 13, False)[:, position, :position + 1])
