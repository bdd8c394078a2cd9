"""Distillation: values, masked passages, filler examples, gradients."""

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
    """Of one example, by float64 numpy."""
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
    """What is lost is what the division of numbers near 2.3 rounds away, and no more."""
    scores, gold = (2.3 + spread * values for values in (SCORES, GOLD))
    expected = sum(_kl(s, g) for s, g in zip(np.float32(scores), np.float32(gold), strict=True)) / SCORES.size
    assert float(_loss(np.float32(scores), np.float32(gold))) == pytest.approx(expected, rel=bound)
