"""Draws line and bar charts as SVG, without scripts or libraries.

Colours are the page's CSS variables, so that charts follow light and dark mode. Each picture has a
<title> and a <desc> for screen readers.
"""

import html
import math
from collections.abc import Mapping, Sequence

# Sizes in SVG units. The page scales a chart to its width, letters included, so phones need a
# narrow drawing.
WIDTH, NARROW, HEIGHT = 720, 340, 250
LEFT, RIGHT, TOP, BOTTOM = 84, 32, 44, 48
COLORS = 6  # the page defines --series-0 to --series-5
_BAR_TOP, _BAR_STEP = 4, 34  # top margin (bars have no legend) and distance between bars
_NAME_STEP = 18  # additional distance if names stand above their bars
_LETTER = 7.5  # approximate width of a letter at 13 px: SVG text cannot be measured here
_NAMES = 320  # widest bar name in units; longer ones are cut
_LEGEND_STEP = 20  # distance between rows of a legend
_DASHES = ('', '6 3', '2 3', '8 3 2 3')  # for readers who do not see the colours
_LEAST = 1e-300  # smaller numbers count as 0: a fifth of them may underflow
_MOST_DOTS = 40  # lines with more points have no dots, which would hide the line

Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def line_chart(title: str, x_label: str, y_label: str, series: Series, width: int = WIDTH) -> str:
    """Returns a chart of lines as SVG.

    Args:
      title: Title for screen readers.
      x_label, y_label: Labels of the axes.
      series: Name -> (xs, ys). Points that are not finite leave a gap.
      width: WIDTH or NARROW.

    Raises:
      ValueError: xs and ys of a series differ in length.
    """
    points = {name: _points(name, xs, ys) for name, (xs, ys) in series.items()}
    finite = [point for line in points.values() for point in line if _is_finite(point)]
    if not finite:
        return _empty(title, width)
    xs, ys = zip(*finite, strict=True)
    # No fractional ticks for steps or numbers of passages.
    x_ticks = ticks(min(xs), max(xs), _steps(width), whole=all(x == round(x) for x in xs))
    y_ticks = ticks(min(ys), max(ys))

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x, y = point
        return _scale(x, x_ticks, LEFT, width - RIGHT), _scale(y, y_ticks, HEIGHT - BOTTOM, TOP)

    # The axes come first, so that lines are drawn over them.
    marks = _axes(x_label, y_label, x_ticks, y_ticks, width)
    for number, line in enumerate(points.values()):
        for run in _finite_runs(line):
            marks.append(_line(number, list(map(place, run)), with_dots=len(line) <= _MOST_DOTS))
    legend, rows = _legend(list(series), width)
    # A legend of several rows moves the rest down.
    lower, drawn = _LEGEND_STEP * (rows - 1), ''.join(marks)
    marks = [*legend, f'<g transform="translate(0 {lower})">{drawn}</g>' if lower else drawn]
    description = (f'{", ".join(series)}; {x_label} from {x_ticks[0]:g} to {x_ticks[-1]:g}, '
                   f'{y_label} from {y_ticks[0]:g} to {y_ticks[-1]:g}')
    return _picture(width, HEIGHT + lower, title, description, marks)


def _steps(width: int) -> int:
    """Returns the approximate number of steps on an axis."""
    return 5 if width >= WIDTH else 3


def _axes(x_label: str, y_label: str, x_ticks: list[float], y_ticks: list[float],
          width: int) -> list[str]:
    marks = []
    for tick in y_ticks:
        y = _scale(tick, y_ticks, HEIGHT - BOTTOM, TOP)
        marks.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{width - RIGHT}"/>')
        marks.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    marks += [_vertical_grid(_scale(tick, x_ticks, LEFT, width - RIGHT), f'{tick:g}', HEIGHT)
              for tick in x_ticks]
    middle_x, middle_y = (LEFT + width - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    marks.append(f'<text x="{middle_x:.1f}" y="{HEIGHT - 8}" '
                 f'text-anchor="middle">{_escape(x_label)}</text>')
    marks.append(f'<text transform="translate(16 {middle_y:.1f}) rotate(-90)" '
                 f'text-anchor="middle">{_escape(y_label)}</text>')
    return marks


def _line(number: int, run: list[tuple[float, float]], with_dots: bool) -> str:
    color = _color(number)
    path = 'M' + 'L'.join(f'{x:.1f} {y:.1f}' for x, y in run)
    dots = ''.join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{color}"/>'
                   for x, y in run) if with_dots or len(run) == 1 else ''
    return (f'<path fill="none" stroke="{color}" stroke-width="2" stroke-linejoin="round"'
            f'{_dash(number)} d="{path}"/>{dots}')


