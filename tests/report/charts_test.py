"""Ticks span their values; gaps, negative bars and whiskers are drawn where they belong."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_jax.report import charts


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_ticks_are_few_even_and_span_the_values(first, second):
    low, high = min(first, second), max(first, second)
    ticks = charts.ticks(low, high)
    steps = [later - earlier for earlier, later in zip(ticks, ticks[1:], strict=False)]
    slack = 1e-6 * max(abs(low), abs(high))
    assert 2 <= len(ticks) <= 9 and ticks[0] <= low + slack and ticks[-1] >= high - slack
    assert all(step > 0 for step in steps)


def test_round_ticks():
    assert charts.ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert charts.ticks(3, 3) == [1, 2, 3, 4, 5]


def test_a_gap_splits_a_line_in_two():
    chart = charts.line_chart('t', 'x', 'y', {'a': (range(5), [1, 2, math.nan, 3, 4])})
    assert chart.count('stroke-linejoin') == 2


def test_negative_bars_grow_to_the_left_of_zero():
    chart = charts.bar_chart('t', 'x', {'up': 1.0, 'down': -1.0})
    up, down = (float(part.split('"')[0]) for part in chart.split('<rect x="')[1:])
    assert down < up


def test_a_whisker_reaches_one_standard_error_each_way():
    chart = charts.bar_chart('t', 'x', {'a': 1.0, 'b': 0.5}, {'a': 0.25})
    assert chart.count('class="whisker"') == 1 and 'a: 1; b: 0.5' in chart
    (low, high), = re.findall(r'class="whisker" d="M([\d.]+) \d+H([\d.]+)', chart)
    (left, width), *_ = re.findall(r'<rect x="([\d.]+)" y="\d+" width="([\d.]+)"', chart)
    assert (float(low) + float(high)) / 2 == pytest.approx(float(left) + float(width), abs=0.1)


def test_many_points_have_no_dots_and_one_point_has():
    assert charts.line_chart('t', 'x', 'y', {'a': (range(3), range(3))}).count('<circle') == 3
    assert '<circle' not in charts.line_chart('t', 'x', 'y', {'a': (range(41), range(41))})
    assert charts.line_chart('t', 'x', 'y', {'a': ([7], [5])}).count('<circle') == 1


def test_nothing_to_draw():
    assert 'no data' in charts.line_chart('t', 'x', 'y', {}) and 'no data' in charts.bar_chart('t', 'x', {'a': math.nan})
    with pytest.raises(ValueError, match='"a" has 2 x values and 1 y values'):
        charts.line_chart('t', 'x', 'y', {'a': ([1, 2], [1])})
