"""A report as one HTML file: style and charts inside, nothing loaded from elsewhere, light and dark."""

import html
import os
from collections.abc import Mapping, Sequence
from typing import Any

from atlas_jax.io import atomic
from atlas_jax.metrics import answers as answer_metrics
from atlas_jax.report import bars as bar_charts
from atlas_jax.report import lines, style

_NUMBER = ' class="number"'


class Report:
    """Collects sections, text, tables, charts and answers in order, and writes them as one page. All text is escaped."""

    def __init__(self, title: str):
        self._title = title
        self._parts: list[str] = []

    def section(self, title: str) -> None:
        """Starts a section."""
        self._parts.append(f'<h2>{html.escape(title)}</h2>')

    def paragraph(self, text: str) -> None:
        """Adds a paragraph."""
        self._parts.append(f'<p>{html.escape(text)}</p>')

    def table(self, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Adds a table; numbers are set right, floats with three decimals. Raises ValueError for a row of another width than the header."""
        for row in rows:
            if len(row) != len(header):
                raise ValueError(f'table row {list(row)!r} has {len(row)} cells, the header {len(header)}')
        numeric = [bool(rows) and all(_is_number(row[column]) for row in rows) for column in range(len(header))]
        head = ''.join(f'<th scope="col"{_NUMBER if number else ""}>{html.escape(str(cell))}</th>'
                       for cell, number in zip(header, numeric, strict=True))
        body = ''.join(f'<tr>{"".join(_cell(cell) for cell in row)}</tr>' for row in rows)
        self._parts.append(f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')

    def line_chart(self, title: str, x_label: str, y_label: str, series: lines.Series) -> None:
        """Adds a chart of lines, name -> (xs, ys). Raises ValueError as `lines.line_chart`."""
        self._figure(title, lines.line_chart(title, x_label, y_label, series))

    def bar_chart(self, title: str, label: str, bars: Mapping[str, float], standard_errors: Mapping[str, float] | None = None) -> None:
        """Adds horizontal bars, name -> value, with whiskers of one standard error where given."""
        self._figure(title, bar_charts.bar_chart(title, label, bars, standard_errors))

    def answer_card(self, question: str, answer: str, expected: str | Sequence[str],
                    passages: Sequence[tuple[str, str, float, float]] = ()) -> None:
        """Adds a question with the given answer, the expected one(s), and the passages read: (title, text, score, attention 0 to 1)."""
        accepted = [expected] if isinstance(expected, str) else list(expected)
        right = bool(accepted) and answer_metrics.exact_match(answer, accepted)
        first = html.escape(accepted[0]) if accepted else ''
        verdict = '<b class="right">✓ right</b>' if right else f'<b class="wrong">✗ expected</b> {first}'
        shown = ''.join(_passage(*passage) for passage in passages)
        self._parts.append(f'<article><h3>{html.escape(question)}</h3><p class="answer">{html.escape(answer) or "(no answer)"} '
                           f'<small>{verdict}</small></p>{shown}</article>')

    def write(self, path: str | os.PathLike) -> None:
        """Writes the page, atomically. Raises DiskFullError."""
        title = html.escape(self._title)
        with atomic.writing(path) as file:
            file.write('<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
                       '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
                       f'<title>{title}</title>\n<style>\n{style.STYLE}</style>\n</head>\n'
                       f'<body>\n<main>\n<h1>{title}</h1>\n')
            file.write('\n'.join(self._parts))
            file.write('\n</main>\n</body>\n</html>\n')

    def _figure(self, title: str, chart: str) -> None:
        self._parts.append(f'<figure><figcaption>{html.escape(title)}</figcaption>{chart}</figure>')


def _cell(value: Any) -> str:
    if _is_number(value):
        return f'<td{_NUMBER}>{value:.3f}</td>' if isinstance(value, float) else f'<td{_NUMBER}>{value:,}</td>'
    return f'<td>{html.escape(str(value))}</td>'


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _passage(title: str, text: str, score: float, attention: float) -> str:
    percent = min(max(100 * float(attention), 0.0), 100.0)
    return (f'<details><summary>{html.escape(title)} <small>score {float(score):.3f} · read with {percent:.0f} % of the attention'
            f'</small><span class="meter"><span style="width:{percent:.0f}%"></span></span></summary><p>{html.escape(text)}</p></details>')