def _dash(number: int) -> str:
    dash = _DASHES[number % len(_DASHES)]
    return f' stroke-dasharray="{dash}"' if dash else ''


def _legend(names: list[str], width: int) -> tuple[list[str], int]:
    """Returns the marks of a legend, and the number of its rows."""
    # In a narrow picture the legend starts at the edge: right of the axis it would not fit.
    start = float(LEFT if width >= WIDTH else 8)
    marks, x, row = [], start, 0
    for number, name in enumerate(names):
        name = _shortened(name, width - RIGHT - start - 30)
        end = x + 30 + _LETTER * len(name)
        if end > width - RIGHT and x > start:
            end, x, row = end - x + start, start, row + 1
        y = 20 + _LEGEND_STEP * row
        marks.append(f'<path fill="none" stroke="{_color(number)}" stroke-width="3"{_dash(number)} '
                     f'd="M{x:.0f} {y}h24"/>'
                     f'<text class="label" x="{x + 30:.0f}" y="{y + 4}">{_escape(name)}</text>')
        x = end + 24
    return marks, row + 1


def _shortened(name: str, room: float) -> str:
    """Returns the name, cut if it is wider than `room` units."""
    letters = int(room / _LETTER)
    return name if len(name) <= letters else f'{name[:letters - 1]}…'


def _points(name: str, xs: Sequence[float], ys: Sequence[float]) -> list[tuple[float, float]]:
    if len(xs) != len(ys):
        raise ValueError(f'series "{name}" has {len(xs)} x values and {len(ys)} y values: they '
                         'must be as many')
    return [(float(x), float(y)) for x, y in zip(xs, ys, strict=True)]


def _is_finite(point: tuple[float, float]) -> bool:
    return math.isfinite(point[0]) and math.isfinite(point[1])


