"""Line charts."""

import math
from collections.abc import Mapping, Sequence

from atlas_jax.report import svg

_DASHES = ('', '6 3', '2 3', '8 3 2 3')

Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def line_chart(title: str, x_label: str, y_label: str, series: Series) -> str:
    """A chart of lines, `series` name -> (xs, ys) of equal lengths; points that are not finite leave a gap.

    Raises ValueError where the lengths of a series differ.
    """
    points = {name: _points(name, xs, ys) for name, (xs, ys) in series.items()}
    finite = [point for line in points.values() for point in line if _is_finite(point)]
    if not finite:
        return svg.empty(title)
    x_ticks, y_ticks = (svg.ticks(min(values), max(values)) for values in zip(*finite, strict=True))

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x, y = point
        return svg.scale(x, x_ticks, svg.LEFT, svg.WIDTH - svg.RIGHT), svg.scale(y, y_ticks, svg.HEIGHT - svg.BOTTOM, svg.TOP)

    marks = _axes(x_label, y_label, x_ticks, y_ticks)
    for number, line in enumerate(points.values()):
        for run in _finite_runs(line):
            marks.append(_line(number, [place(point) for point in run], with_dots=len(line) <= 40))
    marks += _legend(list(series))
    description = f'{", ".join(series)}; {x_label} from {x_ticks[0]:g} to {x_ticks[-1]:g}, {y_label} from {y_ticks[0]:g} to {y_ticks[-1]:g}'
    return svg.picture(svg.HEIGHT, title, description, marks)


def _axes(x_label: str, y_label: str, x_ticks: list[float], y_ticks: list[float]) -> list[str]:
    marks = []
    for tick in y_ticks:
        y = svg.scale(tick, y_ticks, svg.HEIGHT - svg.BOTTOM, svg.TOP)
        marks.append(f'<path class="grid" d="M{svg.LEFT} {y:.1f}H{svg.WIDTH - svg.RIGHT}"/>')
        marks.append(f'<text x="{svg.LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    marks += [svg.vertical_grid(svg.scale(tick, x_ticks, svg.LEFT, svg.WIDTH - svg.RIGHT), f'{tick:g}', svg.HEIGHT) for tick in x_ticks]
    middle_x, middle_y = (svg.LEFT + svg.WIDTH - svg.RIGHT) / 2, (svg.TOP + svg.HEIGHT - svg.BOTTOM) / 2
    marks.append(f'<text x="{middle_x:.1f}" y="{svg.HEIGHT - 8}" text-anchor="middle">{svg.escape(x_label)}</text>')
    marks.append(f'<text transform="translate(16 {middle_y:.1f}) rotate(-90)" text-anchor="middle">{svg.escape(y_label)}</text>')
    return marks


def _line(number: int, run: list[tuple[float, float]], with_dots: bool) -> str:
    color = svg.color(number)
    path = 'M' + 'L'.join(f'{x:.1f} {y:.1f}' for x, y in run)
    dash = f' stroke-dasharray="{_DASHES[number % len(_DASHES)]}"' if number % len(_DASHES) else ''
    dots = ''.join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{color}"/>' for x, y in run) if with_dots or len(run) == 1 else ''
    return f'<path fill="none" stroke="{color}" stroke-width="2" stroke-linejoin="round"{dash} d="{path}"/>{dots}'


def _legend(names: list[str]) -> list[str]:
    marks, x = [], float(svg.LEFT)
    for number, name in enumerate(names):
        dash = f' stroke-dasharray="{_DASHES[number % len(_DASHES)]}"' if number % len(_DASHES) else ''
        marks.append(f'<path fill="none" stroke="{svg.color(number)}" stroke-width="3"{dash} d="M{x:.0f} 20h24"/>'
                     f'<text class="label" x="{x + 30:.0f}" y="24">{svg.escape(name)}</text>')
        x += 54 + 7.5 * len(name)
    return marks


def _points(name: str, xs: Sequence[float], ys: Sequence[float]) -> list[tuple[float, float]]:
    if len(xs) != len(ys):
        raise ValueError(f'series "{name}" has {len(xs)} x values and {len(ys)} y values: they must be as many')
    return [(float(x), float(y)) for x, y in zip(xs, ys, strict=True)]


def _is_finite(point: tuple[float, float]) -> bool:
    return math.isfinite(point[0]) and math.isfinite(point[1])


def _finite_runs(line: list[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    runs: list[list[tuple[float, float]]] = [[]]
    for point in line:
        if _is_finite(point):
            runs[-1].append(point)
        else:
            runs.append([])
    return [run for run in runs if run]
