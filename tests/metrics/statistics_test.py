import math

import numpy as np
import pytest

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