def _finite_runs(line: list[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    # A gap shows where a loss is not finite; a line across would hide it.
    runs: list[list[tuple[float, float]]] = [[]]
    for point in line:
        if _is_finite(point):
            runs[-1].append(point)
        else:
            runs.append([])
    return [run for run in runs if run]


def bar_chart(title: str, label: str, bars: Mapping[str, float],
              standard_errors: Mapping[str, float] | None = None, width: int = WIDTH) -> str:
    """Returns horizontal bars as SVG, with the value beside each.

    Args:
      title: Title for screen readers.
      label: Label of the axis.
      bars: Name -> value; a value that is not finite is shown as "no value".
      standard_errors: Name -> standard error, drawn as whiskers.
      width: WIDTH or NARROW; the narrow chart has names above their bars.
    """
    standard_errors = standard_errors or {}
    ends = [value + sign * standard_errors.get(name, 0)
            for name, value in bars.items() if math.isfinite(value) for sign in (-1, 1)]
    if not ends:
        return _empty(title, width)
    # The axis always includes zero: bars that begin elsewhere mislead.
    x_ticks = ticks(min(0.0, *ends), max(0.0, *ends), _steps(width))
    above = _NAME_STEP if width < WIDTH else 0
    names = {name: _shortened(name, width - RIGHT if above else _NAMES) for name in bars}
    # Room on the left for names that do not stand above, and on the right for values.
    left = float(RIGHT) if above else max(LEFT, 24 + _LETTER * max(map(len, names.values())))
    right = width - LEFT
    height = _BAR_TOP + (_BAR_STEP + above) * len(bars) + BOTTOM
    marks = [_vertical_grid(_scale(tick, x_ticks, left, right), f'{tick:g}', height, _BAR_TOP)
             for tick in x_ticks]
    for row, (name, value) in enumerate(bars.items()):
        y = _BAR_TOP + (_BAR_STEP + above) * row + above + 6
        at = (f'x="8" y="{y - 5}"' if above
              else f'x="{left - 10:.1f}" y="{y + 15}" text-anchor="end"')
        marks.append(f'<text class="label" {at}>{_escape(names[name])}</text>')
        if not math.isfinite(value):
            marks.append(f'<text x="{left + 6:.1f}" y="{y + 15}">no value</text>')
            continue
        marks += _bar(row, y, value, standard_errors.get(name, 0), x_ticks, (left, right))
    marks.append(f'<text x="{(left + right) / 2:.1f}" y="{height - 8}" '
                 f'text-anchor="middle">{_escape(label)}</text>')
    description = '; '.join(f'{name}: {value:.4g}' for name, value in bars.items())
    return _picture(width, height, title, f'{label}. {description}', marks)


def _bar(row: int, y: float, value: float, error: float, x_ticks: list[float],
         span: tuple[float, float]) -> list[str]:
    # Bars start at zero; those of negative values extend to the left.
    zero, end = _scale(0.0, x_ticks, *span), _scale(value, x_ticks, *span)
    marks = [f'<rect x="{min(zero, end):.1f}" y="{y}" width="{abs(end - zero):.1f}" height="22" '
             f'rx="3" fill="{_color(row)}"/>']
    beside = max(zero, end)
    if error:
        low, high = (_scale(value + sign * error, x_ticks, *span) for sign in (-1, 1))
        beside = max(beside, high)
        marks.append(f'<path class="whisker" d="M{low:.1f} {y + 11}H{high:.1f}M{low:.1f} '
                     f'{y + 6}v10M{high:.1f} {y + 6}v10"/>')
    marks.append(f'<text class="value" x="{beside + 6:.1f}" y="{y + 15}">{value:.3g}</text>')
    return marks


def _picture(width: int, height: float, title: str, description: str, marks: list[str]) -> str:
    """Returns the marks as one <svg> element."""
    return (f'<svg class="{"wide" if width >= WIDTH else "narrow"}" role="img" viewBox="0 0 '
            f'{width} {height}" xmlns="http://www.w3.org/2000/svg"><title>{_escape(title)}</title>'
            f'<desc>{_escape(description)}</desc>{"".join(marks)}</svg>')


def _empty(title: str, width: int) -> str:
    """Returns the picture of a chart without finite values."""
    return _picture(width, 64, title, 'no data', ['<text x="16" y="36">no data</text>'])


def ticks(low: float, high: float, steps: int = 5, whole: bool = False) -> list[float]:
    """Returns about `steps` + 1 round numbers that span low to high, at most two more.

    With `whole` they are whole numbers.
    """
    # A single value gets an axis around it.
    size = max(abs(low), abs(high))
    if high - low <= 1e-9 * size or size < _LEAST:
        around = size if size >= _LEAST else 1
        low, high = low - around / 2, high + around / 2
    rough = max((high - low) / steps, 1 if whole else 0)
    unit = 10 ** math.floor(math.log10(rough))
    step = next(factor * unit
                for factor in (1, 2, 2.5, 5, 10)
                if factor * unit >= rough and not (whole and factor * unit % 1))
    # The slack prevents an empty step at either end from rounding.
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f'{number * step:.12g}') for number in range(first, last + 1)]


def _scale(value: float, ticks: list[float], start: float, end: float) -> float:
    """Returns the position of a value; the first tick is at `start`, the last at `end`."""
    return start + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (end - start)


def _vertical_grid(x: float, text: str, height: float, top: float = TOP) -> str:
    """Returns a grid line from `top` down, with its number below."""
    return (f'<path class="grid" d="M{x:.1f} {top}V{height - BOTTOM}"/>'
            f'<text x="{x:.1f}" y="{height - BOTTOM + 18}" text-anchor="middle">{text}</text>')


def _color(number: int) -> str:
    """Returns the CSS colour of a series, numbered from 0."""
    return f'var(--series-{number % COLORS})'


def _escape(text: str) -> str:
    """Returns the text, safe inside an element or a quoted attribute."""
    return html.escape(str(text))
