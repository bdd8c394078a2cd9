"""What every chart is drawn with: SVG text, no script, no library.

Colours are the page's CSS variables, so charts follow light and dark. Each picture carries a <title> and a <desc> for readers that do not
see it.
"""

import html
import math

WIDTH, HEIGHT = 720, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 44, 48
COLORS = 6  # series colours the page defines, --series-0 to --series-5


def picture(height: float, title: str, description: str, marks: list[str]) -> str:
    """The marks as one <svg> element, WIDTH wide."""
    return (f'<svg role="img" viewBox="0 0 {WIDTH} {height}" xmlns="http://www.w3.org/2000/svg"><title>{escape(title)}</title>'
            f'<desc>{escape(description)}</desc>{"".join(marks)}</svg>')


def empty(title: str) -> str:
    """What stands in for a chart without a finite value."""
    return picture(64, title, 'no data', ['<text x="16" y="36">no data</text>'])


def ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers that span low to high."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    rough = (high - low) / 5
    unit = 10 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f'{number * step:.12g}') for number in range(first, last + 1)]


def scale(value: float, ticks: list[float], start: float, end: float) -> float:
    """The place of a value where the first tick lies at `start` and the last at `end`, in SVG units."""
    return start + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (end - start)


def vertical_grid(x: float, text: str, height: float, top: float = TOP) -> str:
    """A grid line from `top` down, with its number under it, in a picture of `height`."""
    return (f'<path class="grid" d="M{x:.1f} {top}V{height - BOTTOM}"/>'
            f'<text x="{x:.1f}" y="{height - BOTTOM + 18}" text-anchor="middle">{text}</text>')


def color(number: int) -> str:
    """The CSS colour of the series with this number, from 0."""
    return f'var(--series-{number % COLORS})'


def escape(text: str) -> str:
    """The text, safe inside an element or a quoted attribute."""
    return html.escape(str(text))
