"""BERT's own: configuration, positions, layout. Its numbers are compared in tests/parity."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.models import bert
from tests.testing import streams

CONFIG = bert.BertConfig(vocab_size=41, emb_dim=22, num_heads=2, num_layers=2, mlp_dim=29, max_positions=13, dropout_rate=0.0)
LENGTHS = [5, 0, 11, 1]
TOKENS = streams.random_passages(LENGTHS, 41, 11)


_apply = jax.jit(bert.Bert(CONFIG).apply)


def _params():
    boxed = jax.jit(bert.Bert(CONFIG).init)(jax.random.key(0), streams.flat(TOKENS, LENGTHS))['params']
    return streams.perturbed(nn.unbox(boxed))


def test_flat_equals_padded():
    params, flat = _params(), streams.flat(TOKENS, LENGTHS)
    found = _apply({'params': params}, flat)[0]
    padded = _apply({'params': params}, streams.padded(TOKENS, LENGTHS))
    for i, length in enumerate(LENGTHS):
        start = int(flat.starts[0, i])
        np.testing.assert_allclose(found[start:start + length], padded[i, :length], rtol=1e-4, atol=1e-5)


def test_longer_passages_than_positions_are_refused():
    with pytest.raises(ValueError, match='14 tokens, but only 13 positions'):
        bert.Bert(CONFIG).init(jax.random.key(0), streams.flat(TOKENS, LENGTHS, longest=14))


def test_dropout_is_really_off_and_really_on():
    model, params = bert.Bert(dataclasses.replace(CONFIG, dropout_rate=0.3)), {'params': _params()}
    stream = streams.flat(TOKENS, LENGTHS)
    off = jax.jit(model.apply)(params, stream)
    np.testing.assert_array_equal(off, _apply(params, stream))
    run = jax.jit(lambda key: model.apply(params, stream, False, rngs={'dropout': key}))
    on = [run(jax.random.key(key)) for key in (1, 2)]
    assert not np.allclose(on[0], on[1]) and not np.allclose(on[0], off)


def test_the_second_moment_norm_is_another_model():
    stream, params = streams.flat(TOKENS, LENGTHS), {'params': _params()}
    other = jax.jit(bert.Bert(dataclasses.replace(CONFIG, layer_norm='second_moment')).apply)(params, stream)
    assert not np.allclose(other, _apply(params, stream), atol=1e-3)


def test_gradient_scatters_into_the_token_embedding_alone():
    stream = streams.flat(TOKENS, LENGTHS)
    text = str(jax.make_jaxpr(jax.grad(lambda p: jnp.sum(bert.Bert(CONFIG).apply({'params': p}, stream)**2)))(_params()))
    # the row of type 0 is one dynamic slice
    assert text.count('scatter-add[') <= 2


@pytest.mark.parametrize(('field', 'value'), [('num_layers', 0), ('num_heads', 3), ('layer_norm', 'rms'), ('dropout_rate', -0.1)])
def test_bad_configuration_is_named(field, value):
    with pytest.raises(errors.ConfigError, match=field):
        dataclasses.replace(CONFIG, **{field: value})
