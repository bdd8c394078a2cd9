"""BERT's layout, positions and configuration; pooling of passages, also empty ones, and normalisation."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.models import contriever
from tests.testing import streams, tiny

CONFIG = contriever.ContrieverConfig(vocab_size=41, emb_dim=22, num_heads=2, num_layers=1, mlp_dim=29, max_positions=13, dropout_rate=0.0)
LENGTHS = [5, 0, 11, 1, 2, 7]
TOKENS = streams.random_passages(LENGTHS, 41, 11)
PARAMS = streams.perturbed(tiny.init(contriever.init_params, CONFIG))


def _embed(stream, **options):
    return jax.jit(contriever.Contriever(dataclasses.replace(CONFIG, **options)).apply)({'params': PARAMS}, stream)


@pytest.mark.parametrize('pooling', contriever.POOLINGS)
@pytest.mark.parametrize('count', [1, 3])
def test_pooling(pooling, count):
    stream = streams.flat(TOKENS, LENGTHS, streams=count)
    hidden = jax.jit(contriever.Bert(CONFIG).apply)({'params': PARAMS['bert']}, stream)
    found = _embed(stream, pooling=pooling)
    assert found.shape == (count, 6 // count, 22) and found.dtype == jnp.float32
    for s, i in np.ndindex(count, 6 // count):
        start, length = int(stream.starts[s, i]), int(stream.lengths[s, i])
        states = np.asarray(hidden[s, start:start + length])
        if length == 0:
            expected = np.zeros(22)
        elif pooling == 'cls':
            expected = states[0]
        elif pooling == 'last':
            expected = states[-1]
        elif pooling == 'max':
            expected = states.max(axis=0)
        elif pooling == 'weighted':
            expected = np.average(states, axis=0, weights=np.arange(1, length + 1))
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
    with pytest.raises(errors.ConfigError, match='pooling is "median"; choose one of average, sqrt'):
        dataclasses.replace(CONFIG, pooling='median')


@pytest.mark.parametrize('change', [{'truncate_dim': 0}, {'truncate_dim': 23}, {'max_tokens': 1}])
def test_dimensions_and_limits_that_cannot_be(change):
    with pytest.raises(errors.ConfigError, match=next(iter(change))):
        dataclasses.replace(CONFIG, **change)


def test_limits_of_inputs():
    assert CONFIG.input_tokens == 13 and dataclasses.replace(CONFIG, max_tokens=7).input_tokens == 7
    assert dataclasses.replace(CONFIG, max_tokens=512).input_tokens == 13


def test_truncated_embeddings_are_the_first_numbers_normalised_anew():
    stream = streams.flat(TOKENS, LENGTHS)
    whole, found = _embed(stream), _embed(stream, truncate_dim=5, normalize=True)
    expected = np.asarray(whole[..., :5])
    norms = np.linalg.norm(expected, axis=-1, keepdims=True)
    assert found.shape == (1, 6, 5)
    np.testing.assert_allclose(found, np.divide(expected, norms, where=norms > 0, out=np.zeros_like(expected)), atol=1e-6)


def test_axes_are_named():
    boxed = jax.eval_shape(lambda key: contriever.init_params(CONFIG, key), jax.random.key(0))
    leaves = jax.tree.leaves(boxed, is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned))
    assert all(isinstance(leaf, nn.Partitioned) and len(leaf.names) == leaf.value.ndim for leaf in leaves)
    assert boxed['bert']['layers_0']['attention']['query']['kernel'].names == ('embed', 'joined_kv')


# BERT alone. Its numbers are compared in tests/parity.

BERT = contriever.BertConfig(vocab_size=41, emb_dim=22, num_heads=2, num_layers=2, mlp_dim=29, max_positions=13, dropout_rate=0.0)
BERT_LENGTHS = [5, 0, 11, 1]
BERT_TOKENS = streams.random_passages(BERT_LENGTHS, 41, 11)


_apply_bert = jax.jit(contriever.Bert(BERT).apply)


def _bert_params():
    boxed = jax.jit(contriever.Bert(BERT).init)(jax.random.key(0), streams.flat(BERT_TOKENS, BERT_LENGTHS))['params']
    return streams.perturbed(nn.unbox(boxed))


def test_flat_equals_padded():
    params, flat = _bert_params(), streams.flat(BERT_TOKENS, BERT_LENGTHS)
    found = _apply_bert({'params': params}, flat)[0]
    padded = _apply_bert({'params': params}, streams.padded(BERT_TOKENS, BERT_LENGTHS))
    for i, length in enumerate(BERT_LENGTHS):
        start = int(flat.starts[0, i])
        np.testing.assert_allclose(found[start:start + length], padded[i, :length], rtol=1e-4, atol=1e-5)


def test_longer_passages_than_positions_are_refused():
    with pytest.raises(ValueError, match='14 tokens, but only 13 positions'):
        contriever.Bert(BERT).init(jax.random.key(0), streams.flat(BERT_TOKENS, BERT_LENGTHS, longest=14))


def test_dropout_is_really_off_and_really_on():
    model, params = contriever.Bert(dataclasses.replace(BERT, dropout_rate=0.3)), {'params': _bert_params()}
    stream = streams.flat(BERT_TOKENS, BERT_LENGTHS)
    off = jax.jit(model.apply)(params, stream)
    np.testing.assert_array_equal(off, _apply_bert(params, stream))
    run = jax.jit(lambda key: model.apply(params, stream, False, rngs={'dropout': key}))
    on = [run(jax.random.key(key)) for key in (1, 2)]
    assert not np.allclose(on[0], on[1]) and not np.allclose(on[0], off)


def test_the_second_moment_norm_is_another_model():
    stream, params = streams.flat(BERT_TOKENS, BERT_LENGTHS), {'params': _bert_params()}
    other = jax.jit(contriever.Bert(dataclasses.replace(BERT, layer_norm='second_moment')).apply)(params, stream)
    assert not np.allclose(other, _apply_bert(params, stream), atol=1e-3)


def test_gradient_scatters_into_the_token_embedding_alone():
    stream = streams.flat(BERT_TOKENS, BERT_LENGTHS)
    text = str(jax.make_jaxpr(jax.grad(lambda p: jnp.sum(contriever.Bert(BERT).apply({'params': p}, stream)**2)))(_bert_params()))
    # the row of type 0 is one dynamic slice
    assert text.count('scatter-add[') <= 2


@pytest.mark.parametrize(('field', 'value'), [('num_layers', 0), ('num_heads', 3), ('layer_norm', 'rms'), ('dropout_rate', -0.1)])
def test_bad_configuration_is_named(field, value):
    with pytest.raises(errors.ConfigError, match=field):
        dataclasses.replace(BERT, **{field: value})
