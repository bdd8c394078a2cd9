"""The parts that pages have in common, made from figures, rows of results and rows of a run's metrics; one without data adds nothing."""

import statistics
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from atlas_jax.evaluation import figures, results
from atlas_jax.evaluation.results import Row
from atlas_jax.report import html

MOST_CARDS = 3
_MOST_POINTS = 300  # of a line; a run has a row a step
_MOST_PASSAGES = 3  # of a card
_RATES = ('learning_rate', 'retriever_learning_rate')
# Charts of a run: title, name of the axis, and which columns of its metrics.
_CURVES: tuple[tuple[str, str, Callable[[str], bool]], ...] = (
    ('Loss of the reader', 'loss', lambda name: name == 'reader_loss'),
    ('Loss of the retriever', 'loss', lambda name: name == 'retriever_loss'),
    ('Loss, all parts together', 'loss', lambda name: name == 'loss'),
    ('Scores while training', 'score', lambda name: name.removeprefix('eval_') in results.METRICS),
    ('Recall while training', 'share of questions', lambda name: name.startswith('eval_') and '_recall_at_' in name),
    ('Perplexity while training', 'perplexity', lambda name: name == 'eval_perplexity'),
    ('Learning rates', 'learning rate', lambda name: name in _RATES),
    ('Retriever and gold scores rank the same passage first', 'share of questions', lambda name: name == 'agreement'),
    ('Age of the index', 'steps', lambda name: name in ('index_age_mean', 'index_age_max')),
    ('Norm of the gradients', 'norm', lambda name: name == 'gradient_norm'))


def curves(page: html.Report, histories: Mapping[str, Sequence[Row]]) -> None:
    """Adds losses, scores, learning rates, agreement and the index's age by step.

    Args:
      page: where to.
      histories: name of a run -> its rows of metrics (metrics.jsonl).
    """
    columns = {run: dict.fromkeys(name for row in history for name in row) for run, history in histories.items()}
    for title, label, is_shown in _CURVES:
        lines = {}
        for run, history in histories.items():
            for name in filter(is_shown, columns[run]):
                points = [(row['step'], row[name]) for row in history if isinstance(row.get(name), int | float)]
                # The run is named only where there are several.
                lines[' '.join([run] * (len(histories) > 1) + [name.removeprefix('eval_').replace('_', ' ')])] = _thinned(points)
        if lines:
            page.line_chart(title, 'step', label, lines)


def means(page: html.Report, found: Mapping[str, Any]) -> None:
    """Adds a table of all means among figures, with their intervals; standard errors say the same and are left out."""
    lines = []
    for name, value in found.items():
        if isinstance(value, int | float) and not name.endswith('stderr'):
            interval = found.get(f'{name}_interval')
            lines.append((name, f'{value:,}' if isinstance(value, int) else f'{value:.4g}',
                          f'{interval[0]:.4g} to {interval[1]:.4g}' if interval else ''))
    if lines:
        page.table(['figure', 'value', '95 % interval'], lines)


