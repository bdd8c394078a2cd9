"""EMDR2 against a plain loop, missing passages, fillers, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.losses import emdr

GENERATOR = np.random.default_rng(0)
SCORES = GENERATOR.standard_normal((2, 3)).astype(np.float32)
LOG_LIKELIHOODS = np.log(GENERATOR.uniform(0.01, 0.9, (2, 3, 5))).astype(np.float32)
WEIGHTS = (np.arange(5) < np.array([[5], [2]])).astype(np.float32)


def _plain(scores, log_likelihoods, weights):
    """By float64 numpy; a score of -inf takes its passage out."""
    total = 0.0
    for i, t in np.ndindex(weights.shape):
        q = np.exp(np.float64(scores[i]) / 0.3)
        likelihood = np.sum(q * np.exp(np.float64(log_likelihoods[i, :, t]))) / q.sum()
        total -= weights[i, t] * np.log(likelihood)
    return total / weights.sum()


def _loss(scores=SCORES, log_likelihoods=LOG_LIKELIHOODS, weights=WEIGHTS):
    return emdr.emdr_loss(scores, log_likelihoods, weights, temperature_score=0.3)


def test_value():
    assert float(_loss()) == pytest.approx(_plain(SCORES, LOG_LIKELIHOODS, WEIGHTS), rel=1e-5)


def test_gradient_reaches_scores_alone():
    to_scores, to_likelihoods = jax.grad(_loss, argnums=(0, 1))(SCORES, LOG_LIKELIHOODS)
    np.testing.assert_array_equal(to_likelihoods, 0)
    for i, j in np.ndindex(SCORES.shape):
        more, less = SCORES.astype(np.float64), SCORES.astype(np.float64)
        more[i, j] += 1e-5
        less[i, j] -= 1e-5
        slope = (_plain(more, LOG_LIKELIHOODS, WEIGHTS) - _plain(less, LOG_LIKELIHOODS, WEIGHTS)) / 2e-5
        assert float(to_scores[i, j]) == pytest.approx(slope, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize('junk', [0.0, np.nan, -np.inf])
def test_a_missing_passage_is_as_good_as_none(junk):
    scores, log_likelihoods = SCORES.copy(), LOG_LIKELIHOODS.copy()
    scores[1, 0], log_likelihoods[1, 0] = -np.inf, junk
    value, gradient = jax.value_and_grad(_loss)(scores, log_likelihoods)
    assert float(value) == pytest.approx(_plain(scores, np.nan_to_num(log_likelihoods), WEIGHTS), rel=1e-5)
    assert np.isfinite(gradient).all() and gradient[1, 0] == 0


def test_an_example_without_passages_adds_nothing():
    scores = SCORES.copy()
    scores[1] = -np.inf
    value, gradient = jax.value_and_grad(_loss)(scores)
    alone = _plain(SCORES[:1], LOG_LIKELIHOODS[:1], WEIGHTS[:1]) * WEIGHTS[0].sum() / WEIGHTS.sum()
    assert float(value) == pytest.approx(alone, rel=1e-5)
    np.testing.assert_array_equal(gradient[1], 0)


def test_fillers_do_not_count_and_nothing_is_zero():
    weights = WEIGHTS * np.array([[1.0], [0.0]], np.float32)
    assert float(_loss(weights=weights)) == pytest.approx(_plain(SCORES[:1], LOG_LIKELIHOODS[:1], WEIGHTS[:1]), rel=1e-5)
    value, gradient = jax.value_and_grad(lambda scores: _loss(scores, weights=jnp.zeros((2, 5))))(SCORES)
    assert float(value) == 0
    np.testing.assert_array_equal(gradient, 0)
