"""T5: streams compared with padded inputs, single steps with whole sequences; names, axes, dropout, configuration."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.conversion import hf_names
from atlas_jax.models import readings, t5
from atlas_jax.nn import layer_scan, token_stream
from tests.testing import streams, tiny

V11 = t5.T5Config(vocab_size=41, emb_dim=22, num_heads=3, head_dim=5, mlp_dim=29, num_encoder_layers=2, num_decoder_layers=3,
                  relpos_buckets=8, relpos_max_distance=11, dropout_rate=0.0)
V10 = dataclasses.replace(V11, mlp_activations=('relu',), logits_via_embedding=True)
LENGTHS = [13, 0, 1, 7, 17, 4]
TOKENS = streams.random_passages(LENGTHS, 41, 17)


def _params(config):
    return streams.perturbed(tiny.init(t5.init_params, config))


def _one_passage(count, length):
    """A stream of `count` examples, each one passage."""
    return token_stream.pack(jnp.ones((count, 1, length), jnp.int32), jnp.full((count, 1), length), length, length)


@functools.partial(jax.jit, static_argnums=0)
def _encode(config, params, stream):
    return t5.T5(config).apply({'params': params}, stream, method='encode')


@pytest.mark.parametrize('config', [V10, V11])
@pytest.mark.parametrize('count', [1, 2, 3])
def test_flat_equals_padded(config, count):
    params, flat = _params(config), streams.flat(TOKENS, LENGTHS, streams=count, spare=5, longest=19)
    padded = _encode(config, params, streams.padded(TOKENS, LENGTHS))
    found = _encode(config, params, flat).reshape(count, -1, 22)
    for i, length in enumerate(LENGTHS):
        per_stream = len(LENGTHS) // count
        start = int(flat.starts[i // per_stream, i % per_stream])
        np.testing.assert_allclose(found[i // per_stream, start:start + length], padded[i, :length], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('unroll', [1, 24])
@pytest.mark.parametrize('config', [V10, V11])
def test_step_by_step_equals_all_at_once(config, unroll):
    model, params = t5.T5(config, unroll=unroll), layer_scan.stack_layers(_params(config))
    tokens = np.random.default_rng(0).integers(0, 41, (2, 6))
    keys_values = model.apply({'params': params}, jax.random.normal(jax.random.key(1), (2, 9, 22)), _one_passage(2, 9),
                              method='cross_keys_values')
    mask = np.arange(9) < np.array([[9], [4]])
    expected = jax.jit(functools.partial(model.apply, method='decode'))({'params': params}, tokens, keys_values, mask)
    params, keys_values = model.step_by_step(params, keys_values, mask)
    assert isinstance(keys_values, list) == (unroll > 1)
    cache = model.init_cache(2, 8)
    step = jax.jit(lambda *args: model.apply({'params': params}, *args, method='decode_step'))
    for position in range(6):
        logits, cache, shares = step(tokens[:, position], jnp.int32(position), cache, keys_values, mask)
        np.testing.assert_allclose(logits, expected[:, position], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(shares.sum(axis=-1), 1, rtol=1e-5)
    assert expected.dtype == jnp.float32 and expected.shape == (2, 6, 41)


def test_reading_nothing_is_finite_and_ignores_the_keys():
    model, params = t5.T5(V11), _params(V11)
    none = np.zeros((1, 9), bool)
    run = lambda scale: model.apply(  # noqa: E731
        {'params': params}, np.array([[0, 5]]), (jnp.full((3, 1, 9, 3, 5), scale),) * 2, none, method='decode')
    np.testing.assert_array_equal(run(0.0), run(7.0))


def test_cross_attention_is_recorded_layers_first():
    model, params = t5.T5(V11), _params(V11)
    keys_values = model.apply({'params': params}, jax.random.normal(jax.random.key(1), (2, 9, 22)), _one_passage(2, 9),
                              method='cross_keys_values')
    mask = np.arange(9) < np.array([[9], [4]])
    run = jax.jit(lambda record: model.apply({'params': params}, np.zeros((2, 6), int), keys_values, mask, record=record,
                                             method='decode_recording'), static_argnums=0)
    logits, recorded = run(('probs',))
    probabilities, = recorded.values()
    assert probabilities.shape == (3, 2, 6, 9)  # layers, batch, target_length, keys
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(probabilities[:, 1, ..., 4:], 0)
    assert not np.allclose(probabilities[0], probabilities[1])
    plain, nothing = run(())
    assert nothing == {} and streams.error(logits, plain) <= 1e-6


def test_dropout_of_the_decoder_is_really_off_and_really_on():
    config = dataclasses.replace(V11, dropout_rate=0.3)
    params = _params(config)
    keys_values = t5.T5(config).apply({'params': params}, jnp.ones((1, 7, 22)), _one_passage(1, 7), method='cross_keys_values')
    arguments = (np.array([[0, 5, 6]]), keys_values, np.ones((1, 7), bool))
    decode = jax.jit(lambda key: t5.T5(config).apply({'params': params}, *arguments, key is None,
                                                     rngs=None if key is None else {'dropout': key}, method='decode'))
    expected = jax.jit(lambda: t5.T5(V11).apply({'params': params}, *arguments, method='decode'))()
    assert streams.error(decode(None), expected) <= 1e-6
    on = [decode(jax.random.key(key)) for key in (1, 1, 2)]
    np.testing.assert_array_equal(on[0], on[1])
    assert not np.allclose(on[0], on[2]) and not np.allclose(on[0], expected)


@pytest.mark.parametrize('config', [V10, V11])
def test_names_and_axes(config):
    boxed = jax.eval_shape(lambda key: t5.init_params(config, key), jax.random.key(0))
    shapes = hf_names.flatten(nn.unbox(boxed))
    assert set(shapes) == set(hf_names.table(config))
    names = jax.tree.map(lambda leaf: '|'.join(leaf.names), boxed, is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned))
    axes = hf_names.flatten(names)
    expected = {'token_embedder/embedding': ('vocab', 'embed'), 'encoder/relpos_bias/rel_embedding': ('heads', 'relpos_buckets'),
                'encoder/layers_1/attention/query/kernel': ('embed', 'joined_kv'), 'decoder/decoder_norm/scale': ('embed',),
                'decoder/layers_2/encoder_decoder_attention/out/kernel': ('joined_kv', 'embed'),
                'decoder/layers_0/mlp/wo/kernel': ('mlp', 'embed')}
    if not config.logits_via_embedding:
        expected['decoder/logits_dense/kernel'] = ('embed', 'vocab')
    assert {path: tuple(axes[path].split('|')) for path in expected} == expected


def test_params_are_float32_and_activations_of_the_dtype():
    config = dataclasses.replace(V11, dtype='bfloat16')
    params = tiny.init(t5.init_params, config)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype('float32')}
    stream = streams.flat(TOKENS, LENGTHS)
    assert _encode(config, params, stream).dtype == jnp.bfloat16
    logits, exact = (jax.jit(t5.T5(c).apply)({'params': params}, stream, np.array([[0, 3]])) for c in (config, V11))
    assert logits.dtype == jnp.float32 and streams.error(logits, exact) < 0.1


def test_dropout_is_really_off_and_really_on():
    config = dataclasses.replace(V11, dropout_rate=0.3)
    params, stream = _params(config), streams.flat(TOKENS, LENGTHS)
    off = _encode(config, params, stream)
    np.testing.assert_array_equal(off, _encode(V11, params, stream))
    run = jax.jit(lambda key: t5.T5(config).apply({'params': params}, stream, False, rngs={'dropout': key}, method='encode'))
    on = [run(jax.random.key(key)) for key in (1, 1, 2)]
    np.testing.assert_array_equal(on[0], on[1])
    assert not np.allclose(on[0], on[2]) and not np.allclose(on[0], off)


def test_dropout_of_the_attention_kernel_is_the_same_when_a_layer_is_computed_again():
    config, flat = dataclasses.replace(V11, dropout_rate=0.3), streams.flat(TOKENS, LENGTHS, streams=2)
    params, inside = _params(config), flat.passage_indices[..., None] >= 0

    def gradient(key, remat='none', flash=True):
        def loss(params):
            encoded = t5.T5(config, remat, flash=flash).apply({'params': params}, flat, deterministic=False, method='encode',
                                                              rngs={'dropout': jax.random.key(key)})
            return jnp.sum(jnp.where(inside, encoded, 0)**3)

        return jax.jit(jax.grad(loss), compiler_options=streams.QUICK_TO_COMPILE)(params)['encoder']['relpos_bias']['rel_embedding']

    kept = gradient(1)
    assert streams.error(gradient(1, 'full'), kept) < 1e-5
    assert streams.error(gradient(2), kept) > 1e-2


def test_gradient_of_an_encoder_scatters_into_the_token_embedding_alone():
    config, stream = V11, streams.flat(TOKENS, LENGTHS)
    text = str(jax.make_jaxpr(jax.grad(lambda p: jnp.sum(_encode(config, p, stream)**2)))(_params(config)))
    assert text.count('scatter-add[') == 1


def test_shift_right():
    np.testing.assert_array_equal(t5.shift_right(jnp.array([[5, 6, 1], [7, 1, 0]]), 9), [[9, 5, 6], [9, 7, 1]])


@pytest.mark.parametrize(('field', 'value'), [('emb_dim', 0), ('mlp_activations', ('tanh',)), ('mlp_activations', ()),
                                              ('dropout_rate', 1.0)])
def test_bad_configuration_is_named(field, value):
    with pytest.raises(errors.ConfigError, match=f'T5Config.{field}'):
        dataclasses.replace(V11, **{field: value})


def test_states_stand_in_for_keys_and_values_where_layers_are_computed_again():
    model, params, flat = t5.T5(V11, remat='full'), _params(V11), streams.flat(TOKENS, LENGTHS, streams=2)
    encoded = np.random.default_rng(0).standard_normal((*flat.tokens.shape, 22)).astype(np.float32)
    readable = model.apply({'params': params}, encoded, flat, method='cross_keys_values')
    assert isinstance(readable, readings.EncodedStates)
    np.testing.assert_array_equal(readable.states[0], encoded)
    with pytest.raises(ValueError, match="remat is 'full'"):
        model.step_by_step(params, readable, jnp.ones((2, 7), bool))
