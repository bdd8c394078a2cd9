"""What a task is: one row of a file becomes one example, and what the reader writes becomes a plain answer."""

import dataclasses
import os
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np

from atlas_jax import errors
from atlas_jax.corpus.passages import Passage
from atlas_jax.io import jsonl

Problem = tuple[str, str, str]  # the wrong field, what is wrong with it, what to do
CountTokens = Callable[[str], int]


@dataclasses.dataclass(frozen=True)
class TaskExample:
    """One example as the models see it.

    query        what retriever and reader are asked, the prompt included
    target       what the reader learns to write
    answers      what counts as right, plain answers without the target's format; empty where not known
    example_id   row in the examples file, from 0; the permutations of one row share it
    gold_docids  docids of passages that hold the answer; empty where not known
    question     the question alone, as a person put it
    passages     the example's own passages, to be read instead of retrieved ones
    own_docid    docid of the passage that the example was made of, which must not be retrieved for it
    choices      targets to choose one of, as the reader writes them; empty where it writes freely
    options      the plain text behind each of `choices`
    row          the row itself, where the task draws: another generator then makes another example of it
    cut_front    whether a query that is too long loses its beginning, not its end
    """

    query: str
    target: str
    answers: list[str]
    example_id: int
    gold_docids: list[str] = dataclasses.field(default_factory=list)
    question: str = ''
    passages: tuple[Passage, ...] = ()
    own_docid: str | None = None
    choices: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    row: dict[str, Any] | None = dataclasses.field(default=None, repr=False, compare=False)
    cut_front: bool = False


class Task(Protocol):
    """A frozen dataclass of options with these members.

    draws    whether an example depends on the generator, so that every epoch makes another one
    asks     the field that a plain question goes into
    label    the field that says what is right; where it is missing the example's target is empty and it has no answers
    remedy   what a row needs, in a few words
    metrics  names of the metrics that tell how good its answers are (metrics/answers.py), the main one first
    """

    draws: bool
    asks: str
    label: str
    remedy: str
    metrics: tuple[str, ...]

    def problem(self, row: dict[str, Any]) -> Problem | None:
        """The first wrong field of a row; None where all is well."""
        ...

    def expand(self, row: dict[str, Any], training: bool) -> Iterable[dict[str, Any]]:
        """The rows that one row of the file stands for."""
        ...

    def example(self, row: dict[str, Any], example_id: int, generator: np.random.Generator | None = None,
                count_tokens: CountTokens | None = None) -> TaskExample | None:
        """The example of one row; None for one that the task leaves out.

        Args:
          row: see docs/tasks.md.
          example_id: row in the file, from 0.
          generator: where the task draws; None is default_rng(example_id), so that evaluation always draws the same.
          count_tokens: of a text, by the reader's tokenizer; None counts words.

        Raises:
          ConfigError: the row lacks a field, or has one of the wrong kind.
        """
        ...

    def answer_text(self, text: str) -> str:
        """The plain answer in a text that the reader wrote."""
        ...


class PlainTask:
    """What most tasks share: nothing is drawn, one row is one example."""

    draws = False

    def expand(self, row: dict[str, Any], training: bool) -> Iterable[dict[str, Any]]:
        """See Task: the row itself."""
        return (row,)

    def check(self, row: dict[str, Any], example_id: int) -> None:
        """Raises ConfigError naming the row's first wrong field."""
        if wrong := self.problem(row):
            raise errors.ConfigError(f'example {example_id}, field "{wrong[0]}": {wrong[1]}; {wrong[2]}')


def read_examples(path: str | os.PathLike, task: Task, *, training: bool = False, labelled: bool = True,
                  count_tokens: CountTokens | None = None, max_rows: int | None = None) -> list[TaskExample]:
    """Reads a JSON-lines file; example_ids count its rows from 0. Says how many rows the task left out.

    Args:
      path: one object a line, see docs/tasks.md; the file's name goes with every row as `filename`, unless the row has one.
      task: what the rows are for.
      training: whether rows expand as for training (letters of a multiple choice).
      labelled: whether every row must say what is right.
      count_tokens: see Task.example.
      max_rows: the first so many rows only.

    Raises InputFileError naming file, line and field where a row lacks a field or has one of the wrong kind, and where no row is left.
    """
    examples, rows, left_out = [], 0, 0
    for line, row in jsonl.read(path):
        if rows == max_rows:
            break
        row = {'filename': os.path.basename(path), **row}
        if wrong := task.problem(row):
            raise errors.InputFileError(path, wrong[1], line=line, field=wrong[0], remedy=wrong[2])
        made = [task.example(expanded, rows, count_tokens=count_tokens) for expanded in task.expand(row, training)]
        made = [example for example in made if example is not None]
        if labelled and not all(example.answers for example in made):
            raise errors.InputFileError(path, 'missing', line=line, field=task.label, remedy=task.remedy)
        examples += made
        left_out += not made
        rows += 1
    if left_out:
        print(f'{path}: {left_out} of {rows} rows are too short, or have no section, and were left out', flush=True)
    if rows and not examples:
        raise errors.InputFileError(path, f'the task left out all of its {rows} rows', remedy='lower min_words, or give longer texts')
    return examples


def ask(task: Task, question: str, example_id: int) -> TaskExample:
    """The example of a plain question, without answers. Raises ConfigError for a task that needs more than one text."""
    example = task.example({task.asks: question}, example_id)
    if example is None:
        raise errors.ConfigError(f'"{question}" is too short for the task')
    return example


def generator_for(example_id: int, generator: np.random.Generator | None) -> np.random.Generator:
    """The generator given, or the one that every evaluation draws this example with."""
    return np.random.default_rng(example_id) if generator is None else generator
