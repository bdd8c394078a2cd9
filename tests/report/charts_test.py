"""Ticks span their values; gaps, negative bars and whiskers are drawn where they belong."""

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from atlas_jax.report import charts


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
@example(0., 5e-324)
@example(5e-324, 5e-324)
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


def test_whole_numbers_have_whole_ticks():
    assert charts.ticks(1, 2, whole=True) == [1, 2] and charts.ticks(1, 10, whole=True) == [0, 2, 4, 6, 8, 10]
    assert charts.ticks(0, 1, 2) == [0, .5, 1]
    assert '>1.5<' not in charts.line_chart('t', 'k', 'y', {'a': ([1, 2], [.1, .2])})
    assert '>1.5<' in charts.line_chart('t', 'x', 'y', {'a': ([1, 2.5], [.1, .2])})


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


def boxes(chart: str):
    """(text, left, right, top, bottom) of every text of a chart, from the number of its letters."""
    root = ElementTree.fromstring(chart)

    def visit(element, down):
        tag = element.tag.rpartition('}')[2]
        shift = re.fullmatch(r'translate\(([\d.]+) ([\d.]+)\)(?: rotate\(-90\))?', element.get('transform', 'translate(0 0)'))
        right, lower = float(shift[1]), float(shift[2])
        if tag == 'text':
            size = 13 if element.get('class') else 12
            width = 0.57 * size * len(element.text)  # system-ui: a digit has .55 of the size, a letter .5 on average
            start = {'middle': width / 2, 'end': width}.get(element.get('text-anchor'), 0)
            x, y = float(element.get('x', 0)), float(element.get('y', 0))
            if 'rotate' in element.get('transform', ''):  # upwards
                yield element.text, right - 0.8 * size, right + size / 4, down + lower + start - width, down + lower + start
            else:
                yield element.text, x - start, x - start + width, down + y - 0.8 * size, down + y + size / 4
        for child in element:
            yield from visit(child, down + (lower if tag == 'g' else 0))

    return list(visit(root, 0.0)), [float(value) for value in root.get('viewBox').split()]


DEMO_BARS = {'with retrieval, trained on 64': (0.71, 0.02), 'edited index: the new holder': (0.62, 0.06),
             'index as it was: the old holder': (0.0, 0.0)}


@pytest.mark.parametrize('width', [charts.WIDTH, charts.NARROW])
@pytest.mark.parametrize(('draw', 'arguments'), [
    (charts.bar_chart, ('t', 'share of questions', {name: mean for name, (mean, _) in DEMO_BARS.items()},
                        {name: error for name, (_, error) in DEMO_BARS.items()})),
    (charts.bar_chart, ('t', 'x', {'a': -123456.0, 'b': -1.23e-5, 'c': math.nan})),
    (charts.bar_chart, ('t', 'x', {'a name that is longer than any chart has room for, and then some more': 1.0, 'b': 123456.0})),
    (charts.bar_chart, ('t', 'x', {'a': math.nan})),
    (charts.line_chart, ('reader loss', 'step', 'loss', {'closed book': ([0, 100000], [0, 1]), 'joint': ([5], [0.00025])})),
    (charts.line_chart, ('t', 'step', 'tokens a second',
                         {f'a series with a name {i}': ([0, 123456], [-0.00025, 0.00025]) for i in range(7)})),
    (charts.line_chart, ('t', 'step', 'y', {'one name that no chart has the room for, however wide the page of a reader is': ([1], [1])})),
], ids=['demo', 'negative', 'long name', 'no value', 'large steps', 'many series', 'long series'])
def test_every_text_lies_inside_the_picture_and_names_do_not_overlap(draw, arguments, width):
    found, (_, _, drawn, height) = boxes(draw(*arguments, width=width))
    assert found and drawn == width
    for text, left, right, top, bottom in found:
        assert 0 <= left and right <= width and 0 <= top and bottom <= height, text
    for number, (text, left, right, top, bottom) in enumerate(found):
        for other, *box in found[number + 1:]:
            apart = right <= box[0] or box[1] <= left or bottom <= box[2] or box[3] <= top
            assert apart, f'{text} lies over {other}'
