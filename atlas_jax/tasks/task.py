"""Tasks: a row of a file becomes an example, and the reader's text becomes a plain answer."""

import dataclasses
import os
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Protocol

import numpy as np

from atlas_jax import errors
from atlas_jax.corpus import documents
from atlas_jax.corpus.passages import Passage
from atlas_jax.io import jsonl
from atlas_jax.tasks import fields

CountTokens = Callable[[str], int]  # by the reader's tokenizer, which tasks do not know


@dataclasses.dataclass(frozen=True)
class TaskExample:
    """One example as the models see it.

    query        the text for retriever and reader, prompt included
    target       the text that the reader learns to write
    answers      the right answers, plain, without the target's format; empty if unknown
    example_id   row in the examples file, from 0; the permutations of one row share it
    gold_docids  docids of passages that hold the answer; empty if unknown
    question     the question alone, as a person asked it
    passages     the example's own passages, to be read instead of retrieved ones
    own_docid    docid of the passage that the example was made from; the search must not return it
    choices      targets to choose from, as the reader writes them; empty if it writes freely
    options      the plain text of each of `choices`
    row          the row itself if the task draws at random, so that another generator can make another example
    kept         the end of the query that is never cut: a query that is too long loses its beginning; '' if it loses its end
    line         line of the examples file, from 1; 0 if it is from none
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
    # Not compared: two examples are equal if the models see the same.
    row: dict[str, Any] | None = dataclasses.field(default=None, repr=False, compare=False)
    kept: str = ''
    line: int = dataclasses.field(default=0, compare=False)


class Task(Protocol):
    """A frozen dataclass of options with these members."""

    # A dataclass, so that model.json can hold its options (registry.to_dict).
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    @property
    def draws(self) -> bool:
        """True if an example depends on the generator, so that every epoch makes another one."""
        ...

    @property
    def asks(self) -> str:
        """The field for a plain question."""
        ...

    @property
    def label(self) -> str:
        """The field with the right answer; an example of a row without it has an empty target and no answers."""
        ...

    @property
    def remedy(self) -> str:
        """The fields that a row needs, in a few words."""
        ...

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics of its answers (metrics/answers.py), the main one first."""
        ...

    @property
    def reads(self) -> tuple[str, ...]:
        """The fields of a row that have a use; empty if that is not known."""
        ...

    @property
    def query_max_tokens(self) -> int:
        """The limit of its queries where none is given."""
        ...

    @property
    def target_max_tokens(self) -> int:
        """The limit of its targets where none is given."""
        ...

    def problem(self, row: dict[str, Any]) -> fields.FieldProblem | None:
        """Returns the first wrong field of a row, None if there is none."""
        ...

    def expand(self, row: dict[str, Any], training: bool) -> Iterable[dict[str, Any]]:
        """Returns the rows that one row of the file stands for."""
        ...

    def example(self, row: dict[str, Any], example_id: int, generator: np.random.Generator | None = None,
                count_tokens: CountTokens | None = None) -> TaskExample | None:
        """Returns the example of one row, None if the task leaves it out.

        Args:
          row: its fields, see docs/tasks.md.
          example_id: the row's number in the file, from 0.
          generator: source of the task's random choices; None is default_rng(example_id), so that evaluation always makes the same ones.
          count_tokens: counts a text's tokens by the reader's tokenizer; None counts words.

        Raises:
          ConfigError: the row lacks a field, or has one of the wrong type.
        """
        ...

    def answer_text(self, text: str) -> str:
        """Returns the plain answer in a text that the reader wrote."""
        ...


# Not a default of Task: a protocol's method bodies are inherited only by explicit subclasses, and a task needs not be one.
class PlainTask:
    """The base of most tasks: one row is one example, and nothing is drawn at random."""

    reads: tuple[str, ...] = ()
    query_max_tokens, target_max_tokens = 64, 16  # a question and a short answer

    @property
    def draws(self) -> bool:
        """See Task."""
        return False

    def problem(self, row: dict[str, Any]) -> fields.FieldProblem | None:
        """See Task; each task checks its own fields."""
        raise NotImplementedError

    def expand(self, row: dict[str, Any], training: bool) -> Iterable[dict[str, Any]]:
        """See Task: the row itself."""
        return [row]

    def check(self, row: dict[str, Any], example_id: int) -> None:
        """Raises ConfigError naming the row's first wrong field."""
        if wrong := self.problem(row):
            raise errors.ConfigError(f'example {example_id}, field "{wrong.field}": {wrong.what}; {wrong.remedy}')


