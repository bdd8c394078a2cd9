"""Position buckets compared with the original's; the Toeplitz layout with plain indexing; single encoder and decoder layers."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.nn import attention, t5_layers
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


# A single encoder and decoder layer: 3 heads of 5, emb_dim 7, mlp_dim 11.
SIZES = (7, 3, 5, 11, ('gelu', 'linear'), 0.0, 1e-6, 'float32')
_jit = functools.partial(jax.jit, compiler_options=streams.QUICK_TO_COMPILE)


def _params(layer, call, *inputs):
    return {'params': streams.perturbed(nn.unbox(_jit(functools.partial(layer.init, method=call))(jax.random.key(0), *inputs))['params'])}


def test_an_encoder_layer_mixes_the_tokens_of_a_passage_alone():
    lengths = [4, 0, 2]
    stream = streams.flat(streams.random_passages(lengths, 41, 4), lengths, spare=1)
    hidden = np.random.default_rng(0).standard_normal((1, 7, 7)).astype(np.float32)
    bias = np.random.default_rng(1).standard_normal((3, 4, 4)).astype(np.float32)
    layer = t5_layers.EncoderLayer(*SIZES)

    def call(layer, hidden):
        return layer(hidden, stream, bias, True)

    params = _params(layer, call, hidden)
    run = _jit(functools.partial(layer.apply, method=call))
    before = run(params, hidden)
    changed = hidden.copy()
    changed[0, 5] += 1  # a token of the last passage
    after = run(params, changed)
    np.testing.assert_array_equal(before[0, :4], after[0, :4])
    assert np.all(np.any(np.abs(before[0, 4:6] - after[0, 4:6]) > 1e-4, axis=-1))


def test_a_decoder_layer_by_steps_equals_all_positions_at_once():
    generator = np.random.default_rng(0)
    hidden, encoded = (generator.standard_normal(shape).astype(np.float32) for shape in ((4, 3, 7), (2, 5, 7)))
    bias, causal_mask = generator.standard_normal((3, 3, 3)).astype(np.float32), np.tril(np.ones((3, 3), bool))
    key_mask = np.arange(5) < np.array([[5], [2]])  # two examples of two sequences each
    layer = t5_layers.DecoderLayer(*SIZES)

    def at_once(layer, hidden, encoded):
        return layer(hidden, bias, causal_mask, layer.keys_values(encoded), key_mask, True, ('probs',))

    def by_steps(layer, hidden, encoded):
        read, cache = attention.by_head(layer.keys_values(encoded), key_mask), (jnp.zeros((4, 3, 3, 5)),) * 2
        outputs = []
        for position in range(3):
            found, (cache, shares) = layer.step(hidden[:, position:position + 1], position, cache, bias[:, position:position + 1], read,
                                                key_mask)
            outputs.append((found[:, 0], shares))
        return outputs

    params = _params(layer, at_once, hidden, encoded)
    expected, recorded = _jit(functools.partial(layer.apply, method=at_once))(params, hidden, encoded)
    assert recorded['probs'].shape == (2, 2 * 3, 5)
    for position, (found, shares) in enumerate(_jit(functools.partial(layer.apply, method=by_steps))(params, hidden, encoded)):
        np.testing.assert_allclose(found, expected[:, position], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(shares, recorded['probs'].reshape(2, 2, 3, 5)[:, :, position], rtol=1e-5, atol=1e-6)
