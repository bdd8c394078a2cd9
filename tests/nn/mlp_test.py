"""The feed-forward block, plain and gated."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.nn import mlp

INPUTS = np.random.default_rng(0).standard_normal((2, 3, 7)).astype(np.float32)


def _params(layer):
    return nn.unbox(layer.init(jax.random.key(0), INPUTS))['params']


def test_gated():
    layer = mlp.Mlp(11, ('gelu', 'linear'))
    params = _params(layer)
    gate, value = INPUTS @ params['wi_0']['kernel'], INPUTS @ params['wi_1']['kernel']
    expected = (jax.nn.gelu(gate, approximate=True) * value) @ params['wo']['kernel']
    np.testing.assert_allclose(layer.apply({'params': params}, INPUTS), expected, rtol=1e-5, atol=1e-6)


def test_plain_has_one_kernel_and_may_have_biases():
    layer = mlp.Mlp(11, ('relu',), use_bias=True)
    params = _params(layer)
    assert set(params) == {'wi', 'wo'}
    params['wi']['bias'], params['wo']['bias'] = jnp.arange(11.0) - 5, jnp.arange(7.0)
    hidden = jnp.maximum(INPUTS @ params['wi']['kernel'] + params['wi']['bias'], 0)
    expected = hidden @ params['wo']['kernel'] + jnp.arange(7.0)
    np.testing.assert_allclose(layer.apply({'params': params}, INPUTS), expected, rtol=1e-5, atol=1e-6)


def test_the_two_gelus_differ():
    inputs = jnp.linspace(-3, 3, 31)
    np.testing.assert_allclose(mlp.ACTIVATIONS['gelu_erf'](inputs), jax.nn.gelu(inputs, approximate=False), rtol=1e-4, atol=1e-6)
    difference = jnp.abs(mlp.ACTIVATIONS['gelu'](inputs) - mlp.ACTIVATIONS['gelu_erf'](inputs)).max()
    assert 1e-4 < float(difference) < 1e-2


@pytest.mark.parametrize('rate', [0.0, 0.5])
def test_dropout_is_between_the_two_layers_and_really_off(rate):
    layer = mlp.Mlp(101, ('relu',), dropout_rate=rate)
    params = _params(layer)
    still = layer.apply({'params': params}, INPUTS)
    again = layer.apply({'params': params}, INPUTS, False, rngs={'dropout': jax.random.key(1)})
    np.testing.assert_array_equal(still, mlp.Mlp(101, ('relu',)).apply({'params': params}, INPUTS))
    assert np.array_equal(still, again) == (rate == 0.0)
