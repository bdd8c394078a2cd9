"""Quality of a confidence: how well it orders answers (risk and coverage), and how close it is to
the share of right answers (calibration error).
"""

from collections.abc import Sequence

import numpy as np

BINS = 10


def risk_coverage(confidence: Sequence[float],
                  correct: Sequence[float]) -> tuple[list[float], list[float]]:
    """Returns the curve of risk against coverage (El-Yaniv and Wiener 2010): (coverages, risks),
    least coverage first.

    There is a point for each distinct confidence: the share of the questions answered at or above
    it, and the share of wrong answers among these. Answers with equal confidence enter together.

    Raises ValueError: there are no answers, or the lengths differ.
    """
    answered, wrong, count = _cumulated(confidence, correct)
    return (answered / count).tolist(), (wrong / answered).tolist()


def aurc(confidence: Sequence[float], correct: Sequence[float]) -> float:
    """Returns the area under the risk–coverage curve: the mean risk over all numbers of answers
    (Geifman, Uziel and El-Yaniv 2019).

    0 is best. An uninformative confidence has the risk of answering everything. Ties are in random
    order, so that the expected number of wrong answers grows linearly within them.

    Raises ValueError: see `risk_coverage`.
    """
    answered, wrong, count = _cumulated(confidence, correct)
    numbers = np.arange(1, count + 1)
    return float(np.mean(np.interp(numbers, [0, *answered], [0, *wrong]) / numbers))


def calibration_error(confidence: Sequence[float], correct: Sequence[float],
                      bins: int = BINS) -> float:
    """Returns the expected calibration error over bins with equal numbers of answers (Nguyen and
    O'Connor 2015).

    It is the mean over the bins of |mean confidence - share of right answers|, weighted by the
    number of answers in each bin.

    Raises ValueError: see `risk_coverage`.
    """
    found = reliability(confidence, correct, bins)
    return sum(count * abs(mean - share)
               for mean, share, count in found) / sum(count for *_, count in found)


def reliability(confidence: Sequence[float], correct: Sequence[float],
                bins: int = BINS) -> list[tuple[float, float, int]]:
    """Returns the bins of the calibration error, least confidence first: (mean confidence, share of
    right answers, number of answers).

    Raises ValueError: see `risk_coverage`.
    """
    values, right = _pair(confidence, correct)
    order = np.argsort(values, kind='stable')
    # Bins of equal width could be empty, or noisy with few answers.
    parts = np.array_split(order, min(bins, len(values)))
    return [(float(values[part].mean()), float(right[part].mean()), len(part)) for part in parts]


def coverage_at(precision: float, confidence: Sequence[float],
                correct: Sequence[float]) -> tuple[float, float | None]:
    """Returns the largest share of the questions that can be answered with at least this precision,
    and the confidence threshold for it.

    Returns (0, None) if no threshold reaches the precision. The threshold is chosen on these
    answers, so the precision on other questions may be lower.

    Raises ValueError: see `risk_coverage`.
    """
    answered, wrong, count = _cumulated(confidence, correct)
    values = np.unique(np.asarray(confidence, np.float64))[::-1]
    # The last point that reaches the precision: it may dip earlier, where few questions are
    # answered.
    enough = np.flatnonzero(wrong / answered <= 1 - precision + 1e-12)
    return (float(answered[enough[-1]] / count),
            float(values[enough[-1]])) if len(enough) else (0.0, None)


def _cumulated(confidence: Sequence[float],
               correct: Sequence[float]) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns, for each distinct confidence from the highest down, the number of answers at or
    above it and the number of wrong ones among them; and the number of all answers.
    """
    values, right = _pair(confidence, correct)
    _, places = np.unique(-values, return_inverse=True)  # 0 is the highest
    answered = np.cumsum(np.bincount(places))
    return answered, np.cumsum(np.bincount(places, weights=1 - right)), len(values)


def _pair(confidence: Sequence[float], correct: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    values, right = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    if values.shape != right.shape or values.ndim != 1 or not len(values):
        raise ValueError(f'{values.shape} confidences and {right.shape} judgments: expected the '
                         'same number of both, at least one')
    return values, right
