"""Charts of a report as SVG text: lines and bars, without a script or a library.

Colours are the page's CSS variables, so charts follow light and dark. Each picture carries a <title> and a <desc> for readers that do not
see it.
"""

import html
import math
from collections.abc import Mapping, Sequence

# Places in SVG units. The page scales a chart to its own width, its letters too: hence a narrow drawing for phones.
WIDTH, NARROW, HEIGHT = 720, 340, 250
LEFT, RIGHT, TOP, BOTTOM = 84, 32, 44, 48
COLORS = 6  # series colours the page defines, --series-0 to --series-5
_BAR_TOP, _BAR_STEP = 4, 34  # bars have no legend above them; the distance from bar to bar
_NAME_STEP = 18  # more of it where names stand above their bars
_LETTER = 7.5  # about the width of a letter at 13 px: SVG text cannot be measured here
_NAMES = 320  # units that names of bars may take; longer ones are cut
_LEGEND_STEP = 20  # the distance from one row of a legend to the next
_DASHES = ('', '6 3', '2 3', '8 3 2 3')  # beside the colours, for those who do not see them
_LEAST = 1e-300  # a smaller number is as good as 0: a fifth of it may be 0
_MOST_DOTS = 40  # points of a line that are marked; more would hide the line

Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def line_chart(title: str, x_label: str, y_label: str, series: Series, width: int = WIDTH) -> str:
    """Returns a chart of lines as SVG.

    Args:
      title: for readers that do not see the chart.
      x_label, y_label: names of the axes.
      series: name -> (xs, ys). Points that are not finite leave a gap.
      width: WIDTH or NARROW.

    Raises:
      ValueError: xs and ys of a series differ in length.
    """
    points = {name: _points(name, xs, ys) for name, (xs, ys) in series.items()}
    finite = [point for line in points.values() for point in line if _is_finite(point)]
    if not finite:
        return _empty(title, width)
    xs, ys = zip(*finite, strict=True)
    # Half a step, or two and a half passages, are none.
    x_ticks, y_ticks = ticks(min(xs), max(xs), _steps(width), whole=all(x == round(x) for x in xs)), ticks(min(ys), max(ys))

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x, y = point
        return _scale(x, x_ticks, LEFT, width - RIGHT), _scale(y, y_ticks, HEIGHT - BOTTOM, TOP)

    marks = _axes(x_label, y_label, x_ticks, y_ticks, width)  # below the lines, which are drawn over them
    for number, line in enumerate(points.values()):
        for run in _finite_runs(line):
            marks.append(_line(number, [place(point) for point in run], with_dots=len(line) <= _MOST_DOTS))
    legend, rows = _legend(list(series), width)
    # A legend of several rows moves all else down.
    lower = _LEGEND_STEP * (rows - 1)
    marks = [*legend, f'<g transform="translate(0 {lower})">{"".join(marks)}</g>' if lower else ''.join(marks)]
    description = f'{", ".join(series)}; {x_label} from {x_ticks[0]:g} to {x_ticks[-1]:g}, {y_label} from {y_ticks[0]:g} to {y_ticks[-1]:g}'
    return _picture(width, HEIGHT + lower, title, description, marks)


def _steps(width: int) -> int:
    """About how many steps an axis of a picture has."""
    return 5 if width >= WIDTH else 3