def read_examples(path: str | os.PathLike, task: Task, *, training: bool = False, labelled: bool = True,
                  count_tokens: CountTokens | None = None, max_rows: int | None = None) -> list[TaskExample]:
    """Reads a JSON-lines file; example_ids count its rows from 0. Prints how many rows the task left out, and fields that have no use.

    Args:
      path: one object a line, see docs/tasks.md; a row without `filename` gets the file's name.
      task: turns rows into examples.
      training: expands rows as for training (letters of a multiple choice).
      labelled: refuses rows without a right answer.
      count_tokens: see Task.example.
      max_rows: reads the first rows only; None reads all.

    Raises:
      InputFileError: no such file, a row lacks a field or has one of the wrong type, or no row is left. The message names file, line and
        field.
    """
    examples: list[TaskExample] = []
    rows = left_out = 0
    unread: set[str] = set()
    reads = {*task.reads, 'filename', 'id'}  # an id names a row in lists of chosen ones
    for line, row in jsonl.read(path):
        if rows == max_rows:  # before the row is checked: a file may be damaged behind the rows asked for
            break
        row = {'filename': os.path.basename(path), **documents.in_our_fields(row)}  # KILT's answers depend on the name
        unread.update(row.keys() - reads)
        if wrong := task.problem(row):
            raise errors.InputFileError(path, wrong.what, line=line, field=wrong.field, remedy=wrong.remedy)
        # Lazily: a row that is left out costs nothing more.
        expanded = (task.example(each, rows, count_tokens=count_tokens) for each in task.expand(row, training))
        made = [example for example in expanded if example is not None]
        # Training needs targets; plain questions are asked without.
        if labelled and not all(example.answers for example in made):
            raise errors.InputFileError(path, 'missing', line=line, field=task.label, remedy=task.remedy)
        # A row may give several examples (orders of options) or none; ids count rows.
        examples += [dataclasses.replace(example, line=line) for example in made]
        left_out += not made
        rows += 1
    if left_out:
        print(f'{path}: {left_out} of {rows} rows are too short, or have no section, and were left out', flush=True)
    if unread and task.reads:
        print(f'{path}: not read: the fields {", ".join(sorted(unread)[:9])}', flush=True)
    # An empty file has raised in jsonl.read.
    if rows and not examples:
        raise errors.InputFileError(path, f'the task left out all of its {rows} rows', remedy='lower min_words, or give longer texts')
    return examples


def check_rows(path: str | os.PathLike, task: Task, *, training: bool = False, labelled: bool = True, max_rows: int | None = None) -> None:
    """Checks the rows of a file as read_examples does, without keeping their examples.

    Raises InputFileError: as read_examples, but for a file of which a task leaves out every row, which needs the reader's tokenizer.
    """
    for number, (line, row) in enumerate(jsonl.read(path)):
        if number == max_rows:
            break
        row = {'filename': os.path.basename(path), **row}
        if wrong := task.problem(row):
            raise errors.InputFileError(path, wrong.what, line=line, field=wrong.field, remedy=wrong.remedy)
        # A row that the task leaves out needs no label.
        made = [task.example(each, number) for each in task.expand(row, training)] if labelled else []
        if not all(example is None or example.answers for example in made):
            raise errors.InputFileError(path, 'missing', line=line, field=task.label, remedy=task.remedy)


def ask(task: Task, question: str, example_id: int) -> TaskExample:
    """Returns the example of a plain question, without answers. Raises ConfigError: the task needs more than one text, or a longer one."""
    example = task.example({task.asks: question}, example_id)
    if example is None:
        raise errors.ConfigError(f'"{question}" is too short for the task')
    return example


def generator_for(example_id: int, generator: np.random.Generator | None) -> np.random.Generator:
    """Returns the generator given, or the one that every evaluation uses for this example."""
    # By the example's own number, so that a subset of the file is evaluated on the same draws.
    return np.random.default_rng(example_id) if generator is None else generator
