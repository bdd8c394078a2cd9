"""The linear layer; the feed-forward block, plain and gated; tables by token and position; norms against numpy and recorded vectors."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.nn import layers
from tests.testing import streams


def test_computes_inputs_times_kernel_plus_bias():
    layer = layers.Dense(5, ('embed', 'mlp'), use_bias=True)
    inputs = np.random.default_rng(0).standard_normal((2, 3, 7)).astype(np.float32)
    params = nn.unbox(layer.init(jax.random.key(0), inputs))['params']
    params['bias'] = jnp.arange(5.0)
    np.testing.assert_allclose(layer.apply({'params': params}, inputs), inputs @ params['kernel'] + np.arange(5), rtol=1e-5, atol=1e-6)


def test_axes_are_named_and_parameters_float32():
    boxed = layers.Dense(5, ('embed', 'mlp'), use_bias=True, dtype='bfloat16').init(jax.random.key(0), jnp.ones((1, 7)))['params']
    assert boxed['kernel'].names == ('embed', 'mlp') and boxed['bias'].names == ('mlp',)
    assert {leaf.dtype for leaf in jax.tree.leaves(nn.unbox(boxed))} == {jnp.dtype('float32')}


def test_dtype_is_that_of_the_computation():
    layer = layers.Dense(5, ('embed', 'mlp'), dtype='bfloat16')
    outputs, _ = layer.init_with_output(jax.random.key(0), jnp.ones((1, 7)))
    assert outputs.dtype == jnp.bfloat16


def test_default_variance_is_one_over_inputs():
    kernel = nn.unbox(layers.Dense(307, ('embed', 'mlp')).init(jax.random.key(0), jnp.ones((1, 211))))['params']['kernel']
    assert abs(float(jnp.var(kernel)) * 211 - 1) < 0.05


INPUTS = np.random.default_rng(0).standard_normal((2, 3, 7)).astype(np.float32)


def _params(layer):
    return nn.unbox(layer.init(jax.random.key(0), INPUTS))['params']


def test_gated():
    layer = layers.Mlp(11, ('gelu', 'linear'))
    params = _params(layer)
    gate, value = INPUTS @ params['wi_0']['kernel'], INPUTS @ params['wi_1']['kernel']
    expected = (jax.nn.gelu(gate, approximate=True) * value) @ params['wo']['kernel']
    np.testing.assert_allclose(layer.apply({'params': params}, INPUTS), expected, rtol=1e-5, atol=1e-6)


def test_plain_has_one_kernel_and_may_have_biases():
    layer = layers.Mlp(11, ('relu',), use_bias=True)
    params = _params(layer)
    assert set(params) == {'wi', 'wo'}
    params['wi']['bias'], params['wo']['bias'] = jnp.arange(11.0) - 5, jnp.arange(7.0)
    hidden = jnp.maximum(INPUTS @ params['wi']['kernel'] + params['wi']['bias'], 0)
    expected = hidden @ params['wo']['kernel'] + jnp.arange(7.0)
    np.testing.assert_allclose(layer.apply({'params': params}, INPUTS), expected, rtol=1e-5, atol=1e-6)


def test_the_two_gelus_differ():
    inputs = jnp.linspace(-3, 3, 31)
    np.testing.assert_allclose(layers.ACTIVATIONS['gelu_erf'](inputs), jax.nn.gelu(inputs, approximate=False), rtol=1e-4, atol=1e-6)
    difference = jnp.abs(layers.ACTIVATIONS['gelu'](inputs) - layers.ACTIVATIONS['gelu_erf'](inputs)).max()
    assert 1e-4 < float(difference) < 1e-2


@pytest.mark.parametrize('rate', [0.0, 0.5])
def test_dropout_is_between_the_two_layers_and_really_off(rate):
    layer = layers.Mlp(101, ('relu',), dropout_rate=rate)
    params = _params(layer)
    still = layer.apply({'params': params}, INPUTS)
    again = layer.apply({'params': params}, INPUTS, False, rngs={'dropout': jax.random.key(1)})
    np.testing.assert_array_equal(still, layers.Mlp(101, ('relu',)).apply({'params': params}, INPUTS))
    assert np.array_equal(still, again) == (rate == 0.0)


TABLE = np.random.default_rng(0).standard_normal((13, 5)).astype(np.float32)
EMBEDDING = layers.Embedding(13, 5)
VARIABLES = {'params': {'embedding': TABLE}}
LENGTHS = [4, 0, 7, 1]


def _stream():
    return streams.flat(streams.random_passages(LENGTHS, 13, 7), LENGTHS, streams=2)


def test_tokens():
    tokens = np.array([[0, 12, 3], [3, 3, 7]])
    np.testing.assert_array_equal(EMBEDDING.apply(VARIABLES, tokens), TABLE[tokens])


def test_token_gradient_adds_up_repeated_tokens():
    tokens, weights = np.array([3, 3, 7]), np.random.default_rng(1).standard_normal((3, 5)).astype(np.float32)
    found = jax.grad(lambda table: jnp.sum(EMBEDDING.apply({'params': {'embedding': table}}, tokens) * weights))(TABLE)
    expected = np.zeros_like(TABLE)
    np.add.at(expected, tokens, weights)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_positions_restart_in_every_passage():
    stream = _stream()
    expected = np.where((stream.passage_indices >= 0)[..., None], TABLE[stream.positions], 0)
    np.testing.assert_array_equal(EMBEDDING.apply(VARIABLES, stream, method='by_position'), expected)


def test_position_gradient_counts_each_position_and_has_no_scatter():
    stream = _stream()
    loss = lambda table: jnp.sum(EMBEDDING.apply({'params': {'embedding': table}}, stream, method='by_position'))  # noqa: E731
    counts = np.array([sum(length > position for length in LENGTHS) for position in range(13)])
    np.testing.assert_array_equal(jax.grad(loss)(TABLE), np.repeat(counts[:, None], 5, axis=1))
    assert 'scatter' not in str(jax.make_jaxpr(jax.grad(loss))(TABLE))


def test_more_positions_than_known_is_refused():
    stream = streams.flat(streams.random_passages([3], 13, 14), [3])
    with pytest.raises(ValueError, match='14 tokens, but only 13 positions'):
        EMBEDDING.apply(VARIABLES, stream, method='by_position')


def test_attend_gives_float32_logits():
    inputs = np.random.default_rng(1).standard_normal((2, 5)).astype(np.float32)
    logits = layers.Embedding(13, 5, dtype='bfloat16').apply(VARIABLES, inputs, method='attend')
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, inputs @ TABLE.T, rtol=1e-5, atol=1e-6)


def _recorded():
    return np.load(streams.FIXTURES / 'parity' / 'contriever.npz')


@pytest.mark.parametrize(('kind', 'key'), [('true', 'ln_true_layernorm_y'), ('second_moment', 'ln_bert_y')])
def test_layer_norm_as_recorded(kind, key):
    recorded = _recorded()
    params = {'scale': recorded['ln_weight'], 'bias': recorded['ln_bias']}
    assert streams.error(layers.LayerNorm(kind).apply({'params': params}, recorded['ln_x']), recorded[key]) <= 1e-6


def test_the_kinds_differ_where_the_mean_is_not_zero():
    recorded = _recorded()
    assert streams.error(recorded['ln_true_layernorm_y'], recorded['ln_bert_y']) > 1e-2


def test_rms_norm_as_recorded():
    recorded = _recorded()
    found = layers.RMSNorm().apply({'params': {'scale': recorded['ln_weight']}}, recorded['ln_x'])
    assert streams.error(found, recorded['ln_t5_y']) <= 1e-6


@pytest.mark.parametrize('layer', [layers.RMSNorm(dtype='bfloat16'), layers.LayerNorm(dtype='bfloat16')])
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
    found = layers.RMSNorm(dtype='float32').apply({'params': {'scale': jnp.ones(64)}}, inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize('kind', ['rms', *layers.LAYER_NORM_KINDS])
def test_gradients_are_those_of_the_formula(kind):
    generator = np.random.default_rng(0)
    inputs = jnp.asarray(1 + generator.standard_normal((2, 5, 7)), jnp.float32)
    params = {name: jnp.asarray(generator.standard_normal(7), jnp.float32) for name in ('scale', 'bias')[:1 if kind == 'rms' else 2]}
    weights = generator.standard_normal(inputs.shape).astype(np.float32)
    layer = layers.RMSNorm(1e-2) if kind == 'rms' else layers.LayerNorm(kind, 1e-2)

    def formula(params, inputs):
        centred = inputs if kind == 'rms' else inputs - jnp.mean(inputs, axis=-1, keepdims=True)
        measured = centred if kind == 'true' else inputs
        return centred / jnp.sqrt(jnp.mean(measured**2, axis=-1, keepdims=True) + 1e-2) * params['scale'] + params.get('bias', 0)

    found, expected = (jax.value_and_grad(lambda *arguments, run=run: jnp.sum(run(*arguments) * weights), argnums=(0, 1))(params, inputs)
                       for run in (lambda params, inputs: layer.apply({'params': params}, inputs), formula))
    jax.tree.map(lambda mine, theirs: np.testing.assert_allclose(mine, theirs, rtol=2e-5, atol=2e-6), found, expected)
