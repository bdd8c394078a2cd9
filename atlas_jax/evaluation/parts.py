"""The parts that pages share: charts, tables and answers of evaluations and runs.

A part without data is empty, and its section is then left out of the page.
"""

import statistics
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from atlas_jax.evaluation import figures, results
from atlas_jax.evaluation.results import Row
from atlas_jax.report import html
from atlas_jax.report.html import Part

MOST_CARDS = 3
_MOST_POINTS = 300  # points of a line; a run has a row a step
_MOST_PASSAGES = 3  # passages of a card
# Charts of a run: title, label of the y axis, and a test for the columns to draw.
_CURVES: tuple[tuple[str, str, Callable[[str], bool]], ...] = (
    ('Loss of the reader', 'loss', lambda name: name == 'reader_loss'),
    ('Loss of the retriever', 'loss', lambda name: name == 'retriever_loss'),
    ('Loss, all parts together', 'loss', lambda name: name == 'loss'),
    ('Scores while training', 'score', lambda name: name.removeprefix('eval_') in results.METRICS),
    ('Recall while training', 'share of questions',
     lambda name: name.startswith('eval_') and '_recall_at_' in name),
    ('Perplexity while training', 'perplexity', lambda name: name == 'eval_perplexity'),
    ('Learning rates', 'learning rate',
     lambda name: name in ('learning_rate', 'retriever_learning_rate')),
    ('Retriever and gold scores rank the same passage first', 'share of questions',
     lambda name: name == 'agreement'),
    ('Age of the index', 'steps', lambda name: name in ('index_age_mean', 'index_age_max')),
    ('Norm of the gradients', 'norm', lambda name: name == 'gradient_norm'))


def curves(histories: Mapping[str, Sequence[Row]]) -> Part:
    """Returns charts of losses, scores, learning rates, agreement and index age by step.

    Args:
      histories: Name of a run -> its rows of metrics (metrics.jsonl).
    """
    columns = {run: dict.fromkeys(name for row in history for name in row)
               for run, history in histories.items()}
    charts = []
    for title, label, is_drawn in _CURVES:
        lines = {}
        for run, history in histories.items():
            for name in filter(is_drawn, columns[run]):
                points = [(row['step'], row[name]) for row in history
                          if isinstance(row.get(name), int | float)]
                words = name.removeprefix('eval_').replace('_', ' ')
                lines[f'{run} {words}' if len(histories) > 1 else words] = _thinned(points)
        if lines:
            charts.append(html.line_chart(title, 'step', label, lines))
    return html.group(*charts)


def means(found: Mapping[str, Any]) -> Part:
    """Returns a table of all means in `found` with their intervals, without standard errors."""
    lines = []
    for name, value in found.items():
        if isinstance(value, int | float) and not name.endswith('stderr'):
            interval = found.get(f'{name}_interval')
            lines.append((name, f'{value:,}' if isinstance(value, int) else f'{value:.4g}',
                          f'{interval[0]:.4g} to {interval[1]:.4g}' if interval else ''))
    return html.table(['figure', 'value', '95 % interval'], lines) if lines else Part('')


def recall(found: Mapping[str, Mapping[str, Any]]) -> Part:
    """Returns charts of recall@k, one line for each set of figures (`figures.of_rows`) by name."""
    charts = []
    for kind, what in (('gold', 'a gold passage'), ('answer', 'a passage with an answer')):
        columns = {k: f'{kind}_recall_at_{k}' for k in figures.TOP}
        shares = {name or 'recall': {k: each[column] for k, column in columns.items()
                                     if column in each}
                  for name, each in found.items()}
        shares = {name: by_k for name, by_k in shares.items() if by_k}
        if not shares:
            continue
        title = f'Recall: {what} is among the first k'
        if max(map(len, shares.values())) > 1:
            charts.append(html.line_chart(
                title, 'k', 'share of questions',
                {name: ([*by_k], [*by_k.values()]) for name, by_k in shares.items()}))
        else:  # bars: a line of one point says less
            charts.append(html.bar_chart(
                title.replace('among the first k', 'the first'), 'share of questions',
                {name: next(iter(by_k.values())) for name, by_k in shares.items()}))
    return html.group(*charts)


def agreement(found: Mapping[str, Mapping[str, Any]]) -> Part:
    """Returns a table of how far retriever and reader agree (`figures.of_agreement`)."""
    names = ('rank_correlation', 'agreement')
    lines = [[run, *(with_interval(each, name) for name in names)]
             for run, each in found.items() if names[0] in each]
    return html.group(
        html.paragraph('Rank correlation of the passages\' retrieval scores with the attention '
                       'that they got, within each question; and the share of questions whose '
                       'best-scored passage got most attention.'),
        html.table(['', 'rank correlation', 'same passage first'], lines)) if lines else Part('')


def calibration(found: Mapping[str, Mapping[str, Any]]) -> Part:
    """Returns the reliability diagram and the risk-coverage curve (`figures.of_confidence`)."""
    found = {name: each for name, each in found.items() if 'reliability' in each}
    if not found:
        return Part('')
    # A single set of figures has these three among its means.
    numbers = Part('') if found.keys() == {''} else html.table(
        ['', 'AURC', 'ECE', 'coverage at 95 %'],
        [[run, *(with_interval(each, name) for name in ('aurc', 'ece', 'coverage_at_95'))]
         for run, each in found.items()])
    reliability = {
        name or 'answers': (each['reliability']['confidence'], each['reliability']['right'])
        for name, each in found.items()}
    risks = {
        name or 'answers': (each['risk_coverage']['coverage'], each['risk_coverage']['risk'])
        for name, each in found.items()}
    return html.group(
        numbers,
        html.line_chart('Right answers by confidence', 'confidence', 'share right',
                        {**reliability, 'as it should be': ([0, 1], [0, 1])}),
        html.line_chart('Wrong answers where only the most confident are given', 'share answered',
                        'share wrong of these', risks))


