"""Multiple choice, such as MMLU: the reader names the letter of an option. Permuting the letters cancels its bias for some of them.

Source: Izacard et al. 2022, section 4.2 and appendix A.
"""

import dataclasses
import itertools
import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from atlas_jax import errors
from atlas_jax.tasks import fields, qa, text_format
from atlas_jax.tasks import task as task_lib

PERMUTATIONS = ('single', 'cyclic', 'all')
_REMEDY = 'each row needs "question", "options", an object of texts by letters from A on, and "answer", one of the letters'


@dataclasses.dataclass(frozen=True)
class MultipleChoiceTask(task_lib.PlainTask):
    """Asks a question with lettered options; the target is the letter of the right one.

    Attributes:
      train_permutations: the orders of the options in training: single (as given), cyclic, or all.
      eval_permutations: the orders in evaluation; an option's probabilities in all of them are averaged.

    Raises ConfigError: another value of the two.
    """

    train_permutations: str = 'single'
    eval_permutations: str = 'single'

    metrics = ('accuracy', 'debiased_accuracy')
    reads = ('question', 'options', 'answer', 'gold_docids', 'passages')
    query_max_tokens = 256  # 94 % of MMLU's questions with their options; 64 would cut two thirds
    asks, label, remedy = 'question', 'answer', _REMEDY

    def __post_init__(self):
        for name in ('train_permutations', 'eval_permutations'):
            if getattr(self, name) not in PERMUTATIONS:
                raise errors.ConfigError(f'MultipleChoiceTask.{name} is "{getattr(self, name)}"; choose one of {", ".join(PERMUTATIONS)}')

    def problem(self, row: dict[str, Any]) -> fields.FieldProblem | None:
        """See task.Task; fields question, options, answer, gold_docids, passages."""
        if wrong := fields.text_problem(row, 'question', _REMEDY):
            return wrong
        for name in ('options', 'answer'):
            if name not in row:
                return fields.FieldProblem(name, f'missing, found {", ".join(sorted(row))}', _REMEDY)
        options = row['options']
        if not isinstance(options, dict) or not all(isinstance(text, str) for text in options.values()):
            return fields.FieldProblem('options', f'expected an object of texts, found {options!r}', _REMEDY)
        # The reader answers by a letter, so 26 options are the most.
        if not 2 <= len(options) <= 26 or sorted(options) != list(string.ascii_uppercase[:len(options)]):
            found = ', '.join(sorted(options)) or 'none'
            return fields.FieldProblem('options', f'expected the letters from A on, at least two, found {found}', _REMEDY)
        if row['answer'] not in options:
            return fields.FieldProblem('answer', f'expected one of {", ".join(sorted(options))}, found {row["answer"]!r}', _REMEDY)
        return fields.optional_problem(row, (), ('gold_docids',))

    def expand(self, row: dict[str, Any], training: bool) -> list[dict[str, Any]]:
        """Returns the row with its options in every order of train_permutations or eval_permutations."""
        return permutations(row, self.train_permutations if training else self.eval_permutations)

    def example(self, row: dict[str, Any], example_id: int, generator: np.random.Generator | None = None,
                count_tokens: task_lib.CountTokens | None = None) -> task_lib.TaskExample:
        """See task.Task; options keep the row's order. A query that is too long loses the beginning of the question, never an option."""
        self.check(row, example_id)
        options = row['options']
        # The original's format, whose scores the tests record.
        kept = f'options: {" ".join(f"({letter}) {text}" for letter, text in options.items())} answer: <extra_id_0>'
        return task_lib.TaskExample(
            query=f'question: {row["question"].strip()} {kept}', target=_target(row['answer']),
            answers=[row['answer']], example_id=example_id, gold_docids=list(row.get('gold_docids', ())),
            question=row['question'], passages=fields.passages(row), choices=tuple(_target(letter) for letter in sorted(options)),
            options=tuple(options[letter] for letter in sorted(options)), kept=kept)

    def answer_text(self, text: str) -> str:
        """Returns the letter."""
        return text_format.without_sentinels(text)


def orderings(size: int, kind: str) -> list[tuple[int, ...]]:
    """Returns orders of `size` options, the given one first: it alone (single), all rotations (cyclic), or all orders."""
    if kind == 'all':
        return list(itertools.permutations(range(size)))
    # Rotations favour no letter, with far fewer orders than all: 4 of 24 for four options.
    rotations = 1 if kind == 'single' else size
    return [tuple((place - shift) % size for place in range(size)) for shift in range(rotations)]


def permutations(row: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """Returns the row with its options in every order. The answer is the first letter with the right option's text."""
    letters = sorted(row['options'])
    texts, right = [row['options'][letter] for letter in letters], row['options'][row['answer']]
    rows = []
    for order in orderings(len(letters), kind):
        permuted = [texts[place] for place in order]
        # `index` finds the first of equal texts: either letter is right then.
        rows.append({**row, 'options': dict(zip(letters, permuted, strict=True)), 'answer': letters[permuted.index(right)]})
    return rows


@dataclasses.dataclass(frozen=True)
class Marginalized:
    """The probabilities of a question's options over all their orders.

    by_option    each option's probabilities, one for each order (or more, if two options have the same text)
    by_letter    each different option's mean probability, under its last letter in the first order
    """

    by_option: Mapping[str, tuple[float, ...]]
    by_letter: Mapping[str, float]

    @property
    def letter(self) -> str:
        """The letter of the most probable option."""
        return max(self.by_letter, key=self.by_letter.__getitem__)


def marginalize(options: Sequence[Sequence[str]], scores: Sequence[Sequence[float]]) -> Marginalized:
    """Averages each option's probability over the orders, and so over its letters.

    Args:
      options: the options' texts [orders][options], A first; the first order is the row's own.
      scores: the letters' log-probabilities or logits, [orders][options] float.
    """
    by_option: dict[str, list[float]] = {text: [] for text in options[0]}
    for texts, values in zip(options, scores, strict=True):
        # In float64, since this is a comparison of close numbers on the host.
        logits = np.asarray(values, np.float64)  # [options]
        probabilities = np.exp(logits - logits.max())  # [options], not normalised yet
        for text, probability in zip(texts, probabilities / probabilities.sum(), strict=True):
            by_option[text].append(float(probability))
    # Options of the same text are one option, under its last letter.
    last_letter = dict(zip(options[0], string.ascii_uppercase, strict=False))
    return Marginalized({text: tuple(values) for text, values in by_option.items()},
                        {last_letter[text]: float(np.mean(values)) for text, values in by_option.items()})


def _target(letter: str) -> str:
    return text_format.fill('target_format', qa.TARGET_FORMAT, 'target', letter)
