"""Distillation, and EMDR2 against a plain loop: values, masked passages, filler examples, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.losses import distill

GENERATOR = np.random.default_rng(0)
SCORES = GENERATOR.standard_normal((3, 5)).astype(np.float32)
GOLD = GENERATOR.standard_normal((3, 5)).astype(np.float32)
TEMPERATURES = {'temperature_score': 0.3, 'temperature_gold': 0.7}


def _softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def _kl(scores, gold):
    """The loss of one example in float64 numpy."""
    p, q = _softmax(np.float64(gold) / 0.7), _softmax(np.float64(scores) / 0.3)
    return float(np.sum(p * np.log(p / q)))


def _loss(scores=SCORES, gold=GOLD, **options):
    return distill.distillation_loss(scores, gold, **TEMPERATURES, **options)


def test_pdist_is_minus_the_mean_loss_over_target_tokens():
    nll = jnp.arange(12.0).reshape(2, 2, 3)
    weights = jnp.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(distill.pdist_gold_scores(nll, weights), [[-0.5, -3.5], [0, 0]])


def test_value_is_an_element_mean():
    expected = sum(_kl(s, g) for s, g in zip(SCORES, GOLD, strict=True)) / SCORES.size
    assert float(_loss()) == pytest.approx(expected, rel=1e-5)


def test_equal_distributions_cost_nothing():
    assert float(distill.distillation_loss(SCORES, SCORES + 3, temperature_score=0.1, temperature_gold=0.1)) == pytest.approx(0, abs=1e-6)


def test_gradient_reaches_scores_alone():
    to_scores, to_gold = jax.grad(lambda s, g: _loss(s, g), argnums=(0, 1))(SCORES, GOLD)
    expected = np.stack([(_softmax(s / 0.3) - _softmax(g / 0.7)) / 0.3 for s, g in zip(SCORES, GOLD, strict=True)]) / SCORES.size
    np.testing.assert_allclose(to_scores, expected, rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(to_gold, 0)


@pytest.mark.parametrize('gold_there', [0.0, np.nan, np.inf, -np.inf])
def test_a_missing_passage_has_probability_zero_on_both_sides(gold_there):
    scores, gold = SCORES.copy(), GOLD.copy()
    scores[1, 2:], gold[1, 2:] = -np.inf, gold_there
    value, gradient = jax.value_and_grad(lambda s: _loss(s, gold))(scores)
    expected = (_kl(SCORES[0], GOLD[0]) + _kl(SCORES[1, :2], GOLD[1, :2]) + _kl(SCORES[2], GOLD[2])) / SCORES.size
    assert float(value) == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[1, 2:], 0)


def test_an_example_without_passages_costs_nothing():
    scores = SCORES.copy()
    scores[1] = -np.inf
    value, gradient = jax.value_and_grad(_loss)(scores)
    assert float(value) == pytest.approx((_kl(SCORES[0], GOLD[0]) + _kl(SCORES[2], GOLD[2])) / SCORES.size, rel=1e-5)
    np.testing.assert_array_equal(gradient[1], 0)


def test_fillers_do_not_count_whatever_they_hold():
    weights = jnp.array([1.0, 1.0, 0.0])
    gold = GOLD.copy()
    gold[2] = 1e30
    assert float(_loss(gold=gold, example_weights=weights)) == pytest.approx(float(_loss(SCORES[:2], GOLD[:2])), rel=1e-6)
    gradient = jax.grad(lambda s: _loss(s, gold, example_weights=weights))(SCORES)
    np.testing.assert_array_equal(gradient[2], 0)
    assert float(_loss(example_weights=jnp.zeros(3))) == 0


def test_sharp_temperatures_stay_finite():
    value, gradient = jax.value_and_grad(
        lambda s: distill.distillation_loss(s, GOLD * 100, temperature_score=1e-3, temperature_gold=1e-3))(SCORES * 100)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_nan_scores_are_not_hidden():
    scores = SCORES.copy()
    scores[0, 0] = np.nan
    assert np.isnan(_loss(scores))


def test_leaving_one_out_is_the_mean_loss_itself():
    nll = jnp.arange(12.0).reshape(2, 2, 3)
    weights = jnp.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(distill.loop_gold_scores(nll, weights), [[0.5, 3.5], [0, 0]])


@pytest.mark.parametrize('spread, bound', [(1e-3, 1e-3), (1e-2, 1e-4), (0.3, 1e-5), (30.0, 1e-5)])
def test_a_divergence_near_zero_keeps_its_digits(spread, bound):
    """The only error is the rounding of divisions of numbers near 2.3."""
    scores, gold = (2.3 + spread * values for values in (SCORES, GOLD))
    expected = sum(_kl(s, g) for s, g in zip(np.float32(scores), np.float32(gold), strict=True)) / SCORES.size
    assert float(_loss(np.float32(scores), np.float32(gold))) == pytest.approx(expected, rel=bound)


# EMDR2

EMDR_GENERATOR = np.random.default_rng(0)
EMDR_SCORES = EMDR_GENERATOR.standard_normal((2, 3)).astype(np.float32)
LIKELIHOODS = np.log(EMDR_GENERATOR.uniform(0.01, 0.9, (2, 3, 5))).astype(np.float32)
EMDR_WEIGHTS = (np.arange(5) < np.array([[5], [2]])).astype(np.float32)


def _plain_emdr(scores, log_likelihoods, weights):
    """EMDR2 in float64 numpy; a score of -inf excludes its passage."""
    total = 0.0
    for i, t in np.ndindex(weights.shape):
        q = np.exp(np.float64(scores[i]) / 0.3)
        likelihood = np.sum(q * np.exp(np.float64(log_likelihoods[i, :, t]))) / q.sum()
        total -= weights[i, t] * np.log(likelihood)
    return total / weights.sum()


def _emdr(scores=EMDR_SCORES, log_likelihoods=LIKELIHOODS, weights=EMDR_WEIGHTS):
    return distill.emdr_loss(scores, log_likelihoods, weights, temperature_score=0.3)


def test_emdr_value():
    assert float(_emdr()) == pytest.approx(_plain_emdr(EMDR_SCORES, LIKELIHOODS, EMDR_WEIGHTS), rel=1e-5)


def test_emdr_gradient_reaches_scores_alone():
    to_scores, to_likelihoods = jax.grad(_emdr, argnums=(0, 1))(EMDR_SCORES, LIKELIHOODS)
    np.testing.assert_array_equal(to_likelihoods, 0)
    for i, j in np.ndindex(EMDR_SCORES.shape):
        more, less = EMDR_SCORES.astype(np.float64), EMDR_SCORES.astype(np.float64)
        more[i, j] += 1e-5
        less[i, j] -= 1e-5
        slope = (_plain_emdr(more, LIKELIHOODS, EMDR_WEIGHTS) - _plain_emdr(less, LIKELIHOODS, EMDR_WEIGHTS)) / 2e-5
        assert float(to_scores[i, j]) == pytest.approx(slope, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize('junk', [0.0, np.nan, -np.inf])
def test_emdr_a_missing_passage_is_as_good_as_none(junk):
    scores, log_likelihoods = EMDR_SCORES.copy(), LIKELIHOODS.copy()
    scores[1, 0], log_likelihoods[1, 0] = -np.inf, junk
    value, gradient = jax.value_and_grad(_emdr)(scores, log_likelihoods)
    assert float(value) == pytest.approx(_plain_emdr(scores, np.nan_to_num(log_likelihoods), EMDR_WEIGHTS), rel=1e-5)
    assert np.isfinite(gradient).all() and gradient[1, 0] == 0


def test_emdr_an_example_without_passages_adds_nothing():
    scores = EMDR_SCORES.copy()
    scores[1] = -np.inf
    value, gradient = jax.value_and_grad(_emdr)(scores)
    alone = _plain_emdr(EMDR_SCORES[:1], LIKELIHOODS[:1], EMDR_WEIGHTS[:1]) * EMDR_WEIGHTS[0].sum() / EMDR_WEIGHTS.sum()
    assert float(value) == pytest.approx(alone, rel=1e-5)
    np.testing.assert_array_equal(gradient[1], 0)


def test_emdr_fillers_do_not_count_and_nothing_is_zero():
    weights = EMDR_WEIGHTS * np.array([[1.0], [0.0]], np.float32)
    assert float(_emdr(weights=weights)) == pytest.approx(_plain_emdr(EMDR_SCORES[:1], LIKELIHOODS[:1], EMDR_WEIGHTS[:1]), rel=1e-5)
    value, gradient = jax.value_and_grad(lambda scores: _emdr(scores, weights=jnp.zeros((2, 5))))(EMDR_SCORES)
    assert float(value) == 0
    np.testing.assert_array_equal(gradient, 0)
