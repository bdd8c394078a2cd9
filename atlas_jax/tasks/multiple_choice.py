"""Multiple choice, such as MMLU: the reader names the letter of an option.

Permuting the options cancels the reader's bias for some letters.

Source: Izacard et al. 2022, section 4.2 and appendix A.
"""

import dataclasses
import itertools
import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from atlas_jax import options as checked_options
from atlas_jax.tasks import fields, qa, text_format
from atlas_jax.tasks import task as task_lib

PERMUTATIONS = ('single', 'cyclic', 'all')


@dataclasses.dataclass(frozen=True)
class MultipleChoiceTask(task_lib.PlainTask):
    """Asks a question with lettered options; the target is the letter of the right one.

    Attributes:
      train_permutations: Orders of the options in training: single (as given), cyclic, or all.
      eval_permutations: Orders in evaluation, over which an option's probabilities are averaged.

    Raises ConfigError: another value of the two.
    """

    train_permutations: str = checked_options.option('single', choices=PERMUTATIONS)
    eval_permutations: str = checked_options.option('single', choices=PERMUTATIONS)

    metrics = ('accuracy', 'debiased_accuracy')
    reads = ('question', 'options', 'answer', 'gold_docids', 'passages')
    query_max_tokens = 256  # 94 % of MMLU's questions with their options; 64 would cut two thirds
    asks, label = 'question', 'answer'
    remedy = ('each row needs "question", "options", an object of texts by letters from A on, and '
              '"answer", one of the letters')

    def problem(self, row: dict[str, Any]) -> fields.FieldProblem | None:
        """See task.Task; fields question, options, answer, gold_docids, passages."""
        if wrong := fields.text_problem(row, 'question', self.remedy):
            return wrong
        for name in ('options', 'answer'):
            if name not in row:
                return fields.FieldProblem(name, f'missing, found {", ".join(sorted(row))}',
                                           self.remedy)
        options = row['options']
        if not isinstance(options, dict) or not fields.is_texts([*options.values()]):
            return fields.FieldProblem('options', f'expected an object of texts, found {options!r}',
                                       self.remedy)
        # At most 26 options: the reader answers by a letter.
        if not 2 <= len(options) <= 26 or sorted(options) != list(
                string.ascii_uppercase[:len(options)]):
            found = ', '.join(sorted(options)) or 'none'
            return fields.FieldProblem('options', 'expected the letters from A on, at least two, '
                                       f'found {found}', self.remedy)
        if row['answer'] not in options:
            return fields.FieldProblem('answer', f'expected one of {", ".join(sorted(options))}, '
                                       f'found {row["answer"]!r}', self.remedy)
        return fields.optional_problem(row, (), ('gold_docids',))

    def expand(self, row: dict[str, Any], training: bool) -> list[dict[str, Any]]:
        """Returns the row with its options in every order of the permutations."""
        return permutations(row, self.train_permutations if training else self.eval_permutations)

    def example(self, row: dict[str, Any], example_id: int,
                generator: np.random.Generator | None = None,
                count_tokens: task_lib.CountTokens | None = None) -> task_lib.TaskExample:
        """See task.Task; options keep the row's order.

        A query that is too long loses the beginning of the question, never an option.
        """
        self.check(row, example_id)
        options, letters = row['options'], sorted(row['options'])
        lettered = ' '.join(f'({letter}) {text}' for letter, text in options.items())
        # The original's format, whose scores the tests record.
        kept = f'options: {lettered} answer: <extra_id_0>'
        return task_lib.TaskExample(
            query=f'question: {row["question"].strip()} {kept}', target=_target(row['answer']),
            answers=[row['answer']], example_id=example_id,
            gold_docids=list(row.get('gold_docids', ())), question=row['question'],
            passages=fields.passages(row), choices=tuple(map(_target, letters)),
            options=tuple(options[letter] for letter in letters), kept=kept)


def orderings(size: int, kind: str) -> list[tuple[int, ...]]:
    """Returns orders of `size` options, the given order first.

    `kind` is single (the given order), cyclic (all rotations) or all (every order).
    """
    if kind == 'all':
        return list(itertools.permutations(range(size)))
    # Rotations favour no letter and are far fewer: 4 of the 24 orders of four options.
    rotations = 1 if kind == 'single' else size
    return [tuple((place - shift) % size for place in range(size)) for shift in range(rotations)]


def permutations(row: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """Returns the row with its options in every order.

    The answer is the first letter with the right option's text: of equal texts, either letter is
    right.
    """
    letters = sorted(row['options'])
    texts, right = [row['options'][letter] for letter in letters], row['options'][row['answer']]
    rows = []
    for order in orderings(len(letters), kind):
        permuted = [texts[place] for place in order]
        rows.append({
            **row, 'options': dict(zip(letters, permuted, strict=True)),
            'answer': letters[permuted.index(right)]})
    return rows


@dataclasses.dataclass(frozen=True)
class Marginalized:
    """The probabilities of a question's options over all orders.

    Attributes:
      by_option: Probabilities of each option by text, one per order and option with that text.
      by_letter: Mean probability of each option by its letter in the first order; options of one
        text have the last of their letters.
    """

    by_option: Mapping[str, tuple[float, ...]]
    by_letter: Mapping[str, float]

    @property
    def letter(self) -> str:
        """The letter of the most probable option."""
        return max(self.by_letter, key=self.by_letter.__getitem__)


def marginalize(options: Sequence[Sequence[str]],
                scores: Sequence[Sequence[float]]) -> Marginalized:
    """Averages each option's probability over the orders, and so over its letters.

    Args:
      options: Texts of the options [orders][options], A first; the first order is the row's own.
      scores: Log-probabilities or logits of the letters, [orders][options] float.
    """
    by_option: dict[str, list[float]] = {text: [] for text in options[0]}
    for texts, values in zip(options, scores, strict=True):
        # float64, since close numbers are compared.
        logits = np.asarray(values, np.float64)  # [options]
        probabilities = np.exp(logits - logits.max())  # [options], not normalised
        for text, probability in zip(texts, probabilities / probabilities.sum(), strict=True):
            by_option[text].append(float(probability))
    last_letter = dict(zip(options[0], string.ascii_uppercase, strict=False))
    return Marginalized(
        {text: tuple(values) for text, values in by_option.items()},
        {last_letter[text]: float(np.mean(values)) for text, values in by_option.items()})


def _target(letter: str) -> str:
    return text_format.fill(qa.TARGET_FORMAT, 'target', letter)
