"""Computes figures of results: means with standard errors and intervals, and comparisons."""

import collections
import math
from collections.abc import Mapping, Sequence
from typing import Any

from atlas_jax import errors
from atlas_jax.evaluation import results
from atlas_jax.evaluation.results import METRICS, Row
from atlas_jax.metrics import retrieval as retrieval_metrics
from atlas_jax.metrics import risk, statistics
from atlas_jax.tasks import task as task_lib

# Cut-offs of the reported recalls; papers use most of these.
TOP = (1, 2, 5, 10, 20, 50, 100)
_MOST_POINTS = 200  # points of a curve
_MOST_VALUES = 300  # values of a label; with more it is an id, not a group


def metrics_of(rows: Sequence[Row]) -> list[str]:
    """Returns the metrics that every row has, the main one first."""
    # Rows keep the task's order, which has the main metric first.
    return [name for name in (rows[0] if rows else ())
            if name in METRICS and all(name in row for row in rows)]


def of_rows(rows: Sequence[Row], top_k: int | None = None,
            intervals: bool = True) -> dict[str, Any]:
    """Returns figures by name; `stderr` is the standard error of the main metric.

    Args:
      rows: Rows of one index.
      top_k: Largest cut-off of recalls; None is the most passages that a question got.
      intervals: Adds `NAME_interval`, the bounds of the 95 % bootstrap interval, for each mean.
    """
    figures: dict[str, Any] = {}

    def add(name: str, values: Sequence[float], with_error: bool = False) -> None:
        figures[name], error = statistics.mean_and_standard_error(values)
        # A single question has no standard error and no interval.
        if with_error and len(values) > 1:
            # The main metric's is always named `stderr`, whatever the task.
            figures[f'{name}_stderr' if 'stderr' in figures else 'stderr'] = error
        if intervals and len(values) > 1:
            figures[f'{name}_interval'] = list(statistics.bootstrap_interval(values))

    for name in metrics_of(rows):
        add(name, [row[name] for row in rows], with_error=True)
    figures |= _perplexity(rows, intervals)
    for name, values in _correlations(rows).items():
        add(f'correlation_{name}', values)
    figures['questions'] = len(rows)
    if top_k is None:
        top_k = max((row.get('retrieved', 0) for row in rows), default=0)
    for name, values in of_passages(rows, top_k).items():
        add(name, values)
    return figures


def by_label(rows: Sequence[Row],
             names: Sequence[str] = task_lib.LABELS) -> dict[str, dict[str, Any]]:
    """Returns figures by label: those of each value (`values`), and means over values (`macro`).

    Rows without the label are left out, and so are labels of one value or of more than 300.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        groups: dict[str, list[Row]] = collections.defaultdict(list)
        for row in rows:
            if name in row.get('labels', {}):
                groups[str(row['labels'][name])].append(row)
        if not 2 <= len(groups) <= _MOST_VALUES:
            continue
        macro = {}
        for metric in metrics_of(rows):
            values = [[row[metric] for row in group] for group in groups.values()]
            mean = sum(sum(group) / len(group) for group in values) / len(values)
            macro[metric] = {'mean': mean, 'interval': list(statistics.macro_interval(values))}
        found[name] = {'values': {value: of_rows(groups[value]) for value in sorted(groups)},
                       'macro': macro}
    return found


def by_index(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Returns the rows of each index by name, in the order of the file; '' names a single index."""
    found: dict[str, list[Row]] = collections.defaultdict(list)
    for row in rows:
        found[row.get('index_name', '')].append(row)
    return dict(found)


def complete(rows: Sequence[Row], by: Sequence[str] = task_lib.LABELS) -> dict[str, Any]:
    """Returns all figures of a results file: those of its rows, and those `by` label.

    With several indexes, `indexes` has the figures of each, and `exchange` the comparison of each
    with the first.
    """
    parts = by_index(rows)

    def figures(part: Sequence[Row]) -> dict[str, Any]:
        labelled = by_label(part, by)
        found = of_rows(part) | of_agreement(part) | of_confidence(part)
        return found | ({'by': labelled} if labelled else {})

    if len(parts) == 1:
        return figures(rows)
    first = next(iter(parts))
    return {'indexes': {name: figures(part) for name, part in parts.items()},
            'exchange': {name: compared(parts[first], part)
                         for name, part in parts.items() if name != first}}


