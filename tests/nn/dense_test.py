"""The linear layer."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax.nn import dense


def test_computes_inputs_times_kernel_plus_bias():
    layer = dense.Dense(5, ('embed', 'mlp'), use_bias=True)
    inputs = np.random.default_rng(0).standard_normal((2, 3, 7)).astype(np.float32)
    params = nn.unbox(layer.init(jax.random.key(0), inputs))['params']
    params['bias'] = jnp.arange(5.0)
    np.testing.assert_allclose(layer.apply({'params': params}, inputs), inputs @ params['kernel'] + np.arange(5), rtol=1e-5, atol=1e-6)


def test_axes_are_named_and_parameters_float32():
    boxed = dense.Dense(5, ('embed', 'mlp'), use_bias=True, dtype='bfloat16').init(jax.random.key(0), jnp.ones((1, 7)))['params']
    assert boxed['kernel'].names == ('embed', 'mlp') and boxed['bias'].names == ('mlp',)
    assert {leaf.dtype for leaf in jax.tree.leaves(nn.unbox(boxed))} == {jnp.dtype('float32')}


def test_dtype_is_that_of_the_computation():
    layer = dense.Dense(5, ('embed', 'mlp'), dtype='bfloat16')
    outputs, _ = layer.init_with_output(jax.random.key(0), jnp.ones((1, 7)))
    assert outputs.dtype == jnp.bfloat16


def test_default_variance_is_one_over_inputs():
    kernel = nn.unbox(dense.Dense(307, ('embed', 'mlp')).init(jax.random.key(0), jnp.ones((1, 211))))['params']['kernel']
    assert abs(float(jnp.var(kernel)) * 211 - 1) < 0.05


def test_sum_over_leading_axes():
    values = np.random.default_rng(0).standard_normal((2, 3, 5, 7)).astype(np.float32)
    for kept in (1, 3):
        np.testing.assert_allclose(dense.sum_over_leading(values, kept), values.sum(axis=tuple(range(4 - kept))), rtol=1e-5, atol=1e-6)
