"""Means and differences, with their uncertainty for a limited number of questions."""

import math
from collections.abc import Sequence

import numpy as np

_RESAMPLES = 10_000
_NORMAL_95 = 1.959963984540054  # 97.5 % of a normal distribution lie below


def mean_and_standard_error(values: Sequence[float]) -> tuple[float, float]:
    """Returns the mean of [n] values and its standard error.

    The error is by the population formula, sqrt(p (1 - p) / n) for values of 0 and 1; 0 for a single value.

    Raises ValueError: no value is given.
    """
    array = _vector(values, 'values')
    return float(array.mean()), float(array.std() / math.sqrt(len(array)))


def wilson_interval(hits: int, count: int) -> tuple[float, float]:
    """Returns Wilson's 95 % interval (1927) of a share of `hits` among `count`; it stays within 0 to 1 and is never of width 0.

    Raises ValueError: count is below 1, or hits is not within 0 to count.
    """
    if not 0 <= hits <= count or count < 1:
        raise ValueError(f'{hits} hits among {count}: expected at least one trial and at most as many hits')
    share, square = hits / count, _NORMAL_95 ** 2
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = _NORMAL_95 / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count ** 2))
    # rounding may carry a bound past the end
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(before: Sequence[float], after: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Compares two runs over the same questions: (mean of after - before, low, high), the bounds a 95 % bootstrap interval.

    Questions are resampled in pairs, so that the difficulty of a question cancels out.

    Args:
      before, after: [n] values, of the same questions in the same order.
      seed: of the resampling.

    Raises ValueError: the lengths differ or are 0.
    """
    first, second = _vector(before, 'before'), _vector(after, 'after')
    if len(first) != len(second):
        raise ValueError(f'before has {len(first)} values and after {len(second)}: they must be for the same questions')
    differences = second - first
    # how often each question is drawn, [resamples, n]: its product with the differences is all their sums at once
    counts = np.random.default_rng(seed).multinomial(len(differences), np.full(len(differences), 1 / len(differences)), size=_RESAMPLES)
    # 2.5 % of the resampled means on either side
    low, high = np.percentile(counts @ differences / len(differences), [2.5, 97.5])
    return float(differences.mean()), float(low), float(high)


def _vector(values: Sequence[float], name: str) -> np.ndarray:
    """Converts to [n] float64. Raises ValueError: not a sequence, or empty."""
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or len(array) == 0:
        raise ValueError(f'{name} must be a sequence of at least one number, got shape {array.shape}')
    return array
