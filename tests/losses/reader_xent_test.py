"""The reader's loss: values, gradients, weights."""

import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax.losses import reader_xent

LOGITS = np.random.default_rng(0).standard_normal((2, 3, 7)).astype(np.float32)
TARGETS = np.array([[0, 6, 2], [3, 3, 0]])


def _plain(logits, targets=TARGETS):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1)[..., 0]


def test_value():
    np.testing.assert_allclose(reader_xent.token_nll(LOGITS, TARGETS), _plain(LOGITS), rtol=1e-6)


def test_gradient_equals_that_of_log_softmax_and_has_no_scatter():
    weights = np.array([[1, 2, 0], [0.5, 0, 3]])
    loss = lambda logits: jnp.sum(reader_xent.token_nll(logits, TARGETS) * weights)  # noqa: E731
    np.testing.assert_allclose(jax.grad(loss)(LOGITS), jax.grad(lambda x: jnp.sum(_plain(x) * weights))(LOGITS), rtol=1e-5, atol=1e-7)
    assert 'scatter' not in str(jax.make_jaxpr(jax.grad(loss))(LOGITS))


def test_extreme_and_half_precision_logits():
    logits = jnp.array([[3e4, -3e4, 0.0]], jnp.bfloat16)
    nll, back = jax.value_and_grad(lambda x: reader_xent.token_nll(x, jnp.array([2]))[0])(logits)
    assert nll.dtype == jnp.float32 and float(nll) == float(logits[0, 0])
    assert back.dtype == jnp.bfloat16
    np.testing.assert_array_equal(back.astype(jnp.float32), [[1, 0, -1]])


def test_the_mean_is_over_tokens_not_examples():
    nll = jnp.array([[1.0, 2.0, 6.0], [10.0, 9.0, 9.0]])
    weights = jnp.array([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    assert float(reader_xent.reader_loss(nll, weights)) == (1 + 2 + 6 + 10) / 4


def test_a_batch_of_fillers_is_zero():
    value, gradient = jax.value_and_grad(lambda nll: reader_xent.reader_loss(nll, jnp.zeros((2, 3))))(jnp.ones((2, 3)))
    assert float(value) == 0
    np.testing.assert_array_equal(gradient, 0)
