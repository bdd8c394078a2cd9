"""Logistic regression on few rows: standardised features and a penalty on their weights."""

import dataclasses
from collections.abc import Sequence

import numpy as np

# Weight of half the squared weights against the summed loss. Chosen by cross-validation on 120
# questions (docs/confidence.md).
_PENALTY = 5.0
_FOLDS = 5  # random parts of the cross-validation
# Features are clipped at this many standard deviations: a linear model knows nothing beyond the
# rows it was fitted to.
_MOST_DEVIATIONS = 5


@dataclasses.dataclass(frozen=True)
class Logistic:
    """A fitted regression: probability = sigmoid(intercept + weights · (features - means) /
    scales).

    Attributes:
      means, scales: mean and standard deviation of each feature in the rows it was fitted to.
      weights: weights of the standardised features.
      intercept: logit of a row whose features are all the means.
    """

    means: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float

    def probabilities(self, rows: Sequence[Sequence[float]]) -> np.ndarray:
        """Returns the probabilities [n] float64 of rows [n, features]; a feature that is not finite
        counts as its mean.
        """
        values = np.asarray(rows, np.float64).reshape(-1, len(self.weights))
        standard = _standardised(values, np.asarray(self.means), np.asarray(self.scales))
        return _sigmoid(self.intercept + standard @ np.asarray(self.weights))


def fit(rows: Sequence[Sequence[float]], targets: Sequence[float],
        penalty: float = _PENALTY) -> Logistic:
    """Fits the regression.

    Targets are moved away from 0 and 1 by one answer of each kind (Platt 1999), so that the
    probability stays below 1 where every answer is right.

    Args:
      rows: [n, features]; a feature that is not finite counts as the mean of the others.
      targets: [n], 0 or 1.
      penalty: weight of half the squared weights; the intercept has no penalty.

    Raises ValueError: there are no rows, or rows and targets differ in number.
    """
    values, wanted = np.asarray(rows, np.float64), np.asarray(targets, np.float64)
    if values.ndim != 2 or not len(values) or wanted.shape != values.shape[:1]:
        raise ValueError(f'rows {values.shape} and targets {wanted.shape}: expected a table and a '
                         'target for each row')
    finite = np.isfinite(values)
    means = np.where(finite, values, 0.0).sum(axis=0) / np.maximum(finite.sum(axis=0), 1)
    scales = np.where(finite, values, means).std(axis=0)
    # A constant feature gets weight 0, whatever it is divided by.
    scales = np.where(scales > 1e-12, scales, 1.0)
    design = np.column_stack([np.ones(len(values)), _standardised(values, means, scales)])
    right = wanted.sum()
    wanted = np.where(wanted > 0.5, (right + 1) / (right + 2), 1 / (len(wanted) - right + 2))
    penalties = np.concatenate([[0.0], np.full(values.shape[1], penalty)])
    weights = _minimum(design, wanted, penalties)
    return Logistic(tuple(means.tolist()), tuple(scales.tolist()), tuple(weights[1:].tolist()),
                    float(weights[0]))


def held_out(rows: Sequence[Sequence[float]], targets: Sequence[float],
             groups: Sequence[int] | None = None) -> np.ndarray:
    """Returns cross-validated probabilities [n]: each row is judged by a regression that was fitted
    without the row's part.

    Args:
      rows, targets: see `fit`.
      groups: [n] from 0; the rows of a group are in one part. None makes each row its own group.
    """
    values, wanted = np.asarray(rows, np.float64), np.asarray(targets, np.float64)
    chances = np.empty(len(values))
    group = np.arange(len(values)) if groups is None else np.asarray(groups)
    parts = (np.random.default_rng(0).permutation(int(group.max()) + 1) % _FOLDS)[group]
    for part in range(_FOLDS):
        here = parts == part
        if here.any() and not here.all():
            chances[here] = fit(values[~here], wanted[~here]).probabilities(values[here])
    return chances


def _minimum(design: np.ndarray, wanted: np.ndarray, penalties: np.ndarray) -> np.ndarray:
    """Returns the weights [features + 1] with the smallest penalised loss."""
    # Imported here: it takes 0.3 seconds, and reading a fitted regression does not need it.
    from scipy import optimize

    def loss(weights: np.ndarray) -> float:
        logits = design @ weights
        return float(
            np.sum(np.logaddexp(0, logits) - wanted * logits) + 0.5 * penalties @ weights**2)

    def gradient(weights: np.ndarray) -> np.ndarray:
        return design.T @ (_sigmoid(design @ weights) - wanted) + penalties * weights

    def curvature(weights: np.ndarray) -> np.ndarray:
        chances = _sigmoid(design @ weights)
        return design.T @ (design * (chances * (1 - chances))[:, None]) + np.diag(penalties)

    return optimize.minimize(loss, np.zeros(design.shape[1]), jac=gradient, hess=curvature,
                             method='trust-exact', options={'gtol': 1e-9}).x


def _standardised(values: np.ndarray, means: np.ndarray, scales: np.ndarray) -> np.ndarray:
    standard = (np.where(np.isfinite(values), values, means) - means) / scales
    return np.clip(standard, -_MOST_DEVIATIONS, _MOST_DEVIATIONS)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    # A hyperbolic tangent overflows at neither end.
    return 0.5 * (1 + np.tanh(0.5 * logits))
