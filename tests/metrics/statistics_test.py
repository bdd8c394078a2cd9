import math

import numpy as np
import pytest
from scipy import stats

from atlas_jax.metrics import statistics


def test_standard_error_of_zeros_and_ones_is_the_binomial_one():
    mean, stderr = statistics.mean_and_standard_error([1] * 30 + [0] * 70)
    assert mean == pytest.approx(0.3) and stderr == pytest.approx(math.sqrt(0.3 * 0.7 / 100))
    assert statistics.mean_and_standard_error([True]) == (1.0, 0.0)


def test_paired_interval_holds_the_difference_and_is_repeatable():
    before, after = np.array([0, 1] * 40), np.array([1, 1] * 30 + [0, 1] * 10)
    difference, low, high = statistics.paired_difference(before, after)
    assert difference == pytest.approx(30 / 80) and 0 < low < difference < high < 1
    expected = 1.96 * (after - before).std() / math.sqrt(80)
    assert (high - low) / 2 == pytest.approx(expected, rel=0.1)
    assert statistics.paired_difference(before, after) == (difference, low, high)


def test_pairing_removes_what_the_questions_share():
    hard = np.random.default_rng(3).normal(size=101)
    assert statistics.paired_difference(hard, hard + 0.25) == pytest.approx((0.25, 0.25, 0.25))


def test_wrong_input():
    with pytest.raises(ValueError, match='at least one number'):
        statistics.mean_and_standard_error([])
    with pytest.raises(ValueError, match='3 values and after 2'):
        statistics.paired_difference([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match='shape'):
        statistics.mean_and_standard_error([[1, 2]])


def test_wilson_intervals_of_newcombe_and_of_the_ends():
    # Newcombe 1998, table I: 81 of 263 and 0 of 20, without continuity correction
    assert statistics.wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert statistics.wilson_interval(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert statistics.wilson_interval(20, 20)[1] == 1.0 and statistics.wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


@pytest.mark.parametrize(('hits', 'count'), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_intervals_need_a_share(hits, count):
    with pytest.raises(ValueError, match='hits among'):
        statistics.wilson_interval(hits, count)


def test_bootstrap_intervals_are_those_of_the_normal_distribution_where_many_were_asked():
    draw = np.random.default_rng(1)
    for values in ((draw.random(2000) < .3).astype(float), draw.normal(.5, .2, 2000)):  # few distinct values, and many
        mean, error = statistics.mean_and_standard_error(values)
        assert statistics.bootstrap_interval(values) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=.1 * error)
    assert statistics.bootstrap_interval([.25]) == (.25, .25)
    assert statistics.bootstrap_interval([0., 1.]) == statistics.bootstrap_interval([0., 1.]) == (0, 1)


def test_the_interval_of_a_ratio_keeps_pairs_together():
    # Each question has a loss of 2 by token, however many tokens: the ratio is 2 in every sample.
    assert statistics.ratio_interval([2., 4, 20], [1., 2, 10]) == pytest.approx((2, 2))
    low, high = statistics.ratio_interval([1., 3, 2], [1., 1, 0])
    assert low < 3 < high and statistics.ratio_interval([0.], [0.]) == (0, 0)
    with pytest.raises(ValueError, match='must be for the same questions'):
        statistics.ratio_interval([1.], [1., 2.])


def test_the_macro_interval_draws_within_groups():
    assert statistics.macro_interval([[1.] * 9, [0.]]) == (.5, .5)  # each group has equal values, so every draw is the same
    low, high = statistics.macro_interval([[0., 1.] * 40, [0., 1.] * 40])
    assert .35 < low < .45 < .55 < high < .65
    for wrong in ([], [[]]):
        with pytest.raises(ValueError, match='at least one'):
            statistics.macro_interval(wrong)


def test_the_randomization_test_equals_the_sign_test_for_equal_differences():
    before, after = np.zeros(12), np.array([1.] * 10 + [-1.] * 2)
    exact = stats.binomtest(2, 12).pvalue
    assert statistics.paired_p_value(before, after) == pytest.approx(exact, abs=.01)
    assert statistics.paired_p_value(after, after) == 1
    assert statistics.paired_p_value(after, before) == statistics.paired_p_value(before, after)
    assert statistics.paired_p_value(np.zeros(100), np.ones(100)) == pytest.approx(1 / 10_001)
    mixed = np.random.default_rng(0).normal(.1, .3, 60)
    permuted = stats.permutation_test((mixed, np.zeros(60)), lambda a, b, axis: np.mean(a - b, axis=axis), permutation_type='samples',
                                      vectorized=True, n_resamples=9999, random_state=0).pvalue
    assert statistics.paired_p_value(np.zeros(60), mixed) == pytest.approx(permuted, abs=.01)


def test_intervals_of_any_figure_keep_rows_together():
    first = [0.0, 1.0] * 40
    assert statistics.interval_of(lambda one, other: float(np.mean(one - other)), first, first) == (0, 0)
    low, high = statistics.interval_of(lambda values: float(np.mean(values)), first)
    expected = statistics.bootstrap_interval(first)
    assert (low, high) == pytest.approx(expected, abs=0.03) and low < 0.5 < high
    with pytest.raises(ValueError, match='different lengths'):
        statistics.interval_of(lambda one, other: 0.0, [1.0], [1.0, 2.0])
