"""Figures of a confidence: how well it orders answers (risk against coverage), and whether it means what it says (calibration error)."""

from collections.abc import Sequence

import numpy as np

BINS = 10


def risk_coverage(confidence: Sequence[float], correct: Sequence[float]) -> tuple[list[float], list[float]]:
    """Returns the curve of risk against coverage (El-Yaniv and Wiener 2010): (coverages, risks), least coverage first.

    A point for each different confidence: the share of the questions answered at or above it, and the share of wrong answers among these.
    Answers of one confidence cannot be told apart, so they come together.

    Raises ValueError: no answer, or other numbers of values.
    """
    answered, wrong, count = _cumulated(confidence, correct)
    return (answered / count).tolist(), (wrong / answered).tolist()


def aurc(confidence: Sequence[float], correct: Sequence[float]) -> float:
    """Returns the area under the risk–coverage curve: the mean risk over all numbers of answers (Geifman, Uziel and El-Yaniv 2019).

    0 is best; a confidence that says nothing has the risk of answering everything. Within equal confidences the order is random, so that
    the expected number of wrong answers grows evenly.

    Raises ValueError as `risk_coverage`.
    """
    answered, wrong, count = _cumulated(confidence, correct)
    numbers = np.arange(1, count + 1)
    # Linear between different confidences: within ties wrong answers come evenly, on average.
    return float(np.mean(np.interp(numbers, [0, *answered], [0, *wrong]) / numbers))


def calibration_error(confidence: Sequence[float], correct: Sequence[float], bins: int = BINS) -> float:
    """Returns the expected calibration error over bins of equally many answers (Nguyen and O'Connor 2015).

    It is the mean over the bins of |mean confidence - share of right answers|, each bin by its number of answers.

    Raises ValueError as `risk_coverage`.
    """
    found = reliability(confidence, correct, bins)
    return sum(count * abs(mean - share) for mean, share, count in found) / sum(count for *_, count in found)


def reliability(confidence: Sequence[float], correct: Sequence[float], bins: int = BINS) -> list[tuple[float, float, int]]:
    """Returns the bins of the calibration error, least confidence first: (mean confidence, share of right answers, number of answers).

    Raises ValueError as `risk_coverage`.
    """
    values, right = _pair(confidence, correct)
    order = np.argsort(values, kind='stable')
    # Bins of equal width would be empty where no confidence lies, and noisy where few do.
    parts = np.array_split(order, min(bins, len(values)))
    return [(float(values[part].mean()), float(right[part].mean()), len(part)) for part in parts]


def coverage_at(precision: float, confidence: Sequence[float], correct: Sequence[float]) -> tuple[float, float | None]:
    """Returns the largest share of the questions that is answered with at least this precision, and the confidence that reaches it.

    (0, None) if no threshold does. The threshold is chosen on the answers given, so the precision on others may be lower.

    Raises ValueError as `risk_coverage`.
    """
    answered, wrong, count = _cumulated(confidence, correct)
    values = np.unique(np.asarray(confidence, np.float64))[::-1]
    # The last that fits, not the first that does not: precision may dip at high confidence, where few are answered.
    enough = np.flatnonzero(wrong / answered <= 1 - precision + 1e-12)
    return (float(answered[enough[-1]] / count), float(values[enough[-1]])) if len(enough) else (0.0, None)


def _cumulated(confidence: Sequence[float], correct: Sequence[float]) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns, for each different confidence from the highest down, answers at or above it and wrong ones among them; and all answers."""
    values, right = _pair(confidence, correct)
    _, places = np.unique(-values, return_inverse=True)  # 0 is the highest
    answered = np.cumsum(np.bincount(places))
    return answered, np.cumsum(np.bincount(places, weights=1 - right)), len(values)


def _pair(confidence: Sequence[float], correct: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    values, right = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    if values.shape != right.shape or values.ndim != 1 or not len(values):
        raise ValueError(f'{values.shape} confidences and {right.shape} judgments: expected as many of both, and at least one')
    return values, right
