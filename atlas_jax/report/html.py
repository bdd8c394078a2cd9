"""Builds reports as self-contained HTML pages: a title and a list of parts.

Style and charts are inside the file, which loads nothing else and follows light and dark mode.
"""

import html
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NewType

from atlas_jax.io import atomic
from atlas_jax.metrics import answers as answer_metrics
from atlas_jax.report import charts

Passage = tuple[str, str, float, float]  # title, text, score, attention (0 to 1)
Part = NewType('Part', str)  # HTML, its text escaped; '' shows nothing
_NUMBER = ' class="number"'
_INTERVAL = re.compile(r'^[+-]?[\d.]+ to [+-]?[\d.]+$')
# Text has a contrast of at least 4.5 to 1 in both modes (WCAG AA). charts.py uses --series-0 to
# --series-5.
_STYLE = """\
:root {
  color-scheme: light dark;
  --page: #fbfaf8; --card: #ffffff; --ink: #1d2430; --soft: #55606f; --rule: #d9dde3;
  --right: #1b6e3c; --wrong: #a32a1f; --series-0: #1f5fa8; --series-1: #c2570c;
  --series-2: #1b7a4b; --series-3: #8a2f8f; --series-4: #7a5c00; --series-5: #b02a50;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14181f; --card: #1c222b; --ink: #e8ebf0; --soft: #a8b2c0; --rule: #38414d;
    --right: #6fce94; --wrong: #ff9a8f; --series-0: #7db4f5; --series-1: #f2a566;
    --series-2: #74d1a1; --series-3: #dd96e2; --series-4: #e0c15c; --series-5: #f58fae;
  }
}
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 46rem; margin: 0 auto; padding: 2rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; border-bottom: 1px solid var(--rule);
  padding-bottom: .3rem; }
h3 { font-size: 1.05rem; margin: 1.75rem 0 .5rem; }
.question { font-weight: 600; margin: 0; }
h1, h2, h3, p, summary, figcaption { overflow-wrap: anywhere; }
small { color: var(--soft); font-weight: normal; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; font-size: .95rem; }
th, td { text-align: left; padding: .4rem .7rem; border-bottom: 1px solid var(--rule); }
th { color: var(--soft); font-weight: 600; }
th.number, td.number { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 1.25rem 0; padding: .9rem; background: var(--card);
  border: 1px solid var(--rule); border-radius: .5rem; }
figcaption { font-weight: 600; margin-bottom: .4rem; }
svg { display: block; width: 100%; height: auto; }
svg.narrow { display: none; }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; }
svg text.label, svg text.value { fill: var(--ink); font-size: 13px; }
svg .grid { stroke: var(--rule); fill: none; }
svg .whisker { stroke: var(--ink); stroke-width: 1.5; fill: none; }
article { margin: 1rem 0; padding: .9rem; background: var(--card);
  border: 1px solid var(--rule); border-radius: .5rem; }
.note { margin: .6rem 0 0; }
.answer { margin: .3rem 0 .6rem; font-size: 1.1rem; }
.right { color: var(--right); }
.wrong { color: var(--wrong); }
details { border-top: 1px solid var(--rule); padding: .4rem 0; }
summary { cursor: pointer; }
details p { margin: .5rem 0 .2rem; font-size: .95rem; }
.meter { display: block; height: 4px; margin-top: .3rem; background: var(--rule);
  border-radius: 2px; }
.meter span { display: block; height: 100%; background: var(--series-0); border-radius: 2px; }
@media (max-width: 34rem) {
  svg.wide { display: none; }
  svg.narrow { display: block; }
  figure, article { padding: .6rem; }
  table { font-size: .85rem; }
  th, td { padding: .35rem; }
}
"""


def page(title: str, *parts: Part) -> str:
    """Returns a page: a title and the parts below it."""
    name = html.escape(title)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{name}</title>\n<style>\n{_STYLE}</style>\n</head>\n<body>\n<main>\n'
        f'<h1>{name}</h1>\n{group(*parts)}\n</main>\n</body>\n</html>\n')


def write_page(path: str | os.PathLike, title: str, *parts: Part) -> None:
    """Writes a page atomically. Raises DiskFullError."""
    with atomic.writing(path) as file:
        file.write(page(title, *parts))


def group(*parts: Part) -> Part:
    """Returns several parts as one."""
    return Part('\n'.join(filter(None, parts)))


