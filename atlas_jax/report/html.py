"""Writes a report as one HTML file: style and charts inside, nothing loaded from elsewhere, light and dark."""

import html
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from atlas_jax.io import atomic
from atlas_jax.metrics import answers as answer_metrics
from atlas_jax.report import charts

Passage = tuple[str, str, float, float]  # title, text, score, attention from 0 to 1
_NUMBER = ' class="number"'
_INTERVAL = re.compile(r'^[+-]?[\d.]+ to [+-]?[\d.]+$')
# Light and dark; text has a contrast of at least 4.5 to 1 (WCAG AA). charts.py draws with --series-0 to --series-5.
_STYLE = """\
:root {
  color-scheme: light dark;
  --page: #fbfaf8; --card: #ffffff; --ink: #1d2430; --soft: #55606f; --rule: #d9dde3; --right: #1b6e3c; --wrong: #a32a1f;
  --series-0: #1f5fa8; --series-1: #c2570c; --series-2: #1b7a4b; --series-3: #8a2f8f; --series-4: #7a5c00; --series-5: #b02a50;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14181f; --card: #1c222b; --ink: #e8ebf0; --soft: #a8b2c0; --rule: #38414d; --right: #6fce94; --wrong: #ff9a8f;
    --series-0: #7db4f5; --series-1: #f2a566; --series-2: #74d1a1; --series-3: #dd96e2; --series-4: #e0c15c; --series-5: #f58fae;
  }
}
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 46rem; margin: 0 auto; padding: 2rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; border-bottom: 1px solid var(--rule); padding-bottom: .3rem; }
h3 { font-size: 1.05rem; margin: 1.75rem 0 .5rem; }
.question { font-weight: 600; margin: 0; }
h1, h2, h3, p, summary, figcaption { overflow-wrap: anywhere; }
small { color: var(--soft); font-weight: normal; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; font-size: .95rem; }
th, td { text-align: left; padding: .4rem .7rem; border-bottom: 1px solid var(--rule); }
th { color: var(--soft); font-weight: 600; }
th.number, td.number { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 1.25rem 0; padding: .9rem; background: var(--card); border: 1px solid var(--rule); border-radius: .5rem; }
figcaption { font-weight: 600; margin-bottom: .4rem; }
svg { display: block; width: 100%; height: auto; }
svg.narrow { display: none; }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; }
svg text.label, svg text.value { fill: var(--ink); font-size: 13px; }
svg .grid { stroke: var(--rule); fill: none; }
svg .whisker { stroke: var(--ink); stroke-width: 1.5; fill: none; }
article { margin: 1rem 0; padding: .9rem; background: var(--card); border: 1px solid var(--rule); border-radius: .5rem; }
.note { margin: .6rem 0 0; }
.answer { margin: .3rem 0 .6rem; font-size: 1.1rem; }
.right { color: var(--right); }
.wrong { color: var(--wrong); }
details { border-top: 1px solid var(--rule); padding: .4rem 0; }
summary { cursor: pointer; }
details p { margin: .5rem 0 .2rem; font-size: .95rem; }
.meter { display: block; height: 4px; margin-top: .3rem; background: var(--rule); border-radius: 2px; }
.meter span { display: block; height: 100%; background: var(--series-0); border-radius: 2px; }
@media (max-width: 34rem) {
  svg.wide { display: none; }
  svg.narrow { display: block; }
  figure, article { padding: .6rem; }
  table { font-size: .85rem; }
  th, td { padding: .35rem; }
}
"""


