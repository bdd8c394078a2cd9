"""The regression finds its optimum and the weights that drew its data."""

import math

import numpy as np
import pytest

from atlas_jax.metrics import logistic


def drawn(count: int, seed: int = 0):
    """Rows of three features, one of them useless, and targets drawn from a known regression."""
    generator = np.random.default_rng(seed)
    rows = generator.normal([3, -7, 0], [2, 5, 1], (count, 3))
    chances = 1 / (1 + np.exp(-(0.5 + 1.5 * (rows[:, 0] - 3) / 2 - 1.0 * (rows[:, 1] + 7) / 5)))
    return rows, (generator.random(count) < chances).astype(float), chances


def test_finds_what_the_targets_were_drawn_from():
    rows, targets, chances = drawn(4000)
    found = logistic.fit(rows, targets)
    assert found.weights == pytest.approx([1.5, -1.0, 0], abs=0.15) and found.intercept == pytest.approx(0.5, abs=0.15)
    assert np.abs(found.probabilities(rows) - chances).mean() < 0.02


def test_no_step_betters_the_fit():
    """The gradient of the penalised loss is 0, by differences."""
    rows, targets, _ = drawn(40)
    found = logistic.fit(rows, targets, penalty=1.0)
    standard = np.clip((rows - np.array(found.means)) / np.array(found.scales), -5, 5)
    wanted = np.where(targets > 0.5, (targets.sum() + 1) / (targets.sum() + 2), 1 / (40 - targets.sum() + 2))

    def loss(weights):
        logits = weights[0] + standard @ weights[1:]
        return np.sum(np.log1p(np.exp(logits)) - wanted * logits) + 0.5 * np.sum(weights[1:]**2)

    best = np.array([found.intercept, *found.weights])
    for place in range(4):
        for step in (1e-3, -1e-3):
            assert loss(best + step * np.eye(4)[place]) > loss(best)


@pytest.mark.parametrize('right', [0, 1])
def test_all_right_or_all_wrong_is_not_certain(right):
    rows, _, _ = drawn(30)
    found = logistic.fit(rows, [right] * 30).probabilities(rows)
    assert found == pytest.approx([31 / 32 if right else 1 / 32] * 30)


def test_perfect_separation_stays_finite():
    found = logistic.fit([[float(i)] for i in range(20)], [float(i >= 10) for i in range(20)])
    assert all(map(math.isfinite, (*found.weights, found.intercept))) and found.probabilities([[1000.0], [-1000.0]]) == pytest.approx(
        found.probabilities([[found.means[0] + 5 * found.scales[0]], [found.means[0] - 5 * found.scales[0]]]))


def test_missing_and_constant_features_say_nothing():
    rows, targets, _ = drawn(200)
    rows = np.column_stack([rows, np.full(200, 7.0)])
    rows[::3, 2] = np.nan
    found = logistic.fit(rows, targets)
    assert found.weights[3] == pytest.approx(0, abs=1e-9)
    mean = [*found.means]
    gap = [mean[0], math.nan, mean[2], 7.0]
    assert found.probabilities([gap]) == pytest.approx(found.probabilities([mean]))


def test_held_out_rows_are_judged_by_a_fit_without_them():
    rows, targets, chances = drawn(300)
    found = logistic.held_out(rows, targets)
    assert np.corrcoef(found, chances)[0, 1] > 0.9
    # Noise cannot be predicted: the fit looks better on its own rows than on others.
    noise = np.random.default_rng(1).normal(size=(40, 8))
    coins = np.random.default_rng(2).integers(0, 2, 40).astype(float)
    fitted, left_out = logistic.fit(noise, coins, penalty=1e-3).probabilities(noise), logistic.held_out(noise, coins)
    assert np.abs(fitted - coins).mean() < np.abs(left_out - coins).mean()


@pytest.mark.parametrize(('rows', 'targets'), [([], []), ([[1.0]], [1, 0]), ([1.0, 2.0], [1, 0])])
def test_wrong_shapes(rows, targets):
    with pytest.raises(ValueError, match='expected a table and a target for each row'):
        logistic.fit(rows, targets)