def section(title: str, *parts: Part, level: int = 2) -> Part:
    """Returns parts under a heading, or '' if all of them are empty."""
    body = group(*parts)
    return Part(f'<h{level}>{html.escape(title)}</h{level}>\n{body}' if body else '')


def paragraph(text: str) -> Part:
    """Returns a paragraph."""
    return Part(f'<p>{html.escape(text)}</p>')


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Part:
    """Returns a table. Columns of numbers are aligned right; floats have three decimals.

    Raises ValueError: a row has more or fewer cells than the header.
    """
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f'table row {list(row)!r} has {len(row)} cells, the header '
                             f'{len(header)}')
    numeric = [bool(rows) and all(map(_is_number, column)) for column in zip(*rows, strict=True)]
    head = ''.join(f'<th scope="col"{_NUMBER if number else ""}>{html.escape(str(cell))}</th>'
                   for cell, number in zip(header, numeric or [False] * len(header), strict=True))
    body = ''.join(f'<tr>{"".join(map(_cell, row))}</tr>' for row in rows)
    # tabindex: a table wider than the screen can then be scrolled by keyboard.
    return Part('<div class="wide" tabindex="0"><table><thead>'
                f'<tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')


def line_chart(title: str, x_label: str, y_label: str, series: charts.Series) -> Part:
    """Returns a line chart of name -> (xs, ys). Raises ValueError: see `charts.line_chart`."""
    return _figure(title, lambda width: charts.line_chart(title, x_label, y_label, series, width))


def bar_chart(title: str, label: str, bars: Mapping[str, float],
              standard_errors: Mapping[str, float] | None = None) -> Part:
    """Returns horizontal bars of name -> value, with whiskers of one standard error."""
    return _figure(title,
                   lambda width: charts.bar_chart(title, label, bars, standard_errors, width))


def answer_card(question: str, expected: str | Sequence[str],
                answers: Mapping[str, tuple[str, Sequence[Passage]]]) -> Part:
    """Returns a question with its answers, judged by the exact-match metric.

    Args:
      question: The question.
      expected: The right answer, or several.
      answers: A note on each answer, such as the run's name -> the generated answer and the
        passages read.
    """
    accepted = [expected] if isinstance(expected, str) else list(expected)
    cards = ''.join(_answer(note, answer, accepted, passages)
                    for note, (answer, passages) in answers.items())
    return Part(f'<article><p class="question">{html.escape(question)}</p>{cards}</article>')


def _figure(title: str, draw: Callable[[int], str]) -> Part:
    # Drawn twice, and the style shows one: the wide drawing scaled down to a phone is unreadable.
    drawings = draw(charts.WIDTH) + draw(charts.NARROW)
    return Part(f'<figure><figcaption>{html.escape(title)}</figcaption>{drawings}</figure>')


def _cell(value: Any) -> str:
    # Metrics are shares or losses, for which three decimals are enough.
    if _is_number(value):
        text = f'{value:.3f}' if isinstance(value, float) else f'{value:,}'
        return f'<td{_NUMBER}>{text}</td>'
    # No line breaks in an interval: on a phone it would take three lines.
    text = _INTERVAL.sub(lambda match: match[0].replace(' ', '\N{NO-BREAK SPACE}'), str(value))
    return f'<td>{html.escape(text)}</td>'


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _answer(note: str, answer: str, accepted: Sequence[str], passages: Sequence[Passage]) -> str:
    right = bool(accepted) and answer_metrics.exact_match(answer, accepted)
    first = html.escape(accepted[0]) if accepted else ''
    verdict = ('<b class="right">✓ right</b>' if right
               else f'<b class="wrong">✗ expected</b> {first}')
    heading = f'<p class="note"><small>{html.escape(note)}</small></p>' if note else ''
    return (f'{heading}<p class="answer">{html.escape(answer) or "(no answer)"} '
            f'<small>{verdict}</small></p>'
            + ''.join(_passage(*passage) for passage in passages))


def _passage(title: str, text: str, score: float, attention: float) -> str:
    # Rounding can leave a share slightly below 0 or above 1, which a meter cannot show.
    percent = min(max(100 * float(attention), 0.0), 100.0)
    return (f'<details><summary>{html.escape(title)} <small>score {float(score):.3f} · read with '
            f'{percent:.0f} % of the attention</small><span class="meter"><span '
            f'style="width:{percent:.0f}%"></span></span></summary>'
            f'<p>{html.escape(text)}</p></details>')
