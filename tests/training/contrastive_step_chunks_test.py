"""GradCache: gradients in chunks are those of the whole batch, and no more than one chunk is differentiated at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.training import contrastive_step

ROWS = np.random.default_rng(0).standard_normal((12, 5)).astype(np.float32)
PARAMS = {'a': jnp.asarray(np.random.default_rng(1).standard_normal((5, 3)), jnp.float32), 'b': jnp.ones(3)}


def _encode(params, chunk):
    return jnp.tanh(chunk['rows'] @ params['a']) * params['b'], chunk['rows'] @ params['a']


def _loss(embeddings):
    first, second = (part.reshape(12, 3) for part in embeddings)
    logits = first @ second.T  # every row with every other, of all chunks
    return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(logits))), {'largest': jnp.max(logits)}


@pytest.mark.parametrize('chunks', [2, 3, 12])
def test_gradients_equal_those_of_the_whole_batch(chunks):
    (whole, extra), expected = contrastive_step.chunked_gradients(_encode, _loss, PARAMS, {'rows': ROWS[None]})
    (loss, found_extra), found = contrastive_step.chunked_gradients(_encode, _loss, PARAMS, {'rows': ROWS.reshape(chunks, -1, 5)})
    np.testing.assert_allclose(loss, whole, rtol=1e-6)
    np.testing.assert_allclose(found_extra['largest'], extra['largest'], rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)
    direct = jax.grad(lambda params: _loss(_encode(params, {'rows': ROWS}))[0])(PARAMS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, direct)
