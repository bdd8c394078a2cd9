import math

from hypothesis import given
from hypothesis import strategies as st

from atlas_jax.report import bars, lines, svg


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_ticks_are_few_even_and_span_the_values(first, second):
    low, high = min(first, second), max(first, second)
    ticks = svg.ticks(low, high)
    steps = [later - earlier for earlier, later in zip(ticks, ticks[1:], strict=False)]
    slack = 1e-6 * max(abs(low), abs(high))
    assert 2 <= len(ticks) <= 9 and ticks[0] <= low + slack and ticks[-1] >= high - slack
    assert all(step > 0 for step in steps)


def test_round_ticks():
    assert svg.ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert svg.ticks(3, 3) == [1, 2, 3, 4, 5]


def test_a_gap_splits_a_line_in_two():
    chart = lines.line_chart('t', 'x', 'y', {'a': (range(5), [1, 2, math.nan, 3, 4])})
    assert chart.count('stroke-linejoin') == 2


def test_negative_bars_grow_to_the_left_of_zero():
    chart = bars.bar_chart('t', 'x', {'up': 1.0, 'down': -1.0})
    up, down = (float(part.split('"')[0]) for part in chart.split('<rect x="')[1:])
    assert down < up
