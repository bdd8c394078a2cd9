"""How two sets of arrays differ: per quantity the largest difference, where, and whether it is allowed."""

import dataclasses
import re
from collections.abc import Mapping

import numpy as np

from atlas_jax import errors

Arrays = Mapping[str, np.ndarray]

OUTPUT_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 5e-5
# A gradient that is zero but for rounding: softmax does not see what is added to all keys alike.
_ZERO_GRADIENT, _ZERO_TOLERANCE = re.compile(r'grads/retriever/.*key\.bias$'), 1e-6
_TOKENS = 'generated'


@dataclasses.dataclass(frozen=True)
class Difference:
    """One quantity over all batches.

    Attributes:
      quantity: its name without the batch.
      absolute: largest |ours - theirs|; of tokens, how many differ.
      relative: largest of |ours - theirs| / max |theirs| over the batches.
      allowed: what `relative` may be at most.
      where: batch and indices of the largest difference.
    """

    quantity: str
    absolute: float
    relative: float
    allowed: float
    where: str

    @property
    def agrees(self) -> bool:
        """Whether the difference is allowed; a NaN never is."""
        return self.relative <= self.allowed


def differences(ours: Arrays, theirs: Arrays, reference: Arrays | None = None, rtol: float | None = None,
                against: str = 'the other side') -> list[Difference]:
    """Compares every quantity that both have.

    Args:
      ours, theirs: `<batch>/<quantity>` to arrays.
      reference: theirs in float64, which ours is then judged by; their own error against it widens what is allowed, threefold.
      rtol: what is allowed, in place of 1e-5 (5e-5 for gradients) or thrice their own float32 error.
      against: what an error calls the other side.

    Raises ConfigError for arrays of different shapes, or none in common.
    """
    common = [key for key in ours if key in theirs]
    if not common:
        raise errors.ConfigError(f'{against} has none of our quantities ({", ".join(sorted(theirs)[:3]) or "nothing"} …); expected names '
                                 'such as 0/logits: batch, then quantity')
    for key in common:
        if ours[key].shape != theirs[key].shape:
            raise errors.ConfigError(f'{key}: shape {list(ours[key].shape)} here, {list(theirs[key].shape)} in {against}; '
                                     'the models or the inputs are not the same')
    quantities = dict.fromkeys(key.split('/', 1)[1] for key in common)
    return [_difference(name, [key for key in common if key.split('/', 1)[1] == name], ours, theirs, reference or {}, rtol)
            for name in quantities]


def summarised(found: list[Difference]) -> list[Difference]:
    """The same with the gradients of each model as one entry, that of the worst parameter (as a share of what is allowed)."""
    rows = [difference for difference in found if not difference.quantity.startswith('grads/')]
    for part in ('reader', 'retriever'):
        gradients = [difference for difference in found if difference.quantity.startswith(f'grads/{part}/')]
        if gradients:
            worst = max(gradients, key=_share)
            name = worst.quantity.removeprefix(f'grads/{part}/')
            rows.append(dataclasses.replace(worst, quantity=f'grads/{part} ({len(gradients)} parameters)', where=f'{name} {worst.where}'))
    return rows


def _share(difference: Difference) -> float:
    return float('inf') if np.isnan(difference.relative) else difference.relative / max(difference.allowed, 1e-300)


def _difference(name: str, keys: list[str], ours: Arrays, theirs: Arrays, reference: Arrays, rtol: float | None) -> Difference:
    measured = []
    for key in keys:
        expected = reference.get(key, theirs[key])
        absolute, relative, place = _error(ours[key], expected, _scale(name, key, expected, theirs))
        own = _error(theirs[key], expected, _scale(name, key, expected, theirs))[1] if key in reference else 0.0
        measured.append((relative, absolute, f'batch {key.split("/")[0]}{place}', own))
    relative, absolute, where, _ = max(measured, key=lambda entry: np.inf if np.isnan(entry[0]) else entry[0])
    if name == _TOKENS:
        return Difference(name, float(sum((ours[key] != theirs[key]).sum() for key in keys)), relative, 0.0, where)
    allowed = GRADIENT_TOLERANCE if name.startswith('grads/') else OUTPUT_TOLERANCE
    allowed = max(allowed, 3 * max(entry[3] for entry in measured)) if rtol is None else rtol
    if _ZERO_GRADIENT.match(name):
        allowed = max(allowed, _ZERO_TOLERANCE)
    return Difference(name, absolute, relative, allowed, where)


def _scale(name: str, key: str, expected: np.ndarray, theirs: Arrays) -> float:
    """What a difference is divided by: the largest value, of the quantity itself or of all gradients where its own are zero."""
    if not _ZERO_GRADIENT.match(name):
        return float(np.abs(expected).max(initial=0.0))
    beginning = key[:key.index('grads/')] + 'grads/retriever/'
    return max(float(np.abs(values).max(initial=0.0)) for other, values in theirs.items() if other.startswith(beginning))


def _error(found: np.ndarray, expected: np.ndarray, scale: float) -> tuple[float, float, str]:
    """Largest absolute and relative difference, and its indices as text."""
    gap = np.abs(np.asarray(found, np.float64) - np.asarray(expected, np.float64))
    if gap.size == 0:
        return 0.0, 0.0, ''
    place = np.unravel_index(int(np.argmax(np.where(np.isnan(gap), np.inf, gap))), gap.shape)
    absolute = float(gap[place])
    relative = 0.0 if absolute == 0 else absolute / scale if scale else float('inf')
    return absolute, relative, f' [{", ".join(str(i) for i in place)}]' if place else ''