def of_agreement(rows: Sequence[Row]) -> dict[str, Any]:
    """Returns how far retriever and reader agree on the passages, with bootstrap intervals.

    `rank_correlation` is the mean over questions of Spearman's correlation of the passages'
    retrieval scores with their attention; `agreement` is the share of questions whose best-scored
    passage got most attention. Empty if some rows lack their passages, or no question has two
    passages with different scores and attentions.
    """
    # A part of the questions would give another figure; a resumed evaluation may have the passages
    # of later ones only.
    if any('passages' not in row for row in rows):
        return {}
    correlations, agreements = [], []
    for row in rows:
        pairs = [(each['score'], each['attention']) for each in results.passages_of(row)
                 if {'score', 'attention'} <= each.keys()]
        scores, shares = zip(*pairs, strict=True) if pairs else ((), ())
        if (correlation := retrieval_metrics.rank_correlation(scores, shares)) is not None:
            correlations.append(correlation)
            agreements.append(float(max(pairs)[1] == max(shares)))
    if not correlations:
        return {}
    found: dict[str, Any] = {}
    for name, values in (('rank_correlation', correlations), ('agreement', agreements)):
        found[name] = sum(values) / len(values)
        if len(values) > 1:
            found[f'{name}_interval'] = list(statistics.bootstrap_interval(values))
    return found


