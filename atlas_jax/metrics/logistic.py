"""Logistic regression on few rows: standardised features, a penalty on their weights, fitted by Newton's method."""

import dataclasses
from collections.abc import Sequence

import numpy as np

_STEPS, _TOLERANCE = 100, 1e-9
_PENALTY = 5.0  # of half the squared weights, against the summed loss; chosen by cross-validation on 120 questions (docs/confidence.md)


@dataclasses.dataclass(frozen=True)
class Logistic:
    """A fitted regression: probability = sigmoid(intercept + weights · (features - means) / scales).

    Attributes:
      means, scales: of each feature, on the rows it was fitted to.
      weights: of the standardised features.
      intercept: of the mean row.
    """

    means: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float

    def probabilities(self, rows: Sequence[Sequence[float]]) -> np.ndarray:
        """Returns [n] float64, 0 to 1, of rows [n, features]; a feature that is not finite counts as its mean."""
        standard = (np.asarray(rows, np.float64).reshape(-1, len(self.weights)) - self.means) / self.scales
        # Far outside what was seen a linear model knows nothing: five standard deviations say as much as fifty.
        standard = np.clip(np.where(np.isfinite(standard), standard, 0.0), -5, 5)
        return _sigmoid(self.intercept + standard @ np.asarray(self.weights))


def fit(rows: Sequence[Sequence[float]], targets: Sequence[float], penalty: float = _PENALTY) -> Logistic:
    """Fits the regression.

    Targets are drawn in from 0 and 1 as Platt (1999) does, by one answer of either kind: where all are right, the probability is below 1.

    Args:
      rows: [n, features]; a feature that is not finite counts as the mean of the others.
      targets: [n], 0 or 1.
      penalty: on half the squared weights; the intercept has none.

    Raises ValueError: no row, or other numbers of rows and targets.
    """
    values, wanted = np.asarray(rows, np.float64), np.asarray(targets, np.float64)
    if values.ndim != 2 or not len(values) or wanted.shape != values.shape[:1]:
        raise ValueError(f'rows {values.shape} and targets {wanted.shape}: expected a table and a target for each row')
    finite = np.isfinite(values)
    counts = np.maximum(finite.sum(axis=0), 1)
    means = np.where(finite, values, 0.0).sum(axis=0) / counts
    values = np.where(finite, values, means)
    scales = values.std(axis=0)
    # A feature that never changes says nothing: its weight stays 0 whatever it is divided by.
    scales = np.where(scales > 1e-12, scales, 1.0)
    design = np.column_stack([np.ones(len(values)), np.clip((values - means) / scales, -5, 5)])
    right = wanted.sum()
    wanted = np.where(wanted > 0.5, (right + 1) / (right + 2), 1 / (len(wanted) - right + 2))
    found = _newton(design, wanted, np.concatenate([[0.0], np.full(values.shape[1], penalty)]))
    return Logistic(tuple(means.tolist()), tuple(scales.tolist()), tuple(found[1:].tolist()), float(found[0]))


def held_out(rows: Sequence[Sequence[float]], targets: Sequence[float], folds: int = 5, seed: int = 0,
             groups: Sequence[int] | None = None) -> np.ndarray:
    """Returns [n] probabilities by regressions that did not see the row: cross-validation over `folds` random parts.

    groups: [n] from 0; rows of one group are in one part. None is a group a row.
    """
    values, wanted = np.asarray(rows, np.float64), np.asarray(targets, np.float64)
    found = np.empty(len(values))
    group = np.arange(len(values)) if groups is None else np.asarray(groups)
    parts = (np.random.default_rng(seed).permutation(int(group.max()) + 1) % folds)[group]
    for part in range(folds):
        here = parts == part
        if here.any() and not here.all():
            found[here] = fit(values[~here], wanted[~here]).probabilities(values[here])
    return found


def _newton(design: np.ndarray, wanted: np.ndarray, penalties: np.ndarray) -> np.ndarray:
    weights = np.zeros(design.shape[1])
    loss = _loss(design, wanted, penalties, weights)
    for _ in range(_STEPS):
        chances = _sigmoid(design @ weights)
        gradient = design.T @ (chances - wanted) + penalties * weights
        # The curvature of a certain row is 0; the small number keeps the intercept's from vanishing.
        curvature = design.T @ (design * (chances * (1 - chances))[:, None]) + np.diag(penalties + 1e-9)
        # Few features: solving the whole system costs microseconds.
        step = np.linalg.solve(curvature, gradient)
        # Halved until it helps: a whole step may jump over the minimum.
        while (new := _loss(design, wanted, penalties, weights - step)) > loss + 1e-12 and np.abs(step).max() > _TOLERANCE:
            step = step / 2
        weights, loss = weights - step, new
        if np.abs(step).max() <= _TOLERANCE:
            break
    return weights


def _loss(design: np.ndarray, wanted: np.ndarray, penalties: np.ndarray, weights: np.ndarray) -> float:
    logits = design @ weights
    return float(np.sum(np.logaddexp(0, logits) - wanted * logits) + 0.5 * penalties @ weights**2)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    # As a hyperbolic tangent it overflows at neither end.
    return 0.5 * (1 + np.tanh(0.5 * logits))
