"""Remat policies of a loop over layers change memory only, never results."""

import functools

import jax
import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.models import t5
from atlas_jax.nn import layer_scan, token_stream
from tests.testing import fusion, streams, tiny

TARGETS = np.array([[0, 3, 4], [0, 9, 1]], np.int32)


@functools.cache
def _loss_and_gradients(remat, unroll=1):
    lengths = np.array([9, 3, 0, 7, 5, 9], np.int32)
    tokens = streams.random_passages(lengths, tiny.READER.vocab_size, 9)
    stream = token_stream.pack(tokens[None], lengths[None], 40, 9)
    params = tiny.init(t5.init_params, tiny.READER)

    def loss(params):
        return (fusion.fid_logits(t5.T5(tiny.READER, remat, unroll), params, stream, TARGETS)**2).mean()

    with jax.default_matmul_precision('highest'):
        return jax.jit(jax.value_and_grad(loss))(params), jax.make_jaxpr(jax.grad(loss))(params)


@pytest.mark.parametrize('remat', ['dots', 'encoder_dots', 'encoder_mlp', 'full'])
def test_gradients_do_not_depend_on_what_is_computed_again(remat):
    (loss, gradients), jaxpr = _loss_and_gradients(remat)
    (expected_loss, expected), plain = _loss_and_gradients('none')
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-5 * max(np.abs(b).max(), 1e-3)), gradients, expected)
    assert 'remat' in str(jaxpr) and 'remat' not in str(plain)


def test_gradients_do_not_depend_on_the_loops_turns():
    (loss, gradients), _ = _loss_and_gradients('none', layer_scan.unroll_on('cpu'))
    (expected_loss, expected), _ = _loss_and_gradients('none')
    assert layer_scan.unroll_on('cpu') > 1
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-5 * max(np.abs(b).max(), 1e-3)), gradients, expected)


def test_an_unknown_policy_lists_those_known():
    with pytest.raises(errors.ConfigError, match='"some"; choose one of none, dots, mlp, full'):
        layer_scan.rematerialised(lambda carry, slices: (carry, None), 'some')
