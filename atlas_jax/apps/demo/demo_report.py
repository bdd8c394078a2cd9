"""The demo's findings as a table to print and as an HTML page."""

import dataclasses
import pathlib
import random
from collections.abc import Sequence
from typing import Any

from atlas_jax.evaluation import evaluate, parts
from atlas_jax.evaluation import figures as figures_lib
from atlas_jax.metrics import statistics
from atlas_jax.report import html
from atlas_jax.runtime import resources
from atlas_jax.tasks import task as task_lib

_CARDS, _EDITED_CARDS = 8, 4
_PRINTED = 3  # fits a terminal; the page shows more


@dataclasses.dataclass
class Findings:
    """The findings of the demo's parts.

    Attributes:
      closed_book, retrieval, trained: Evaluations of the same questions: closed book, with
        retrieval before training, and after training.
      edited: The evaluation, from the edited index, of questions whose office holder it changes.
      stale_exact_match, unedited_exact_match: Exact match of the old holders' names with the
        answers from the edited index, and from the unedited index.
      examples, edited_examples: The questions of `trained` and of `edited`.
      histories: The logged values of each training, by name.
      replaced_passages: The number of documents that the edit replaced.
      edition: The year of the edited index's texts; 'swapped' if office holders were exchanged.
      seconds: Wall time by part.
      seed: Seeds the choice of the examples that are shown.
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
        """Returns for each question 1 if its first passage is gold and 0 otherwise, before and
        after training.
        """
        return _gold_first(self.retrieval), _gold_first(self.trained)

    def figures(self) -> dict[str, Any]:
        """Returns the figures as JSON values."""
        before, after = self.recall_at_1()
        # Paired by question: both evaluations have the same questions.
        difference, low, high = statistics.paired_difference(before, after)
        return {
            'closed_book': _score(self.closed_book), 'retrieval': _score(self.retrieval),
            'trained': _score(self.trained), 'retriever': {
                'recall_at_1_before': statistics.mean_and_standard_error(before)[0],
                'recall_at_1_after': statistics.mean_and_standard_error(after)[0],
                'difference': difference, 'difference_low': low, 'difference_high': high},
            'index_swap': {
                'new_exact_match': statistics.mean_and_standard_error(self.edited.exact_match)[0],
                'stale_exact_match': statistics.mean_and_standard_error(self.stale_exact_match)[0],
                'unedited_exact_match': statistics.mean_and_standard_error(
                    self.unedited_exact_match)[0], 'questions': len(self.edited_examples),
                'replaced_passages': self.replaced_passages, 'edition': self.edition},
            'seconds': {name: round(value, 1) for name, value in self.seconds.items()}}


def _gold_first(evaluation: evaluate.Evaluation) -> tuple[float, ...]:
    return tuple(float(rank == 0) for rank in evaluation.gold_ranks)


def _score(evaluation: evaluate.Evaluation) -> dict[str, Any]:
    mean, stderr = statistics.mean_and_standard_error(evaluation.exact_match)
    return {'exact_match': mean, 'stderr': stderr, 'questions': len(evaluation.exact_match)}


def as_text(findings: Findings, figures: dict[str, Any]) -> str:
    """Returns the table, a few answers with their passages, and the seconds of each part."""
    rows = [(name, f'{mean:.3f} ± {stderr:.3f}', count)
            for name, mean, stderr, count in _scores(figures)]
    width = max(len(name) for name, *_ in rows)
    lines = ['', f'{"exact match ± standard error":>{width + 34}}   questions']
    lines += [f'{name:{width}}  {score:>32}   {count:9}' for name, score, count in rows]
    retriever = figures['retriever']
    lines += ['', f'first passage is a gold one: {retriever["recall_at_1_before"]:.3f} before '
              f'training, {retriever["recall_at_1_after"]:.3f} after ({_difference(retriever)})',
              f'the edited index: {_edition(figures)}; '
              f'{figures["index_swap"]["replaced_passages"]} passages replaced, no others embedded '
              'again', '']
    drawn = draw(findings.trained.exact_match, _PRINTED, findings.seed)
    lines += [_proportion(drawn, findings.trained.exact_match), '']
    for number in drawn:
        lines += [_answer_text(findings, number), '']
    lines += [f'{name:28}{value:7.1f} s' for name, value in findings.seconds.items()]
    lines += [f'{"together":28}{sum(findings.seconds.values()):7.1f} s', '']
    return '\n'.join(lines)


def write(path: pathlib.Path, findings: Findings, figures: dict[str, Any]) -> None:
    """Writes the page atomically. Raises DiskFullError."""
    scores = _scores(figures)
    runs = {'before training': figures_lib.complete(findings.retrieval.rows, ()),
            'after training': figures_lib.complete(findings.trained.rows, ())}
    html.write_page(
        path, 'Atlas in JAX: the demo',
        html.paragraph('A T5-small reader and a MiniLM retriever, fine-tuned together on 64 '
                       'questions about the World Factbook, answer questions about countries they '
                       'were not trained on. The questions are mechanical: filled templates for '
                       'each kind of fact.'),
        html.section(
            'Answers',
            html.bar_chart('Exact match', 'share of questions',
                           {name: mean for name, mean, *_ in scores},
                           {name: stderr for name, _, stderr, _ in scores}),
            html.table(('setting', 'exact match', 'standard error', 'questions'), scores)),
        html.section('Learning', parts.curves(findings.histories)),
        html.section(
            'Retrieval', parts.recall(runs),
            html.paragraph(f'First passage is a gold one: {_difference(figures["retriever"])}.')),
        html.section('Retriever and reader', parts.agreement(runs)),
        html.section('Calibration', parts.calibration(runs)),
        html.section('Examples', _cards(findings.trained, _CARDS, findings.seed)),
        html.section('After the edit of the index',
                     html.paragraph(f'The edited index: {_edition(figures)}.'),
                     _cards(findings.edited, _EDITED_CARDS, findings.seed)),
        html.section('Seconds and memory',
                     parts.resources(findings.seconds, resources.peak_bytes())))


def _cards(evaluation: evaluate.Evaluation, count: int, seed: int) -> html.Part:
    drawn = draw(evaluation.exact_match, count, seed)
    return html.group(html.paragraph(_proportion(drawn, evaluation.exact_match)),
                      *(parts.card({'': evaluation.rows[number]}) for number in drawn))


def _edition(figures: dict[str, Any]) -> str:
    edition = figures['index_swap']['edition']
    if edition == 'swapped':
        return 'office holders exchanged in the texts'
    return f'government sections as in the edition of {edition}'


def _difference(retriever: dict[str, float]) -> str:
    return (f'paired difference {retriever["difference"]:+.3f}, 95 % interval '
            f'{retriever["difference_low"]:+.3f} to {retriever["difference_high"]:+.3f}')


def _scores(figures: dict[str, Any]) -> list[tuple[str, float, float, int]]:
    """Returns rows of (setting, exact match, standard error, questions)."""
    named = [('closed book, trained on 64', 'closed_book'),
             ('with retrieval, untrained', 'retrieval'),
             ('with retrieval, trained on 64', 'trained')]
    rows = [(name, *(figures[key][field] for field in ('exact_match', 'stderr', 'questions')))
            for name, key in named]
    swap = figures['index_swap']
    for name, key in (('edited index: the new holder', 'new_exact_match'),
                      ('edited index: the old holder', 'stale_exact_match'),
                      ('index as it was: the old holder', 'unedited_exact_match')):
        mean, count = swap[key], swap['questions']
        # the standard error of a share
        rows.append((name, mean, (mean * (1 - mean) / count) ** 0.5, count))
    return rows


def draw(scores: Sequence[float], count: int, seed: int) -> list[int]:
    """Draws questions at random, with the share of right answers that all questions have. Draws at
    least one right and one wrong answer if they exist.

    Args:
      scores: For each question, 1 if its answer is right and 0 otherwise.
      count: The number of questions to draw, at least 2; fewer if there are fewer.
      seed: Seeds the draw.

    Returns:
      The numbers of the questions, in ascending order.
    """
    right = [number for number, score in enumerate(scores) if score]
    wrong = [number for number, score in enumerate(scores) if not score]
    count = min(count, len(scores))
    wanted = round(count * len(right) / max(len(scores), 1))
    # Keeps one wrong answer, because it tells a reader more than another right one.
    if wrong:
        wanted = min(wanted, count - 1)
    wanted = min(max(wanted, count - len(wrong), 1 if right else 0), len(right))
    generator = random.Random(seed)
    return sorted(generator.sample(right, wanted) + generator.sample(wrong, count - wanted))


def _proportion(drawn: Sequence[int], scores: Sequence[float]) -> str:
    shown = sum(bool(scores[number]) for number in drawn)
    return (f'{len(drawn)} questions drawn at random from {len(scores)}, right and wrong answers '
            f'in proportion: {shown} of {len(drawn)} are right here, '
            f'{sum(map(bool, scores))} of {len(scores)} in all.')


def _answer_text(findings: Findings, number: int) -> str:
    answer, closed = findings.trained.answers[number], findings.closed_book.answers[number]
    lines = [f'Q: {answer.question}', f'   {answer.text}   (closed book: {closed.text}; expected: '
                                      f'{findings.examples[number].answers[0]})']
    lines += [f'   score {passage.score:.2f}, attention {passage.attention:.0%}  {passage.title}: '
              f'{passage.text[:90]}...'
              for passage in answer.passages]
    return '\n'.join(lines)