def recall(page: html.Report, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Adds recall among the first k passages, a line for each of several figures (`figures.of_rows`), such as before and after training."""
    for kind, what in (('gold', 'a gold passage'), ('answer', 'a passage with an answer')):
        columns = {k: f'{kind}_recall_at_{k}' for k in figures.TOP}
        shares = {name or 'recall': {k: each[column] for k, column in columns.items() if column in each} for name, each in found.items()}
        shares = {name: by_k for name, by_k in shares.items() if by_k}
        if not shares:
            continue
        title = f'Recall: {what} is among the first k'
        if max(map(len, shares.values())) > 1:
            page.line_chart(title, 'k', 'share of questions', {name: ([*by_k], [*by_k.values()]) for name, by_k in shares.items()})
        else:  # a line of one point says less than bars
            page.bar_chart(title.replace('among the first k', 'the first'), 'share of questions',
                           {name: next(iter(by_k.values())) for name, by_k in shares.items()})


def agreement(page: html.Report, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Adds how far retriever and reader agree, a line of a table for each of several figures (`figures.of_agreement`)."""
    names = ('rank_correlation', 'agreement')
    lines = [[run, *(_mean(each, name) for name in names)] for run, each in found.items() if names[0] in each]
    if lines:
        page.paragraph('Rank correlation of the passages\' retrieval scores with the attention that they got, within each question; and '
                       'the share of questions whose best-scored passage got most attention.')
        page.table(['', 'rank correlation', 'same passage first'], lines)


def calibration(page: html.Report, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Adds the reliability diagram and the curve of risk against coverage, a line for each of several figures (`figures.of_confidence`)."""
    found = {name: each for name, each in found.items() if 'reliability' in each}
    if not found:
        return
    if found.keys() != {''}:  # one alone has them among its means
        page.table(['', 'AURC', 'ECE', 'coverage at 95 %'], [[run, *(_mean(each, name) for name in ('aurc', 'ece', 'coverage_at_95'))]
                                                              for run, each in found.items()])
    lines = {name or 'answers': (each['reliability']['confidence'], each['reliability']['right']) for name, each in found.items()}
    page.line_chart('Right answers by confidence', 'confidence', 'share right', {**lines, 'as it should be': ([0, 1], [0, 1])})
    page.line_chart('Wrong answers where only the most confident are given', 'share answered', 'share wrong of these',
                    {name or 'answers': (each['risk_coverage']['coverage'], each['risk_coverage']['risk']) for name, each in found.items()})


def retrieval_and_trust(page: html.Report, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Adds recall, agreement and calibration of several figures, each under its heading."""
    for title, part in (('Retrieval', recall), ('Retriever and reader', agreement), ('Calibration', calibration)):
        page.section(title)
        part(page, found)


def extremes(rows: Sequence[Row], count: int = MOST_CARDS) -> tuple[list[Row], list[Row]]:
    """Returns the worst and the best answers, at most `count` of either: by all metrics in their order, then by confidence.

    A wrong answer is worse, and a right one better, the surer the model was. Equal ones are spread over the file.
    """
    names = figures.metrics_of(rows)
    scored = [row for row in rows if names and row.get('prediction') is not None]

    def order(row: Row, sign: int) -> list[float]:
        return [*(sign * row[name] for name in names), -(row.get('confidence') or 0), spread(row)]

    worst = sorted((row for row in scored if row[names[0]] < 1), key=lambda row: order(row, 1))
    best = sorted((row for row in scored if row[names[0]] > 0), key=lambda row: order(row, -1))
    return worst[:count], best[:count]


def spread(row: Row) -> int:
    """Returns a number that sorts questions as if at random, always alike: the first rows of a sorted file are of one subject."""
    return zlib.crc32(str(row['example_id']).encode())


def examples(page: html.Report, chosen: tuple[Sequence[Row], Sequence[Row]], level: int = 2) -> None:
    """Adds the worst and the best answers that `extremes` chose, with their passages, under headings of a level."""
    for title, rows in zip(('Worst answers', 'Best answers'), chosen, strict=True):
        page.section(title, level)
        for row in rows:
            card(page, {'': row})


def card(page: html.Report, rows: Mapping[str, Row]) -> None:
    """Adds a question with its answers: name of a run, '' where there is one -> its row of results."""
    first = next(iter(rows.values()))
    answers = first.get('answers')
    shown = {}
    for run, row in rows.items():
        said = [f'{name.replace("_", " ")} {row[name]:.2f}' for name in (*figures.metrics_of([row]), 'confidence')
                if row.get(name) is not None]
        passages = [(str(each.get('title', '')), each['text'], float(each.get('score', 0.0)), float(each.get('attention', 0.0)))
                    for each in results.passages_of(row)[:_MOST_PASSAGES]]
        shown[' · '.join([run] * bool(run) + said)] = (str(row.get('prediction') or ''), passages)
    page.answer_card(first['question'], [str(each) for each in answers] if isinstance(answers, list) else '', shown)


def resources(page: html.Report, seconds: Mapping[str, float], peak_bytes: int | None = None) -> None:
    """Adds seconds by part of the work, and the peak of the process's resident memory."""
    if seconds:
        page.table(['', 'seconds'], [*([name, round(float(value), 1)] for name, value in seconds.items()),
                                     *([['together', round(float(sum(seconds.values())), 1)]] if len(seconds) > 1 else [])])
    if peak_bytes is not None:
        page.paragraph(f'Peak memory of this process: {peak_bytes / 2**30:.2f} GiB.')


def steps(page: html.Report, history: Sequence[Row]) -> None:
    """Adds what a run's steps took, in time and in the devices' memory."""
    seconds = [row['seconds'] for row in history if isinstance(row.get('seconds'), int | float)]
    if not seconds:
        return
    lines: list[list[Any]] = [['steps', f'{len(seconds):,}'], ['all steps', f'{sum(seconds):,.1f} s'],
                              ['median step', f'{statistics.median(seconds):.3f} s'],
                              ['longest step (one that compiles)', f'{max(seconds):.1f} s']]
    for name, column, unit in (('reader tokens a second, median', 'reader_tokens_per_second', ''),
                               ('of the devices\' peak FLOP/s, median', 'mfu', ''), ('peak memory of a device', 'hbm_peak_gib', ' GiB')):
        values = [row[column] for row in history if isinstance(row.get(column), int | float)]
        if values:
            value = max(values) if unit else statistics.median(values)
            lines.append([name, f'{value:,.3g}{unit}' if column != 'reader_tokens_per_second' else f'{value:,.0f}'])
    page.table(['', 'measured'], lines)


def _thinned(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Returns (xs, ys) of at most _MOST_POINTS: means of neighbours, which hide no trend as every n-th point may."""
    size = -(-len(points) // _MOST_POINTS)
    parts = [points[start:start + size] for start in range(0, len(points), size)] if points else []
    return [part[-1][0] for part in parts], [sum(y for _, y in part) / len(part) for part in parts]


def _mean(found: Mapping[str, Any], name: str) -> str:
    bounds = found.get(f'{name}_interval')
    return f'{found[name]:.3f}' + (f' ({bounds[0]:.3f} to {bounds[1]:.3f})' if bounds else '')