def retrieval_and_trust(found: Mapping[str, Mapping[str, Any]]) -> Part:
    """Returns recall, agreement and calibration of several sets of figures, each in a section."""
    return html.group(html.section('Retrieval', recall(found)),
                      html.section('Retriever and reader', agreement(found)),
                      html.section('Calibration', calibration(found)))


def extremes(rows: Sequence[Row], count: int = MOST_CARDS) -> tuple[list[Row], list[Row]]:
    """Returns the worst and the best answers, at most `count` each.

    Answers are ordered by all metrics, the main one first, then by confidence: a confident wrong
    answer is the worst. Ties are taken from all over the file.
    """
    names = figures.metrics_of(rows)
    scored = [row for row in rows if names and row.get('prediction') is not None]

    def order(row: Row, sign: int) -> list[float]:
        return [*(sign * row[name] for name in names), -(row.get('confidence') or 0),
                pseudo_random(row)]

    worst = sorted((row for row in scored if row[names[0]] < 1), key=lambda row: order(row, 1))
    best = sorted((row for row in scored if row[names[0]] > 0), key=lambda row: order(row, -1))
    return worst[:count], best[:count]


def pseudo_random(row: Row) -> int:
    """Returns a sort key that shuffles rows reproducibly.

    The first rows of a file often are about the same subject.
    """
    return zlib.crc32(str(row['example_id']).encode())


def examples(chosen: tuple[Sequence[Row], Sequence[Row]], level: int = 2) -> Part:
    """Returns the worst and the best answers that `extremes` chose, with their passages.

    Args:
      chosen: Worst and best rows.
      level: Level of the two headings.
    """
    return html.group(*(
        html.section(title, *(card({'': row}) for row in rows), level=level)
        for title, rows in zip(('Worst answers', 'Best answers'), chosen, strict=True)))


def card(rows: Mapping[str, Row]) -> Part:
    """Returns a question with its answers.

    Args:
      rows: Name of a run ('' for a single one) -> its row of results.
    """
    first = next(iter(rows.values()))
    answers = first.get('answers')
    cards = {}
    for run, row in rows.items():
        scores = [f'{name.replace("_", " ")} {row[name]:.2f}'
                  for name in (*figures.metrics_of([row]), 'confidence')
                  if row.get(name) is not None]
        passages = [(str(each.get('title', '')), each['text'], float(each.get('score', 0.0)),
                     float(each.get('attention', 0.0)))
                    for each in results.passages_of(row)[:_MOST_PASSAGES]]
        note = ' · '.join(filter(None, [run, *scores]))
        cards[note] = str(row.get('prediction') or ''), passages
    accepted = list(map(str, answers)) if isinstance(answers, list) else ''
    return html.answer_card(first['question'], accepted, cards)


def resources(seconds: Mapping[str, float], peak_bytes: int | None = None) -> Part:
    """Returns seconds by part of the work, and the process's peak resident memory."""
    lines = [[name, round(float(value), 1)] for name, value in seconds.items()]
    if len(lines) > 1:
        lines.append(['together', round(float(sum(seconds.values())), 1)])
    return html.group(
        html.table(['', 'seconds'], lines) if lines else Part(''),
        Part('') if peak_bytes is None else html.paragraph(
            f'Peak memory of this process: {peak_bytes / 2**30:.2f} GiB.'))


def steps(history: Sequence[Row]) -> Part:
    """Returns a table of the time and device memory that a run's steps took."""
    seconds = [row['seconds'] for row in history if isinstance(row.get('seconds'), int | float)]
    if not seconds:
        return Part('')
    lines = [['steps', f'{len(seconds):,}'], ['all steps', f'{sum(seconds):,.1f} s'],
             ['median step', f'{statistics.median(seconds):.3f} s'],
             ['longest step (one that compiles)', f'{max(seconds):.1f} s']]
    for name, column, summary, form in (
            ('reader tokens a second, median', 'reader_tokens_per_second', statistics.median,
             '{:,.0f}'),
            ('of the devices\' peak FLOP/s, median', 'mfu', statistics.median, '{:,.3g}'),
            ('peak memory of a device', 'hbm_peak_gib', max, '{:,.3g} GiB')):
        values = [row[column] for row in history if isinstance(row.get(column), int | float)]
        if values:
            lines.append([name, form.format(summary(values))])
    return html.table(['', 'measured'], lines)


def with_interval(found: Mapping[str, Any], name: str) -> str:
    """Returns a mean among figures with its interval, such as "0.500 (0.400 to 0.600)"."""
    bounds = found.get(f'{name}_interval')
    return f'{found[name]:.3f}' + (f' ({bounds[0]:.3f} to {bounds[1]:.3f})' if bounds else '')


def _thinned(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Returns (xs, ys) of at most _MOST_POINTS points.

    Neighbours are averaged: every n-th point on its own may hide a trend.
    """
    size = -(-len(points) // _MOST_POINTS)
    parts = [points[start:start + size] for start in range(0, len(points), size)] if points else []
    return [part[-1][0] for part in parts], [sum(y for _, y in part) / len(part) for part in parts]
