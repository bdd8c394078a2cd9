"""Attention on streams compared with a plain loop over passages; masks, gradients, dropout."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.nn import attention
from tests.testing import streams

HEADS, HEAD_DIM, EMBED = 3, 5, 11
LENGTHS = [4, 0, 7, 1]
LAYER = attention.Attention(HEADS, HEAD_DIM, EMBED, scale=0.5, use_bias=True)


def _stream(lengths=LENGTHS, streams_=2):
    return streams.flat(streams.random_passages(lengths, 13, 7), lengths, streams=streams_)


def _params():
    boxed = LAYER.init(jax.random.key(0), jnp.ones((2, 14, EMBED)), _stream(), None, method='on_stream')
    return streams.perturbed(nn.unbox(boxed)['params'])


def _plain(params, inputs, bias=0.0, mask=None):
    """Attention in one passage [length, embed] in numpy."""
    project = lambda name: (inputs @ params[name]['kernel'] + params[name]['bias']).reshape(len(inputs), HEADS, HEAD_DIM)  # noqa: E731
    logits = np.einsum('qhd,khd->hqk', project('query') * 0.5, project('key')) + bias
    logits = logits if mask is None else np.where(mask, logits, -np.inf)
    probabilities = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities /= probabilities.sum(axis=-1, keepdims=True)
    rows = np.einsum('hqk,khd->qhd', probabilities, project('value')).reshape(len(inputs), -1)
    return rows @ params['out']['kernel'] + params['out']['bias']


def test_on_stream_equals_each_passage_alone():
    stream, params, generator = _stream(), _params(), np.random.default_rng(0)
    inputs = generator.standard_normal((*stream.tokens.shape, EMBED)).astype(np.float32)
    bias = generator.standard_normal((HEADS, 7, 7)).astype(np.float32)
    found = LAYER.apply({'params': params}, inputs, stream, bias, method='on_stream')
    for s, per_stream in enumerate(np.reshape(LENGTHS, (2, 2))):
        for start, length in zip(stream.starts[s], per_stream, strict=True):
            if length:
                inside = slice(int(start), int(start) + int(length))
                expected = _plain(params, inputs[s, inside], bias[:, :length, :length])
                np.testing.assert_allclose(found[s, inside], expected, rtol=2e-5, atol=2e-5)


def test_over_heeds_the_mask_and_records_what_is_asked():
    params, inputs = _params(), np.random.default_rng(0).standard_normal((1, 5, EMBED)).astype(np.float32)
    mask = np.tril(np.ones((5, 5), bool))
    keys_values = LAYER.apply({'params': params}, inputs, method='keys_values')
    found, recorded = LAYER.apply({'params': params}, inputs, keys_values, None, mask, True, attention.RECORDED, method='over_recording')
    np.testing.assert_allclose(found[0], _plain(params, inputs[0], mask=mask), rtol=2e-5, atol=2e-5)
    keys, values = (np.float64(each[0]) for each in keys_values)  # [keys, heads, head_dim]
    query = ((inputs[0] @ params['query']['kernel'] + params['query']['bias']) * 0.5).reshape(5, HEADS, HEAD_DIM)
    logits = np.einsum('qhd,khd->hqk', query, keys)
    probabilities = np.where(mask, np.exp(logits), 0)
    probabilities /= probabilities.sum(axis=-1, keepdims=True)
    expected = {'scores': np.where(mask, logits, 0), 'probs': probabilities,
                'norms': probabilities * np.linalg.norm(values, axis=-1).T[:, None]}
    assert set(recorded) == set(expected) == set(attention.RECORDED)
    for name, by_head in expected.items():
        np.testing.assert_allclose(recorded[name][0], by_head.mean(axis=0), rtol=2e-5, atol=2e-6)


def test_what_is_not_recorded_is_not_computed():
    params, inputs, mask = {'params': _params()}, jnp.ones((1, 5, EMBED)), jnp.ones((5, 5), bool)
    keys_values = LAYER.apply(params, inputs, method='keys_values')
    nothing, something = (str(jax.make_jaxpr(
        lambda record=record: LAYER.apply(params, inputs, keys_values, None, mask, True, record, method='over_recording'))())
        for record in ((), ('probs',)))
    over = str(jax.make_jaxpr(lambda: LAYER.apply(params, inputs, keys_values, None, mask, method='over'))())
    assert nothing == over and len(something) > len(over)


def test_no_gradient_flows_into_what_is_recorded():
    params, inputs, mask = {'params': _params()}, jnp.ones((1, 5, EMBED)), jnp.ones((5, 5), bool)
    keys_values = LAYER.apply(params, inputs, method='keys_values')
    run = lambda inputs: LAYER.apply(params, inputs, keys_values, None, mask, True, attention.RECORDED, method='over_recording')  # noqa: E731
    total = lambda inputs: sum(leaf.sum() for leaf in run(inputs)[1].values())  # noqa: E731
    np.testing.assert_array_equal(jax.grad(total)(inputs), 0)


def test_step_by_step_equals_all_at_once():
    params, inputs = _params(), np.random.default_rng(0).standard_normal((2, 5, EMBED)).astype(np.float32)
    bias = np.random.default_rng(1).standard_normal((HEADS, 5, 5)).astype(np.float32)
    keys_values = LAYER.apply({'params': params}, inputs, method='keys_values')
    expected = LAYER.apply({'params': params}, inputs, keys_values, bias, np.tril(np.ones((5, 5), bool)), method='over')
    cache = (jnp.zeros((2, 5, HEADS, HEAD_DIM)),) * 2
    for position in range(5):
        found, cache = LAYER.apply({'params': params}, inputs[:, position:position + 1], jnp.int32(position), cache,
                                   bias[:, position:position + 1], method='step')
        np.testing.assert_allclose(found[:, 0], expected[:, position], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize('logits', [0.0, 1e4, -1e4])
def test_masked_softmax_without_any_key_is_zero_with_zero_gradient(logits):
    mask = jnp.array([[True, True, False], [False, False, False]])
    logits = jnp.full((2, 3), logits)
    np.testing.assert_allclose(attention.masked_softmax(logits, mask), [[0.5, 0.5, 0], [0, 0, 0]])
    gradient = jax.grad(lambda x: jnp.sum(attention.masked_softmax(x, mask) * jnp.arange(3.0)))(logits)
    np.testing.assert_allclose(gradient, [[-0.25, 0.25, 0], [0, 0, 0]])


def test_masked_softmax_survives_large_logits():
    np.testing.assert_allclose(attention.masked_softmax(jnp.array([3e38, -3e38]), jnp.array([True])), [1, 0])


def test_what_lies_behind_the_mask_does_not_matter():
    params, generator = _params(), np.random.default_rng(0)
    inputs = generator.standard_normal((1, 2, EMBED)).astype(np.float32)
    keys, values = generator.standard_normal((2, 1, 4, HEADS, HEAD_DIM)).astype(np.float32)
    mask = np.array([True, True, False, False])
    call = lambda k, v: LAYER.apply({'params': params}, inputs, (k, v), None, mask, method='over')  # noqa: E731
    junk_keys, junk_values = keys.copy(), values.copy()
    junk_keys[:, 2:], junk_values[:, 2:] = 1e3, -1e3
    np.testing.assert_array_equal(call(keys, values), call(junk_keys, junk_values))


def test_bias_gradient_sums_over_passages():
    logits, bias = jnp.zeros((2, 3, HEADS, 4, 5)), jnp.ones((HEADS, 4, 5))
    weights = jax.random.normal(jax.random.key(0), logits.shape)
    to_logits, to_bias = jax.grad(lambda x, b: jnp.sum(attention.add_bias(x, b) * weights), argnums=(0, 1))(logits, bias)
    np.testing.assert_array_equal(to_logits, weights)
    np.testing.assert_allclose(to_bias, weights.sum(axis=(0, 1)), rtol=1e-5, atol=1e-6)


def test_dropout_acts_on_probabilities_only_when_asked():
    layer = attention.Attention(HEADS, HEAD_DIM, EMBED, dropout_rate=0.5)
    stream = _stream()
    inputs = jnp.ones((*stream.tokens.shape, EMBED))
    params = nn.unbox(layer.init(jax.random.key(0), inputs, stream, None, method='on_stream'))
    run = lambda deterministic, key: layer.apply(params, inputs, stream, None, deterministic, rngs={'dropout': jax.random.key(key)},  # noqa: E731
                                                 method='on_stream')
    np.testing.assert_array_equal(run(True, 1), run(True, 2))
    assert not np.allclose(run(False, 1), run(False, 2))
