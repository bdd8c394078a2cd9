"""Means and differences, with their uncertainty for a limited number of questions."""

import math
from collections.abc import Callable, Sequence

import numpy as np

_RESAMPLES, _FEWER_RESAMPLES = 10_000, 500
_NORMAL_95 = 1.959963984540054  # the 97.5 % quantile of the normal distribution
_BLOCK = 1 << 22  # numbers drawn at a time: 32 MiB
_MOST_VALUES = 1000


def mean_and_standard_error(values: Sequence[float]) -> tuple[float, float]:
    """Returns the mean of [n] values and its standard error.

    The error uses the population formula: sqrt(p (1 - p) / n) for values of 0 and 1, and 0 for a
    single value.

    Raises ValueError: there are no values.
    """
    array = _vector(values, 'values')
    return float(array.mean()), float(array.std() / math.sqrt(len(array)))


def wilson_interval(hits: int, count: int) -> tuple[float, float]:
    """Returns Wilson's 95 % interval (1927) of the share `hits` / `count`. It lies within 0 to 1,
    and its width is never 0.

    Raises ValueError: count is below 1, or hits is not within 0 to count.
    """
    if not 0 <= hits <= count or count < 1:
        raise ValueError(f'{hits} hits among {count}: expected at least one trial and at most '
                         f'{count} hits')
    share, square = hits / count, _NORMAL_95 ** 2
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = _NORMAL_95 / (1 + square / count) * math.sqrt(share * (1 - share) / count + square /
                                                         (4 * count**2))
    # Rounding may carry a bound outside 0 to 1.
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """Returns the 95 % percentile bootstrap interval of the mean of [n] values (Efron 1979).

    Raises ValueError: there are no values.
    """
    return _interval(_resampled_means(_vector(values, 'values')[:, None])[:, 0])


def ratio_interval(numerators: Sequence[float],
                   denominators: Sequence[float]) -> tuple[float, float]:
    """Returns the 95 % bootstrap interval of sum(numerators) / sum(denominators), such as a loss by
    token. Pairs are resampled together.

    Raises ValueError: the lengths differ or are 0.
    """
    pairs = _pair(numerators, denominators, ('numerators', 'denominators'))
    means = _resampled_means(np.stack(pairs, axis=1))
    # A sample may consist of questions without tokens.
    means = means[means[:, 1] > 0]
    return _interval(means[:, 0] / means[:, 1]) if len(means) else (0.0, 0.0)


def macro_interval(groups: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Returns the 95 % bootstrap interval of the mean of the groups' means; questions are drawn
    within each group.

    Raises ValueError: there are no groups, or one is empty.
    """
    if not groups:
        raise ValueError('groups must hold at least one group')
    means = [
        _resampled_means(_vector(group, 'a group')[:, None], number)[:, 0]
        for number, group in enumerate(groups)]
    return _interval(np.mean(means, axis=0))


def paired_difference(before: Sequence[float],
                      after: Sequence[float]) -> tuple[float, float, float]:
    """Compares two runs over the same questions: (mean of after - before, low, high), where low and
    high are the 95 % bootstrap interval.

    Questions are resampled in pairs, so that the difficulty of a question cancels out.

    Args:
      before, after: [n] values of the same questions in the same order.

    Raises ValueError: the lengths differ or are 0.
    """
    first, second = _pair(before, after, ('before', 'after'))
    differences = second - first
    return float(differences.mean()), *_interval(_resampled_means(differences[:, None])[:, 0])


def paired_p_value(before: Sequence[float], after: Sequence[float]) -> float:
    """Returns the two-sided p-value of Fisher's randomization test of two runs over the same
    questions.

    If the runs do not differ, each question's difference may as well have the other sign. The
    p-value is the share of 10,000 random draws of signs whose mean is at least as far from 0 as the
    observed one.

    Raises ValueError: the lengths differ or are 0.
    """
    first, second = _pair(before, after, ('before', 'after'))
    sizes, counts = np.unique(np.abs(second - first), return_counts=True)
    # The sum of n equal values with random signs is binomial, so a draw costs one random number for
    # each distinct value.
    generator, sums = np.random.default_rng(0), np.zeros(_RESAMPLES)
    for size, count in zip(sizes, counts, strict=True):
        sums += size * (2 * generator.binomial(count, 0.5, _RESAMPLES) - count)
    # The tolerance makes sums equal that differ by rounding. The observed signs count as a draw, so
    # that p is never 0.
    extreme = np.abs(sums) >= abs((second - first).sum()) - 1e-9 * max(1.0, float(sizes @ counts))
    return float((1 + extreme.sum()) / (1 + _RESAMPLES))


def interval_of(figure: Callable[..., float], *columns: Sequence[float]) -> tuple[float, float]:
    """Returns the 95 % bootstrap interval of a figure of the columns, such as a calibration error.
    Rows are resampled together.

    Raises ValueError: the lengths differ or are 0.
    """
    arrays = [_vector(column, 'a column') for column in columns]
    if len({len(array) for array in arrays}) != 1:
        raise ValueError('the columns have different lengths: they must be for the same questions')
    generator = np.random.default_rng(0)
    # Fewer samples than for means: each costs a pass over the rows, and two digits of an interval
    # are enough.
    draws = (generator.integers(0, len(arrays[0]), len(arrays[0])) for _ in range(_FEWER_RESAMPLES))
    return _interval(np.array([figure(*(array[drawn] for array in arrays)) for drawn in draws]))


def _resampled_means(rows: np.ndarray, seed: int = 0) -> np.ndarray:
    """Returns the means of bootstrap samples of rows [n, m]: [resamples, m]."""
    values, counts = np.unique(rows, axis=0, return_counts=True)
    generator, means = np.random.default_rng(seed), []
    # Most metrics have few distinct values, and a mean needs only how often each is drawn. With
    # many distinct values single draws are faster.
    by_value = len(values) <= _MOST_VALUES
    block = max(1, _BLOCK // (len(values) if by_value else rows.size))
    for start in range(0, _RESAMPLES, block):
        size = min(block, _RESAMPLES - start)
        if by_value:
            means.append(
                generator.multinomial(len(rows), counts / len(rows), size) @ values / len(rows))
        else:
            drawn = generator.integers(0, len(rows), (size, len(rows)), np.int32)
            # By column: gathering rows of two numbers takes five times as long.
            means.append(
                np.stack([column[drawn].mean(axis=1) for column in np.ascontiguousarray(rows.T)],
                         axis=1))
    return np.concatenate(means)


def _interval(means: np.ndarray) -> tuple[float, float]:
    # 2.5 % of the resampled means on either side
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _pair(first: Sequence[float], second: Sequence[float],
          names: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """Converts both to [n] float64. Raises ValueError: the lengths differ or are 0."""
    pair = _vector(first, names[0]), _vector(second, names[1])
    if len(pair[0]) != len(pair[1]):
        raise ValueError(f'{names[0]} has {len(pair[0])} values and {names[1]} {len(pair[1])}: '
                         'they must be for the same questions')
    return pair


def _vector(values: Sequence[float], name: str) -> np.ndarray:
    """Converts to [n] float64. Raises ValueError: not a sequence, or empty."""
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or len(array) == 0:
        raise ValueError(f'{name} must be a sequence of at least one number, got shape '
                         f'{array.shape}')
    return array
