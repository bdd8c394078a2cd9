"""Norms against numpy, and the recorded layer-norm vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.nn import norm
from tests.testing import streams


def _recorded():
    return np.load(streams.FIXTURES / 'parity' / 'contriever.npz')


@pytest.mark.parametrize(('kind', 'key'), [('true', 'ln_true_layernorm_y'), ('second_moment', 'ln_bert_y')])
def test_layer_norm_as_recorded(kind, key):
    recorded = _recorded()
    params = {'scale': recorded['ln_weight'], 'bias': recorded['ln_bias']}
    assert streams.error(norm.LayerNorm(kind).apply({'params': params}, recorded['ln_x']), recorded[key]) <= 1e-6


def test_the_kinds_differ_where_the_mean_is_not_zero():
    recorded = _recorded()
    assert streams.error(recorded['ln_true_layernorm_y'], recorded['ln_bert_y']) > 1e-2


def test_rms_norm_as_recorded():
    recorded = _recorded()
    assert streams.error(norm.RMSNorm().apply({'params': {'scale': recorded['ln_weight']}}, recorded['ln_x']), recorded['ln_t5_y']) <= 1e-6


@pytest.mark.parametrize('layer', [norm.RMSNorm(dtype='bfloat16'), norm.LayerNorm(dtype='bfloat16')])
def test_zeros_stay_finite_and_dtype_is_kept(layer):
    params = {'scale': jnp.ones(7), 'bias': jnp.zeros(7)}
    outputs = layer.apply({'params': {name: params[name] for name in ('scale', 'bias') if name == 'scale' or hasattr(layer, 'kind')}},
                          jnp.zeros((3, 7)))
    assert outputs.dtype == jnp.bfloat16
    np.testing.assert_array_equal(outputs.astype(jnp.float32), 0)


def test_statistics_of_bfloat16_are_taken_in_float32():
    inputs = (100 + jnp.arange(64.0)).astype(jnp.bfloat16)
    expected = inputs.astype(jnp.float32)
    expected = expected / jnp.sqrt(jnp.mean(expected**2))
    found = norm.RMSNorm(dtype='float32').apply({'params': {'scale': jnp.ones(64)}}, inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize('kind', ['rms', *norm.LAYER_NORM_KINDS])
def test_gradients_are_those_of_the_formula(kind):
    generator = np.random.default_rng(0)
    inputs = jnp.asarray(1 + generator.standard_normal((2, 5, 7)), jnp.float32)
    params = {name: jnp.asarray(generator.standard_normal(7), jnp.float32) for name in ('scale', 'bias')[:1 if kind == 'rms' else 2]}
    weights = generator.standard_normal(inputs.shape).astype(np.float32)
    layer = norm.RMSNorm(1e-2) if kind == 'rms' else norm.LayerNorm(kind, 1e-2)

    def formula(params, inputs):
        centred = inputs if kind == 'rms' else inputs - jnp.mean(inputs, axis=-1, keepdims=True)
        measured = centred if kind == 'true' else inputs
        return centred / jnp.sqrt(jnp.mean(measured**2, axis=-1, keepdims=True) + 1e-2) * params['scale'] + params.get('bias', 0)

    found, expected = (jax.value_and_grad(lambda *arguments, run=run: jnp.sum(run(*arguments) * weights), argnums=(0, 1))(params, inputs)
                       for run in (lambda params, inputs: layer.apply({'params': params}, inputs), formula))
    jax.tree.map(lambda mine, theirs: np.testing.assert_allclose(mine, theirs, rtol=2e-5, atol=2e-6), found, expected)