def _axes(x_label: str, y_label: str, x_ticks: list[float], y_ticks: list[float], width: int) -> list[str]:
    marks = []
    for tick in y_ticks:
        y = _scale(tick, y_ticks, HEIGHT - BOTTOM, TOP)
        marks.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{width - RIGHT}"/>')
        marks.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    marks += [_vertical_grid(_scale(tick, x_ticks, LEFT, width - RIGHT), f'{tick:g}', HEIGHT) for tick in x_ticks]
    middle_x, middle_y = (LEFT + width - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    marks.append(f'<text x="{middle_x:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{_escape(x_label)}</text>')
    marks.append(f'<text transform="translate(16 {middle_y:.1f}) rotate(-90)" text-anchor="middle">{_escape(y_label)}</text>')
    return marks


def _line(number: int, run: list[tuple[float, float]], with_dots: bool) -> str:
    color = _color(number)
    path = 'M' + 'L'.join(f'{x:.1f} {y:.1f}' for x, y in run)
    dash = f' stroke-dasharray="{_DASHES[number % len(_DASHES)]}"' if number % len(_DASHES) else ''
    dots = ''.join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{color}"/>' for x, y in run) if with_dots or len(run) == 1 else ''
    return f'<path fill="none" stroke="{color}" stroke-width="2" stroke-linejoin="round"{dash} d="{path}"/>{dots}'


def _legend(names: list[str], width: int) -> tuple[list[str], int]:
    """The marks of a legend, and the number of its rows."""
    start = float(LEFT if width >= WIDTH else 8)  # above the axis of a narrow one is too little room
    marks, x, row = [], start, 0
    for number, name in enumerate(names):
        name = _shortened(name, width - RIGHT - start - 30)
        end = x + 30 + _LETTER * len(name)
        if end > width - RIGHT and x > start:
            end, x, row = end - x + start, start, row + 1
        y = 20 + _LEGEND_STEP * row
        dash = f' stroke-dasharray="{_DASHES[number % len(_DASHES)]}"' if number % len(_DASHES) else ''
        marks.append(f'<path fill="none" stroke="{_color(number)}" stroke-width="3"{dash} d="M{x:.0f} {y}h24"/>'
                     f'<text class="label" x="{x + 30:.0f}" y="{y + 4}">{_escape(name)}</text>')
        x = end + 24
    return marks, row + 1


def _shortened(name: str, room: float) -> str:
    """The name, cut where it is wider than `room` units."""
    letters = int(room / _LETTER)
    return name if len(name) <= letters else f'{name[:letters - 1]}…'


def _points(name: str, xs: Sequence[float], ys: Sequence[float]) -> list[tuple[float, float]]:
    if len(xs) != len(ys):
        raise ValueError(f'series "{name}" has {len(xs)} x values and {len(ys)} y values: they must be as many')
    return [(float(x), float(y)) for x, y in zip(xs, ys, strict=True)]


def _is_finite(point: tuple[float, float]) -> bool:
    return math.isfinite(point[0]) and math.isfinite(point[1])


def _finite_runs(line: list[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    # A loss that is not finite shows as a gap, which a line drawn across it would hide.
    runs: list[list[tuple[float, float]]] = [[]]
    for point in line:
        if _is_finite(point):
            runs[-1].append(point)
        else:
            runs.append([])
    return [run for run in runs if run]


def bar_chart(title: str, label: str, bars: Mapping[str, float], standard_errors: Mapping[str, float] | None = None,
              width: int = WIDTH) -> str:
    """Returns horizontal bars as SVG, with the value beside each.

    Args:
      title: for readers that do not see the chart.
      label: name of the axis.
      bars: name -> value; one that is not finite is shown as "no value".
      standard_errors: name -> standard error, shown as a whisker each way.
      width: WIDTH or NARROW, where names stand above their bars.
    """
    standard_errors = standard_errors or {}
    ends = [value + sign * standard_errors.get(name, 0) for name, value in bars.items() if math.isfinite(value) for sign in (-1, 1)]
    if not ends:
        return _empty(title, width)
    # Zero is always on the axis: bars whose axis begins elsewhere mislead.
    x_ticks = ticks(min(0.0, *ends), max(0.0, *ends), _steps(width))
    above = _NAME_STEP if width < WIDTH else 0
    names = {name: _shortened(name, width - RIGHT if above else _NAMES) for name in bars}
    # Room for names on the left, where they do not stand above, and for the value beside the longest bar.
    left, right = float(RIGHT) if above else max(LEFT, 24 + _LETTER * max(map(len, names.values()))), width - LEFT
    height = _BAR_TOP + (_BAR_STEP + above) * len(bars) + BOTTOM
    marks = [_vertical_grid(_scale(tick, x_ticks, left, right), f'{tick:g}', height, _BAR_TOP) for tick in x_ticks]
    for row, (name, value) in enumerate(bars.items()):
        y = _BAR_TOP + (_BAR_STEP + above) * row + above + 6
        at = f'x="8" y="{y - 5}"' if above else f'x="{left - 10:.1f}" y="{y + 15}" text-anchor="end"'
        marks.append(f'<text class="label" {at}>{_escape(names[name])}</text>')
        if not math.isfinite(value):
            marks.append(f'<text x="{left + 6:.1f}" y="{y + 15}">no value</text>')
            continue
        marks += _bar(row, y, value, standard_errors.get(name, 0), x_ticks, (left, right))
    marks.append(f'<text x="{(left + right) / 2:.1f}" y="{height - 8}" text-anchor="middle">{_escape(label)}</text>')
    description = '; '.join(f'{name}: {value:.4g}' for name, value in bars.items())
    return _picture(width, height, title, f'{label}. {description}', marks)


def _bar(row: int, y: float, value: float, error: float, x_ticks: list[float], span: tuple[float, float]) -> list[str]:
    # Bars grow from zero, to the left where the value is negative.
    zero, end = _scale(0.0, x_ticks, *span), _scale(value, x_ticks, *span)
    marks = [f'<rect x="{min(zero, end):.1f}" y="{y}" width="{abs(end - zero):.1f}" height="22" rx="3" fill="{_color(row)}"/>']
    beside = max(zero, end)
    if error:
        low, beside = _scale(value - error, x_ticks, *span), max(beside, _scale(value + error, x_ticks, *span))
        high = _scale(value + error, x_ticks, *span)
        marks.append(f'<path class="whisker" d="M{low:.1f} {y + 11}H{high:.1f}M{low:.1f} {y + 6}v10M{high:.1f} {y + 6}v10"/>')
    marks.append(f'<text class="value" x="{beside + 6:.1f}" y="{y + 15}">{value:.3g}</text>')
    return marks


def _picture(width: int, height: float, title: str, description: str, marks: list[str]) -> str:
    """The marks as one <svg> element."""
    return (f'<svg class="{"wide" if width >= WIDTH else "narrow"}" role="img" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg"><title>{_escape(title)}</title>'
            f'<desc>{_escape(description)}</desc>{"".join(marks)}</svg>')


def _empty(title: str, width: int) -> str:
    """The picture in place of a chart without a finite value."""
    return _picture(width, 64, title, 'no data', ['<text x="16" y="36">no data</text>'])


def ticks(low: float, high: float, steps: int = 5, whole: bool = False) -> list[float]:
    """Returns about `steps` + 1 round numbers that span low to high, at most two more; `whole` allows no fractions."""
    # A single value still needs an axis around it.
    size = max(abs(low), abs(high))
    if high - low <= 1e-9 * size or size < _LEAST:
        around = size if size >= _LEAST else 1
        low, high = low - around / 2, high + around / 2
    rough = max((high - low) / steps, 1 if whole else 0)
    unit = 10 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= rough and not (whole and factor * unit % 1))
    # Without the slack, rounding would add an empty step at either end.
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f'{number * step:.12g}') for number in range(first, last + 1)]


def _scale(value: float, ticks: list[float], start: float, end: float) -> float:
    """The place of a value where the first tick lies at `start` and the last at `end`, in SVG units."""
    return start + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (end - start)


def _vertical_grid(x: float, text: str, height: float, top: float = TOP) -> str:
    """A grid line from `top` down, with its number under it, in a picture of `height`."""
    return (f'<path class="grid" d="M{x:.1f} {top}V{height - BOTTOM}"/>'
            f'<text x="{x:.1f}" y="{height - BOTTOM + 18}" text-anchor="middle">{text}</text>')


def _color(number: int) -> str:
    """The CSS colour of the series with this number, from 0."""
    return f'var(--series-{number % COLORS})'


def _escape(text: str) -> str:
    """The text, safe inside an element or a quoted attribute."""
    return html.escape(str(text))
