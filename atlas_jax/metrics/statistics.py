"""Means with the uncertainty that a limited number of questions leaves."""

import math
from collections.abc import Sequence

import numpy as np

_RESAMPLES = 10_000


def mean_and_standard_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error, the population formula: sqrt(p (1 - p) / n) for values of 0 and 1; 0 for a single value.

    Raises ValueError where there is no value.
    """
    array = _vector(values, 'values')
    return float(array.mean()), float(array.std() / math.sqrt(len(array)))


def paired_difference(before: Sequence[float], after: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """(mean of after - before, low, high): the difference over the same questions and its 95 % bootstrap interval.

    Questions are resampled in pairs, so that what makes a question hard cancels out. Raises ValueError where the lengths differ or are 0.
    """
    first, second = _vector(before, 'before'), _vector(after, 'after')
    if len(first) != len(second):
        raise ValueError(f'before has {len(first)} values and after {len(second)}: they must be for the same questions')
    differences = second - first
    counts = np.random.default_rng(seed).multinomial(len(differences), np.full(len(differences), 1 / len(differences)), size=_RESAMPLES)
    low, high = np.percentile(counts @ differences / len(differences), [2.5, 97.5])
    return float(differences.mean()), float(low), float(high)


def _vector(values: Sequence[float], name: str) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or len(array) == 0:
        raise ValueError(f'{name} must be a sequence of at least one number, got shape {array.shape}')
    return array
