"""Compares two sets of arrays quantity by quantity: the largest difference, its place, and whether
it is allowed. Prints the tables.
"""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from atlas_jax import errors
from atlas_jax.report import html, text_table

Arrays = Mapping[str, np.ndarray]

# docs/fidelity.md; never loosened.
OUTPUT_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 5e-5
# The true gradient is zero, because softmax does not change when the same number is added to all
# keys. Only rounding differs.
_ZERO_GRADIENT, _ZERO_TOLERANCE = re.compile(
    r'grads/(retriever|passage_encoder)/.*key\.bias$'), 1e-6
_TOKENS = 'generated'
_HEADER = ('quantity', 'largest difference', 'relative', 'allowed', '', 'where')
_SIDES_HEADER = ('', 'step', 'reader tokens/s', 'peak memory', 'runs on')


@dataclasses.dataclass(frozen=True)
class Difference:
    """The difference of one quantity over all batches.

    Attributes:
      quantity: its name without the batch.
      absolute: largest |ours - theirs|; for tokens, the number that differ.
      relative: largest |ours - theirs| / max |theirs| over the batches.
      allowed: upper bound of `relative`.
      where: batch and indices of the largest difference.
    """

    quantity: str
    absolute: float
    relative: float
    allowed: float
    where: str

    @property
    def agrees(self) -> bool:
        """True if the difference is allowed; NaN never is."""
        return self.relative <= self.allowed


def differences(ours: Arrays, theirs: Arrays, reference: Arrays | None = None,
                rtol: float | None = None, against: str = 'the other side') -> list[Difference]:
    """Compares every quantity that both sides have.

    Args:
      ours, theirs: arrays by `<batch>/<quantity>`.
      reference: values of `theirs` in float64. Ours are then compared with these, and three times
        the float32 error of `theirs` is allowed.
      rtol: allowed relative difference, in place of 1e-5 (5e-5 for gradients) or three times the
        float32 error of `theirs`.
      against: name of the other side in messages.

    Raises:
      ConfigError: two arrays differ in shape, or the sides have no quantity in common.
    """
    common = [key for key in ours if key in theirs]
    if not common:
        raise errors.ConfigError(f'{against} has none of our quantities '
                                 f'({", ".join(sorted(theirs)[:3]) or "nothing"} …); expected '
                                 'names such as 0/logits: batch, then quantity')
    for key in common:
        if ours[key].shape != theirs[key].shape:
            raise errors.ConfigError(f'{key}: shape {list(ours[key].shape)} here, '
                                     f'{list(theirs[key].shape)} in {against}; the models or the '
                                     'inputs are not the same')
    # A dict keeps the order of computation, so the first difference is nearest to the cause.
    quantities = dict.fromkeys(key.split('/', 1)[1] for key in common)
    return [
        _difference(name, [key for key in common if key.split('/', 1)[1] == name], ours, theirs,
                    reference or {}, rtol) for name in quantities]


def summarised(found: list[Difference]) -> list[Difference]:
    """Returns the differences with one entry for each model's gradients: the worst parameter's, as
    a share of the allowed difference.
    """
    rows = [difference for difference in found if not difference.quantity.startswith('grads/')]
    for part in ('reader', 'retriever', 'passage_encoder'):
        gradients = [
            difference for difference in found if difference.quantity.startswith(f'grads/{part}/')]
        if gradients:
            worst = max(gradients, key=_share)
            name = worst.quantity.removeprefix(f'grads/{part}/')
            rows.append(
                dataclasses.replace(worst, quantity=f'grads/{part} ({len(gradients)} parameters)',
                                    where=f'{name} {worst.where}'))
    return rows


def _share(difference: Difference) -> float:
    if np.isnan(difference.relative):
        return float('inf')
    # Tokens allow a difference of 0; with the small divisor any difference of tokens is the worst.
    return difference.relative / max(difference.allowed, 1e-300)


def _difference(name: str, keys: list[str], ours: Arrays, theirs: Arrays, reference: Arrays,
                rtol: float | None) -> Difference:
    # relative, absolute, where, their own relative error
    measured: list[tuple[float, float, str, float]] = []
    for key in keys:
        # Both sides are measured against the float64 values, which are nearer to the truth.
        expected = reference.get(key, theirs[key])
        scale = _scale(name, key, expected, theirs)
        absolute, relative, place = _error(ours[key], expected, scale)
        own = _error(theirs[key], expected, scale)[1] if key in reference else 0.0
        measured.append((relative, absolute, f'batch {key.split("/")[0]}{place}', own))
    # NaN counts as infinity: it compares false with everything and would never be the largest.
    relative, absolute, where, _ = max(
        measured, key=lambda entry: np.inf if np.isnan(entry[0]) else entry[0])
    # A token is right or wrong; the distance of its id means nothing.
    if name == _TOKENS:
        return Difference(name, float(sum((ours[key] != theirs[key]).sum() for key in keys)),
                          relative, 0.0, where)
    allowed = GRADIENT_TOLERANCE if name.startswith('grads/') else OUTPUT_TOLERANCE
    # The bound must not be below the other side's rounding; three times allows for another order of
    # sums.
    allowed = max(allowed, 3 * max(entry[3] for entry in measured)) if rtol is None else rtol
    if _ZERO_GRADIENT.match(name):
        allowed = max(allowed, _ZERO_TOLERANCE)
    return Difference(name, absolute, relative, allowed, where)


