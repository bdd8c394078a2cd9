"""Bar charts."""

import math
from collections.abc import Mapping

from atlas_jax.report import svg

_TOP = 4


def bar_chart(title: str, label: str, bars: Mapping[str, float], standard_errors: Mapping[str, float] | None = None) -> str:
    """Horizontal bars, `bars` name -> value, with the value beside each and, where given, a whisker of one standard error each way.

    Values that are not finite are shown as "no value".
    """
    standard_errors = standard_errors or {}
    ends = [value + sign * standard_errors.get(name, 0) for name, value in bars.items() if math.isfinite(value) for sign in (-1, 1)]
    if not ends:
        return svg.empty(title)
    ticks = svg.ticks(min(0.0, *ends), max(0.0, *ends))
    left, right = 190, svg.WIDTH - 72
    height = _TOP + 34 * len(bars) + svg.BOTTOM
    marks = [svg.vertical_grid(svg.scale(tick, ticks, left, right), f'{tick:g}', height, _TOP) for tick in ticks]
    for row, (name, value) in enumerate(bars.items()):
        y = _TOP + 34 * row + 6
        marks.append(f'<text class="label" x="{left - 10}" y="{y + 15}" text-anchor="end">{svg.escape(name)}</text>')
        if not math.isfinite(value):
            marks.append(f'<text x="{left + 6}" y="{y + 15}">no value</text>')
            continue
        marks += _bar(row, y, value, standard_errors.get(name, 0), ticks, (left, right))
    marks.append(f'<text x="{(left + right) / 2:.1f}" y="{height - 8}" text-anchor="middle">{svg.escape(label)}</text>')
    description = '; '.join(f'{name}: {value:.4g}' for name, value in bars.items())
    return svg.picture(height, title, f'{label}. {description}', marks)


def _bar(row: int, y: float, value: float, error: float, ticks: list[float], span: tuple[float, float]) -> list[str]:
    zero, end = svg.scale(0.0, ticks, *span), svg.scale(value, ticks, *span)
    marks = [f'<rect x="{min(zero, end):.1f}" y="{y}" width="{abs(end - zero):.1f}" height="22" rx="3" fill="{svg.color(row)}"/>']
    beside = max(zero, end)
    if error:
        low, beside = svg.scale(value - error, ticks, *span), max(beside, svg.scale(value + error, ticks, *span))
        high = svg.scale(value + error, ticks, *span)
        marks.append(f'<path class="whisker" d="M{low:.1f} {y + 11}H{high:.1f}M{low:.1f} {y + 6}v10M{high:.1f} {y + 6}v10"/>')
    marks.append(f'<text class="value" x="{beside + 6:.1f}" y="{y + 15}">{value:.3g}</text>')
    return marks