def of_confidence(rows: Sequence[Row]) -> dict[str, Any]:
    """Returns the quality of the confidences; empty if a row has no confidence.

    These are `aurc`, `ece` and `coverage_at_95` with bootstrap intervals, and two curves:
    `risk_coverage`, and `reliability`, the share of right answers by confidence in bins of equal
    size. If answers were withheld, `coverage` is the share of the others, and `answered_METRIC`
    their main metric.
    """
    names = metrics_of(rows)
    if not names or any(row.get('confidence') is None for row in rows):
        return {}
    columns = [row['confidence'] for row in rows], [row[names[0]] for row in rows]
    found: dict[str, Any] = {}
    for name, figure in (('aurc', risk.aurc), ('ece', risk.calibration_error),
                         ('coverage_at_95', lambda *pair: risk.coverage_at(0.95, *pair)[0])):
        found[name] = figure(*columns)
        if len(rows) > 1:
            found[f'{name}_interval'] = list(statistics.interval_of(figure, *columns))
    if any(row.get('abstained') for row in rows):
        answered = [row[names[0]] for row in rows if not row.get('abstained')]
        found['coverage'] = len(answered) / len(rows)
        if answered:
            found[f'answered_{names[0]}'], _ = statistics.mean_and_standard_error(answered)
    coverages, risks = risk.risk_coverage(*columns)
    # Always with the last point, the risk of answering all.
    kept = sorted({*range(0, len(risks), -(-len(risks) // _MOST_POINTS)), len(risks) - 1})
    confidences, shares, answers = zip(*risk.reliability(*columns), strict=True)
    return found | {
        'reliability': {'confidence': list(confidences), 'right': list(shares),
                        'answers': list(answers)},
        'risk_coverage': {'coverage': [coverages[i] for i in kept],
                          'risk': [risks[i] for i in kept]}}


def compared(before: Sequence[Row], after: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Compares two runs over the same questions, by each metric and recall that both have.

    Returns:
      By metric: `before`, `after`, `difference` (after - before) with its 95 % bootstrap
      `interval`, and `p_value` of a two-sided randomization test; questions are paired.

    Raises ConfigError: the runs did not answer the same questions, or share no metric.
    """
    pairs = matched(before, after)
    shared = [name for name in metrics_of(before) if name in metrics_of(after)]
    if not shared:
        raise errors.ConfigError('the two results have no metric in common')
    found = {}
    columns = {
        name: ([row[name] for row, _ in pairs], [row[name] for _, row in pairs]) for name in shared}
    for name, (first, second) in (columns | _recalls_of(pairs)).items():
        difference, low, high = statistics.paired_difference(first, second)
        found[name] = {
            'before': sum(first) / len(first), 'after': sum(second) / len(second),
            'difference': difference, 'interval': [low, high],
            'p_value': statistics.paired_p_value(first, second)}
    return found


def _recalls_of(pairs: Sequence[tuple[Row, Row]]) -> dict[str, tuple[list[float], list[float]]]:
    """Returns (before, after) of each recall, per question, up to as many passages as both have."""
    most = min(max((row.get('retrieved', 0) for row in rows), default=0)
               for rows in zip(*pairs, strict=True))
    before, after = (of_passages(rows, most) for rows in zip(*pairs, strict=True))
    # Only if all questions have ranks, since they are paired.
    return {name: (before[name], after[name]) for name in before if '_recall_at_' in name
            and name in after and len(before[name]) == len(after[name]) == len(pairs)}


def matched(before: Sequence[Row], after: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Pairs the rows of the same questions.

    Raises ConfigError: the questions differ.
    """
    theirs = {question_key(row): row for row in after}
    missing = [row for row in before if question_key(row) not in theirs]
    if missing or len(theirs) != len(before):
        first = (f'; the first one that the second lacks is {missing[0]["example_id"]}: '
                 f'"{missing[0]["question"][:60]}"' if missing else '')
        raise errors.ConfigError(f'the two results are not of the same questions ({len(before)} '
                                 f'and {len(after)}){first}; answer the same file with both')
    return [(row, theirs[question_key(row)]) for row in before]


def question_key(row: Row) -> tuple[str, str]:
    """Returns number and text of a question; numbers repeat between files."""
    return str(row['example_id']), row['question']


def _perplexity(rows: Sequence[Row], intervals: bool) -> dict[str, Any]:
    """Returns the loss per token over all targets, and its exponential."""
    # Per token, as in the original, so that longer targets weigh more.
    counted = [row for row in rows if 'nll' in row]
    tokens = sum(row['target_tokens'] for row in counted)
    if not tokens:
        return {}
    loss = sum(row['nll'] for row in counted) / tokens
    figures: dict[str, Any] = {'eval_loss': loss, 'perplexity': _exp(loss)}
    if intervals and len(counted) > 1:
        bounds = statistics.ratio_interval([row['nll'] for row in counted],
                                           [row['target_tokens'] for row in counted])
        figures |= {'eval_loss_interval': list(bounds),
                    'perplexity_interval': [_exp(bound) for bound in bounds]}
    return figures


def _exp(loss: float) -> float:
    return math.exp(min(loss, 700))


def _correlations(rows: Sequence[Row]) -> Mapping[str, list[float]]:
    found: dict[str, list[float]] = collections.defaultdict(list)
    for row in rows:
        for name, value in row.get('correlations', {}).items():
            if value is not None:
                found[name].append(value)
    return found


def of_passages(rows: Sequence[Row], top_k: int) -> dict[str, list[float]]:
    """Returns retrieval metrics by name, one value a question that has ranks."""
    cuts = [k for k in TOP if k <= top_k]
    answered = [row['answer_rank'] for row in rows if 'answer_rank' in row]
    golden = [row for row in rows if 'gold_ranks' in row]
    first = [min(row['gold_ranks'], default=None) for row in golden]
    found: dict[str, list[float]] = {}
    for k in cuts:
        for name, ranks in (('answer', answered), ('gold', first)):
            if ranks:
                found[f'{name}_recall_at_{k}'] = retrieval_metrics.hits_at_k(ranks, k)
    # A rank beyond the top_k counts 0.
    if golden and cuts:
        found['gold_mrr'] = [0.0 if rank is None or rank >= top_k else 1 / (rank + 1)
                             for rank in first]
        if top_k >= 10:
            found['gold_ndcg_at_10'] = [
                retrieval_metrics.ndcg_of_ranks(row['gold_ranks'], len(row['gold_docids']), 10)
                for row in golden]
    return found


def mean_text(values: Sequence[float]) -> str:
    """Returns a mean with its interval as text. Raises ValueError: there are no values."""
    low, high = statistics.bootstrap_interval(values)
    return f'{sum(values) / len(values):.3f} ({low:.3f} to {high:.3f})'