def _scale(name: str, key: str, expected: np.ndarray, theirs: Arrays) -> float:
    """Returns the divisor of a difference: the quantity's largest value, or that of all gradients
    if its own are zero.
    """
    if not _ZERO_GRADIENT.match(name):
        return float(np.abs(expected).max(initial=0.0))
    # Gradients of the same batch and model show the scale of rounding errors.
    beginning = key[:key.index('grads/')] + '/'.join(name.split('/')[:2]) + '/'
    return max(
        float(np.abs(values).max(initial=0.0))
        for other, values in theirs.items()
        if other.startswith(beginning))


def _error(found: np.ndarray, expected: np.ndarray, scale: float) -> tuple[float, float, str]:
    """Returns the largest absolute and relative difference, and its indices as text."""
    # In float64, so that the comparison itself does not round.
    gap = np.abs(np.asarray(found, np.float64) - np.asarray(expected, np.float64))
    if gap.size == 0:
        return 0.0, 0.0, ''
    place = np.unravel_index(int(np.argmax(np.where(np.isnan(gap), np.inf, gap))), gap.shape)
    absolute = float(gap[place])
    relative = 0.0 if absolute == 0 else absolute / scale if scale else float('inf')
    return absolute, relative, f' [{", ".join(str(i) for i in place)}]' if place else ''


def as_text(rows: Sequence[Difference], figures: dict[str, Any], variant: str,
            repaired: bool) -> str:
    """Returns both tables for a terminal."""
    lines = text_table.aligned([_HEADER, *map(_row, rows)])
    lines += ['', 'all agree' if figures['agrees'] else 'THEY DIFFER']
    if 'ratio' in figures:
        lines += ['', *text_table.aligned([_SIDES_HEADER, *_sides(figures, variant, repaired)])]
    return '\n'.join(lines)


def write_page(path: str | os.PathLike, rows: Sequence[Difference], figures: dict[str, Any],
               variant: str, repaired: bool) -> None:
    """Writes a self-contained HTML page: summary, sides, every single quantity."""
    speed = []
    if 'ratio' in figures:
        seconds = {'atlas_jax': figures['ours']['step_seconds'],
                   f'PyTorch, {variant}': figures['theirs']['step_seconds']}
        speed = [html.table(_SIDES_HEADER, _sides(figures, variant, repaired)),
                 html.bar_chart('Seconds of a train step', 'seconds', seconds)]
    # The terminal shows the worst parameter of each model; the page shows all.
    single = [_row(row) for row in rows if row.quantity.startswith('grads/')]
    against = 'PyTorch' if figures['against'] == 'torch' else figures['against']
    html.write_page(
        path, f'Comparison with {against}',
        html.paragraph('Every quantity agrees within the allowed difference.' if figures['agrees']
                       else 'Some differ by more than is allowed.'),
        html.section(
            'Differences',
            html.paragraph('Relative: largest difference over the largest value. Allowed: 1e-5 for '
                           'outputs and 5e-5 for gradients, or three times the float32 error of '
                           'the other side where its float64 values are known.'),
            html.table(_HEADER, [_row(row) for row in summarised(list(rows))])),
        html.section('Speed and memory', *speed),
        html.section('Gradients of every parameter',
                     *([html.table(_HEADER, single)] if single else [])))


def _row(row: Difference) -> tuple[str, ...]:
    verdict = 'ok' if row.agrees else 'DIFFERS'
    # Tokens are counted; they have no distances.
    if row.quantity == _TOKENS:
        where = '' if row.agrees else row.where
        return row.quantity, f'{row.absolute:.0f} tokens', '', 'identical', verdict, where
    return (row.quantity, f'{row.absolute:.2e}', f'{row.relative:.2e}', f'{row.allowed:.2e}',
            verdict, row.where)


def _sides(figures: dict[str, Any], variant: str, repaired: bool) -> list[tuple[str, ...]]:
    ratio = figures['ratio']
    named = (('ours', 'atlas_jax'),
             ('theirs', 'PyTorch, '
              f'{variant}{" (allocator, flush-denormal)" if repaired else ""}'))
    rows = []
    for key, name in named:
        side = figures[key]
        memory = side.get('device_bytes', side['peak_bytes']) / 2**20
        rows.append((name, f'{side["step_seconds"]:.3f} s', f'{side["tokens_per_second"]:.0f}',
                     f'{memory:.0f} MiB', _place(side)))
    memory_ratio = ratio.get('device_bytes', ratio.get('peak_bytes'))
    return [
        *rows,
        ('ratio', f'{ratio["step_seconds"]:.2f} ×', '', f'{memory_ratio:.2f} ×', 'theirs / ours')]


def _place(side: dict[str, Any]) -> str:
    allocator = 'allocator tuned' if side['allocator'] else 'allocator as it is'
    return f'{side["device"]}, {side["version"]}, {allocator}'
