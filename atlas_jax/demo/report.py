"""The demo's findings as a table to print and as an HTML page."""

import dataclasses
import pathlib
import random
from collections.abc import Sequence
from typing import Any

from atlas_jax import evaluate
from atlas_jax.evaluation import figures as figures_lib
from atlas_jax.evaluation import parts
from atlas_jax.metrics import statistics
from atlas_jax.report import html
from atlas_jax.runtime import resources
from atlas_jax.tasks import task as task_lib

_CARDS, _EDITED_CARDS = 8, 4
_PRINTED = 3  # fit a terminal; the page shows more


@dataclasses.dataclass
class Findings:
    """The findings of the demo's parts.

    retrieval, trained: before and after training, on the same questions.
    edited: the questions about office holders who are others in the edited index, answered from that index.
    stale_exact_match, unedited_exact_match: the old holders' names against the answers of the edited index, and of the index as it was.
    edition: the year of the edited index's texts, or 'swapped' if office holders were exchanged in the texts.
    seconds: wall time by part.
    seed: draws the examples that are shown.
    """

    closed_book: evaluate.Evaluation
    retrieval: evaluate.Evaluation
    trained: evaluate.Evaluation
    edited: evaluate.Evaluation
    stale_exact_match: tuple[float, ...]
    unedited_exact_match: tuple[float, ...]
    examples: list[task_lib.TaskExample]
    edited_examples: list[task_lib.TaskExample]
    histories: dict[str, tuple[dict[str, float], ...]]
    replaced_passages: int
    edition: str
    seconds: dict[str, float]
    seed: int = 0

    def recall_at_1(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Returns 1 for each question whose first passage is a gold one and else 0, before and after training."""
        return _gold_first(self.retrieval), _gold_first(self.trained)

    def figures(self) -> dict[str, Any]:
        """Returns the figures that programs read, as JSON values."""
        before, after = self.recall_at_1()
        # Paired by question: before and after training see the same ones.
        difference, low, high = statistics.paired_difference(before, after)
        return {
            'closed_book': _score(self.closed_book), 'retrieval': _score(self.retrieval), 'trained': _score(self.trained),
            'retriever': {'recall_at_1_before': statistics.mean_and_standard_error(before)[0],
                          'recall_at_1_after': statistics.mean_and_standard_error(after)[0],
                          'difference': difference, 'difference_low': low, 'difference_high': high},
            'index_swap': {'new_exact_match': statistics.mean_and_standard_error(self.edited.exact_match)[0],
                           'stale_exact_match': statistics.mean_and_standard_error(self.stale_exact_match)[0],
                           'unedited_exact_match': statistics.mean_and_standard_error(self.unedited_exact_match)[0],
                           'questions': len(self.edited_examples), 'replaced_passages': self.replaced_passages,
                           'edition': self.edition},
            'seconds': {name: round(value, 1) for name, value in self.seconds.items()}}


def _gold_first(evaluation: evaluate.Evaluation) -> tuple[float, ...]:
    return tuple(float(rank == 0) for rank in evaluation.gold_ranks)


def _score(evaluation: evaluate.Evaluation) -> dict[str, Any]:
    mean, stderr = statistics.mean_and_standard_error(evaluation.exact_match)
    return {'exact_match': mean, 'stderr': stderr, 'questions': len(evaluation.exact_match)}


def as_text(findings: Findings, figures: dict[str, Any]) -> str:
    """Returns the table, a few answers with their passages, and the seconds by part."""
    rows = [(name, f'{mean:.3f} ± {stderr:.3f}', count) for name, mean, stderr, count in _scores(figures)]
    width = max(len(name) for name, *_ in rows)
    lines = ['', f'{"exact match ± standard error":>{width + 34}}   questions']
    lines += [f'{name:{width}}  {score:>32}   {count:9}' for name, score, count in rows]
    retriever = figures['retriever']
    lines += ['', f'first passage is a gold one: {retriever["recall_at_1_before"]:.3f} before training, '
              f'{retriever["recall_at_1_after"]:.3f} after ({_difference(retriever)})',
              f'the edited index: {_edition(figures)}; {figures["index_swap"]["replaced_passages"]} passages, no other embedded again', '']
    drawn = draw(findings.trained.exact_match, _PRINTED, findings.seed)
    lines += [_proportion(drawn, findings.trained.exact_match), '']
    for number in drawn:
        lines += [_answer_text(findings, number), '']
    lines += [f'{name:28}{value:7.1f} s' for name, value in findings.seconds.items()]
    lines += [f'{"together":28}{sum(findings.seconds.values()):7.1f} s', '']
    return '\n'.join(lines)


def write(path: pathlib.Path, findings: Findings, figures: dict[str, Any]) -> None:
    """Writes the page atomically. Raises DiskFullError."""
    report = html.Report('Atlas in JAX: the demo')
    report.paragraph('A T5-small reader and a MiniLM retriever, fine-tuned together on 64 questions about the World Factbook, answer '
                     'questions about countries they were not trained on. The questions are mechanical: one template a kind of fact.')
    scores = _scores(figures)
    report.section('Answers')
    report.bar_chart('Exact match', 'share of questions', {name: mean for name, mean, *_ in scores},
                     {name: stderr for name, _, stderr, _ in scores})
    report.table(('setting', 'exact match', 'standard error', 'questions'), scores)
    report.section('Learning')
    parts.curves(report, findings.histories)
    runs = {name: figures_lib.complete(evaluation.rows, ())
            for name, evaluation in (('before training', findings.retrieval), ('after training', findings.trained))}
    report.section('Retrieval')
    parts.recall(report, runs)
    report.paragraph(f'First passage is a gold one: {_difference(figures["retriever"])}.')
    report.section('Retriever and reader')
    parts.agreement(report, runs)
    report.section('Calibration')
    parts.calibration(report, runs)
    report.section('Examples')
    drawn = draw(findings.trained.exact_match, _CARDS, findings.seed)
    report.paragraph(_proportion(drawn, findings.trained.exact_match))
    for number in drawn:
        parts.card(report, {'': findings.trained.rows[number]})
    report.section('After the edit of the index')
    report.paragraph(f'The edited index: {_edition(figures)}.')
    drawn = draw(findings.edited.exact_match, _EDITED_CARDS, findings.seed)
    report.paragraph(_proportion(drawn, findings.edited.exact_match))
    for number in drawn:
        parts.card(report, {'': findings.edited.rows[number]})
    report.section('Seconds and memory')
    parts.resources(report, findings.seconds, resources.peak_bytes())
    report.write(path)


def _edition(figures: dict[str, Any]) -> str:
    edition = figures['index_swap']['edition']
    return 'office holders exchanged in the texts' if edition == 'swapped' else f'government sections as in the edition of {edition}'


def _difference(retriever: dict[str, float]) -> str:
    return (f'paired difference {retriever["difference"]:+.3f}, 95 % interval {retriever["difference_low"]:+.3f} to '
            f'{retriever["difference_high"]:+.3f}')


def _scores(figures: dict[str, Any]) -> list[tuple[str, float, float, int]]:
    """Returns rows of (setting, exact match, standard error, questions)."""
    named = [('closed book, trained on 64', 'closed_book'), ('with retrieval, untrained', 'retrieval'),
             ('with retrieval, trained on 64', 'trained')]
    rows = [(name, *(figures[key][field] for field in ('exact_match', 'stderr', 'questions'))) for name, key in named]
    swap = figures['index_swap']
    for name, key in (('edited index: the new holder', 'new_exact_match'), ('edited index: the old holder', 'stale_exact_match'),
                      ('index as it was: the old holder', 'unedited_exact_match')):
        mean, count = swap[key], swap['questions']
        # The standard error of a share.
        rows.append((name, mean, (mean * (1 - mean) / count) ** 0.5, count))
    return rows


def draw(scores: Sequence[float], count: int, seed: int) -> list[int]:
    """Draws questions at random, right and wrong ones in the proportion of all, and at least one of either kind if there is one.

    Args:
      scores: per question, 1 if it was answered rightly, else 0.
      count: questions drawn, at least 2; all if there are fewer.
      seed: of the draw.

    Returns:
      Numbers of questions, in their order.
    """
    right = [number for number, score in enumerate(scores) if score]
    wrong = [number for number, score in enumerate(scores) if not score]
    count = min(count, len(scores))
    wanted = round(count * len(right) / max(len(scores), 1))
    # One wrong answer tells a reader more than another right one.
    if wrong:
        wanted = min(wanted, count - 1)
    wanted = min(max(wanted, count - len(wrong), 1 if right else 0), len(right))
    generator = random.Random(seed)
    return sorted(generator.sample(right, wanted) + generator.sample(wrong, count - wanted))


def _proportion(drawn: Sequence[int], scores: Sequence[float]) -> str:
    shown = sum(bool(scores[number]) for number in drawn)
    return (f'{len(drawn)} questions drawn at random from {len(scores)}, right and wrong answers in proportion: {shown} of {len(drawn)} '
            f'are right here, {sum(map(bool, scores))} of {len(scores)} in all.')


def _answer_text(findings: Findings, number: int) -> str:
    answer, closed = findings.trained.answers[number], findings.closed_book.answers[number]
    lines = [f'Q: {answer.question}', f'   {answer.text}   (closed book: {closed.text}; expected: {findings.examples[number].answers[0]})']
    lines += [f'   score {passage.score:.2f}, attention {passage.attention:.0%}  {passage.title}: {passage.text[:90]}...'
              for passage in answer.passages]
    return '\n'.join(lines)