class Report:
    """A page that collects sections, text, tables, charts and answers in order. All text is escaped."""

    def __init__(self, title: str):
        self._title = title
        self._parts: list[str] = []
        self._headings: list[tuple[int, str]] = []  # that nothing stands under yet: level and title

    def section(self, title: str, level: int = 2) -> None:
        """Starts a section, or at level 3 a part of one; one that gets nothing is not shown."""
        self._headings = [(above, other) for above, other in self._headings if above < level] + [(level, title)]

    def paragraph(self, text: str) -> None:
        """Adds a paragraph."""
        self._add(f'<p>{html.escape(text)}</p>')

    def table(self, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Adds a table; numbers are aligned right, floats have three decimals. Raises ValueError for a row unlike the header."""
        for row in rows:
            if len(row) != len(header):
                raise ValueError(f'table row {list(row)!r} has {len(row)} cells, the header {len(header)}')
        # A column is set right if all of its cells are numbers, so that digits stand under digits.
        numeric = [bool(rows) and all(_is_number(row[column]) for row in rows) for column in range(len(header))]
        head = ''.join(f'<th scope="col"{_NUMBER if number else ""}>{html.escape(str(cell))}</th>'
                       for cell, number in zip(header, numeric, strict=True))
        body = ''.join(f'<tr>{"".join(_cell(cell) for cell in row)}</tr>' for row in rows)
        # Where it is scrolled sideways, the keyboard must reach it.
        self._add(f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')

    def line_chart(self, title: str, x_label: str, y_label: str, series: charts.Series) -> None:
        """Adds a chart of lines, name -> (xs, ys). Raises ValueError as `charts.line_chart`."""
        self._figure(title, lambda width: charts.line_chart(title, x_label, y_label, series, width))

    def bar_chart(self, title: str, label: str, bars: Mapping[str, float], standard_errors: Mapping[str, float] | None = None) -> None:
        """Adds horizontal bars, name -> value, with whiskers of one standard error where given."""
        self._figure(title, lambda width: charts.bar_chart(title, label, bars, standard_errors, width))

    def answer_card(self, question: str, expected: str | Sequence[str], answers: Mapping[str, tuple[str, Sequence[Passage]]]) -> None:
        """Adds a question with answers to it, judged as the exact-match metric judges them.

        Args:
          question: as it was asked.
          expected: the right answer, or several.
          answers: what is said of an answer, such as whose it is -> the answer as it was generated, and the passages read.
        """
        accepted = [expected] if isinstance(expected, str) else list(expected)
        shown = ''.join(_answer(note, answer, accepted, passages) for note, (answer, passages) in answers.items())
        self._add(f'<article><p class="question">{html.escape(question)}</p>{shown}</article>')

    def as_text(self) -> str:
        """Returns the page."""
        title = html.escape(self._title)
        return ('<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
                '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
                f'<title>{title}</title>\n<style>\n{_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n'
                + '\n'.join(self._parts) + '\n</main>\n</body>\n</html>\n')

    def write(self, path: str | os.PathLike) -> None:
        """Writes the page, atomically. Raises DiskFullError."""
        with atomic.writing(path) as file:
            file.write(self.as_text())

    def _add(self, part: str) -> None:
        self._parts += [f'<h{level}>{html.escape(title)}</h{level}>' for level, title in self._headings]
        self._parts.append(part)
        self._headings = []

    def _figure(self, title: str, draw: Callable[[int], str]) -> None:
        # Drawn twice: scaled down to a phone, letters of the wide one could not be read. The style shows one.
        drawn = draw(charts.WIDTH) + draw(charts.NARROW)
        self._add(f'<figure><figcaption>{html.escape(title)}</figcaption>{drawn}</figure>')


def _cell(value: Any) -> str:
    if _is_number(value):
        # Metrics are shares or losses, for which three decimals are enough; counts have their thousands set apart.
        return f'<td{_NUMBER}>{value:.3f}</td>' if isinstance(value, float) else f'<td{_NUMBER}>{value:,}</td>'
    # An interval in one line: on a phone it would take three.
    text = _INTERVAL.sub(lambda found: found[0].replace(' ', '\N{NO-BREAK SPACE}'), str(value))
    return f'<td>{html.escape(text)}</td>'


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _answer(note: str, answer: str, accepted: Sequence[str], passages: Sequence[Passage]) -> str:
    right = bool(accepted) and answer_metrics.exact_match(answer, accepted)
    first = html.escape(accepted[0]) if accepted else ''
    verdict = '<b class="right">✓ right</b>' if right else f'<b class="wrong">✗ expected</b> {first}'
    said = f'<p class="note"><small>{html.escape(note)}</small></p>' if note else ''
    return (f'{said}<p class="answer">{html.escape(answer) or "(no answer)"} <small>{verdict}</small></p>'
            + ''.join(_passage(*passage) for passage in passages))


def _passage(title: str, text: str, score: float, attention: float) -> str:
    # Rounding may take a share a little below 0 or above 1, and a meter cannot show that.
    percent = min(max(100 * float(attention), 0.0), 100.0)
    return (f'<details><summary>{html.escape(title)} <small>score {float(score):.3f} · read with {percent:.0f} % of the attention'
            f'</small><span class="meter"><span style="width:{percent:.0f}%"></span></span></summary><p>{html.escape(text)}</p></details>')
