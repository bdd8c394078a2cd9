"""Tasks: turn a row of a file into an example, and the reader's text into a plain answer."""

import dataclasses
import itertools
import pathlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from atlas_jax import errors, options
from atlas_jax.corpus import documents
from atlas_jax.corpus.passages import Passage
from atlas_jax.io import file_list, jsonl
from atlas_jax.tasks import fields, text_format

# An evaluation reports its figures by these fields.
LABELS = ('subject', 'group', 'year', 'label')
_LABEL_LENGTH = 100
CountTokens = Callable[[str], int]  # with the reader's tokenizer


@dataclasses.dataclass(frozen=True)
class TaskExample:
    """One example as the models see it.

    Attributes:
      query: Text for retriever and reader, prompt included.
      target: Text that the reader learns to write.
      answers: The right answers, without the target's format; empty if unknown.
      example_id: The row's number, from 0, counted through all examples files; permutations of one
        row share it.
      gold_docids: Docids of passages that hold the answer; empty if unknown.
      question: The question without prompt, as a person asked it.
      passages: The example's own passages, read in place of retrieved ones.
      own_docid: Docid of the passage that the example was made from; it is never retrieved.
      hidden_docids: Docids of other passages that are never retrieved.
      choices: Targets to choose from, as the reader writes them; empty if it writes freely.
      options: Plain texts of `choices`.
      row: The row itself if the task draws at random, so that it can draw again.
      kept: End of the query that is never cut: a long query loses its beginning. '' cuts the end.
      line: Line in its file, from 1; 0 if there is no file.
      file: Its file, or ''.
      labels: Short texts and numbers of the row that the task does not read, such as subject and
        year, and its label.
      evidence: KILT's evidence sets: the pages of each output, '' for a page without an id.
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
    labels: dict[str, str | int] = dataclasses.field(default_factory=dict, repr=False,
                                                     compare=False)
    # repr=False: a run's record is made of the repr, and a moved file holds the same examples.
    evidence: tuple[tuple[str, ...], ...] = dataclasses.field(default=(), repr=False, compare=False)
    hidden_docids: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    file: str = dataclasses.field(default='', repr=False, compare=False)


class Task(Protocol):
    """A frozen dataclass of options that turns rows into examples."""

    # model.json holds a task's options, so a task is a dataclass (registry.to_dict).
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    @property
    def draws(self) -> bool:
        """True if examples are drawn at random, so that every epoch has others."""
        ...

    @property
    def asks(self) -> str:
        """The field that holds a plain question."""
        ...

    @property
    def label(self) -> str:
        """The field with the right answer. Without it there are no target and no answers."""
        ...

    @property
    def remedy(self) -> str:
        """The fields that a row needs, in a few words, for messages."""
        ...

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics of its answers (metrics/answers.py), the main one first."""
        ...

    @property
    def reads(self) -> tuple[str, ...]:
        """The fields of a row that the task uses; empty if unknown."""
        ...

    @property
    def query_max_tokens(self) -> int:
        """Default limit of its queries."""
        ...

    @property
    def target_max_tokens(self) -> int:
        """Default limit of its targets."""
        ...

    def problem(self, row: dict[str, Any]) -> fields.FieldProblem | None:
        """Returns the first wrong field of a row, or None."""
        ...

    def expand(self, row: dict[str, Any], training: bool) -> Iterable[dict[str, Any]]:
        """Returns the rows that one row of the file stands for."""
        ...

    def example(self, row: dict[str, Any], example_id: int,
                generator: np.random.Generator | None = None,
                count_tokens: CountTokens | None = None) -> TaskExample | None:
        """Returns the example of one row, or None if the task leaves the row out.

        Args:
          row: Its fields, see docs/tasks.md.
          example_id: The row's number in the file, from 0.
          generator: Source of random choices. None is default_rng(example_id), so that evaluation
            repeats its choices.
          count_tokens: Counts the tokens of a text with the reader's tokenizer; None counts words.

        Raises:
          ConfigError: the row lacks a field, or has one of the wrong type.
        """
        ...

    def answer_text(self, text: str) -> str:
        """Returns the plain answer in a text that the reader wrote."""
        ...


# Apart from Task: a protocol's method bodies are inherited by explicit subclasses only, and a task
# need not be one.
class PlainTask(options.CheckedOptions):
    """The base of most tasks: one row is one example, and nothing is drawn at random."""

    reads: tuple[str, ...] = ()
    query_max_tokens, target_max_tokens = 64, 16  # a question and a short answer

    def __post_init__(self) -> None:
        super().__post_init__()
        text_format.check_formats(self)

    @property
    def draws(self) -> bool:
        """See Task."""
        return False

    def problem(self, row: dict[str, Any]) -> fields.FieldProblem | None:
        """See Task; each task checks its own fields."""
        raise NotImplementedError

    def expand(self, row: dict[str, Any], training: bool) -> Iterable[dict[str, Any]]:
        """See Task: returns the row itself."""
        return [row]

    def check(self, row: dict[str, Any], example_id: int) -> None:
        """Raises ConfigError: names the row's first wrong field."""
        if wrong := self.problem(row):
            raise errors.ConfigError(f'example {example_id}, field "{wrong.field}": {wrong.what}; '
                                     f'{wrong.remedy}')

    def answer_text(self, text: str) -> str:
        """See Task: returns the text without sentinels, with single spaces."""
        return text_format.without_sentinels(text)


def read_examples(paths: file_list.Paths, task: Task, *, training: bool = False,
                  labelled: bool = True, count_tokens: CountTokens | None = None,
                  max_rows: int | None = None) -> list[TaskExample]:
    """Reads JSON-lines files of examples.

    Prints how many rows the task left out, and which fields it does not use.

    Args:
      paths: Files, folders and patterns, see file_list.files_of; one object a line, see
        docs/tasks.md. A row without `filename` gets its file's name.
      task: Turns rows into examples.
      training: Expands rows as for training (permutations of a multiple choice).
      labelled: Refuses rows without a right answer.
      count_tokens: See Task.example.
      max_rows: Reads the first rows of all files together; None reads all.

    Raises:
      InputFileError: no such file, a row lacks a field or has one of the wrong type, or the task
        left out all rows. The message names file, line and field.
    """
    examples: list[TaskExample] = []
    read: Counter[pathlib.Path] = Counter()
    left_out: Counter[pathlib.Path] = Counter()
    unread: dict[pathlib.Path, set[str]] = defaultdict(set)
    reads = {*task.reads, 'filename'} - {'label'}  # FEVER reads its label and is reported by it
    for number, (file, line, row) in enumerate(_rows(paths, max_rows)):
        row = documents.in_our_fields(row)
        unread[file].update(row.keys() - reads.union(LABELS, ('id',)))
        _check_fields(file, line, row, task)
        # A row gives several examples (permutations), one, or none.
        expanded = [task.example(each, number, count_tokens=count_tokens)
                    for each in task.expand(row, training)]
        made = [example for example in expanded if example is not None]
        # Training needs targets; plain questions are answered without.
        if labelled:
            _check_labelled(file, line, made, task)
        labels = {name: value for name, value in row.items()
                  if name not in reads and _is_label(value)}
        examples += [dataclasses.replace(example, line=line, file=str(file), labels=labels)
                     for example in made]
        read[file] += 1
        left_out[file] += not made
    for file, count in read.items():
        if left_out[file]:
            print(f'{file}: {left_out[file]} of {count} rows are too short, or have no section, '
                  'and were left out', flush=True)
        if unread[file] and task.reads:
            print(f'{file}: not read: the fields {", ".join(sorted(unread[file])[:9])}', flush=True)
    # jsonl.read refuses empty files.
    if read and not examples:
        raise errors.InputFileError(file_list.summary(paths),
                                    f'the task left out all of its {read.total()} rows',
                                    remedy='lower min_words, or give longer texts')
    return examples


def _is_label(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _LABEL_LENGTH or (
        isinstance(value, int) and not isinstance(value, bool))


def check_rows(paths: file_list.Paths, task: Task, *, training: bool = False, labelled: bool = True,
               max_rows: int | None = None) -> None:
    """Checks the rows of files as read_examples does, without keeping their examples.

    Raises InputFileError: the same errors as read_examples, except for files of which the task
    leaves out every row: to know that takes the reader's tokenizer.
    """
    for number, (file, line, row) in enumerate(_rows(paths, max_rows)):
        _check_fields(file, line, row, task)
        if labelled:
            made = [task.example(each, number) for each in task.expand(row, training)]
            _check_labelled(file, line, [example for example in made if example], task)


def _rows(paths: file_list.Paths,
          max_rows: int | None) -> Iterator[tuple[pathlib.Path, int, dict[str, Any]]]:
    """Yields (file, line, row). A row without `filename` gets its file's name, for KILT."""
    rows = ((file, line, {'filename': file.name, **row})
            for file in file_list.files_of(paths) for line, row in jsonl.read(file))
    # Rows after the last one asked for are not read: they may be damaged.
    return itertools.islice(rows, max_rows)


def _check_fields(file: pathlib.Path, line: int, row: dict[str, Any], task: Task) -> None:
    if wrong := task.problem(row):
        raise errors.InputFileError(file, wrong.what, line=line, field=wrong.field,
                                    remedy=wrong.remedy)


def _check_labelled(file: pathlib.Path, line: int, examples: Sequence[TaskExample],
                    task: Task) -> None:
    if not all(example.answers for example in examples):
        raise errors.InputFileError(file, 'missing', line=line, field=task.label,
                                    remedy=task.remedy)


def places(examples: Sequence[TaskExample], most: int) -> str:
    """Returns the places of examples for a message, at most `most` of them.

    Examples of one file are named by file and lines, those of several files by file:line.
    """
    if len(files := {example.file for example in examples}) > 1:
        start, found = '', [f'{example.file}:{example.line}' for example in examples]
    else:
        start = ''.join(f'{file}, ' for file in files if file)
        start += 'line ' if examples[0].line else 'example '
        found = [str(example.line or example.example_id) for example in examples]
    # The permutations of one row have the same place.
    found = list(dict.fromkeys(found))
    return start + ', '.join(found[:most]) + (', …' if len(found) > most else '')


def ask(task: Task, question: str, example_id: int) -> TaskExample:
    """Returns the example of a plain question, without answers.

    Raises ConfigError: the task needs more than one text, or a longer one.
    """
    example = task.example({task.asks: question}, example_id)
    if example is None:
        raise errors.ConfigError(f'"{question}" is too short for the task')
    return example


def search_example(task: Task, question: str, example_id: int, with_prompt: bool) -> TaskExample:
    """Returns the example of a question that is only searched for.

    With the prompt it is the example of `ask`, without it the bare question.
    """
    if with_prompt:
        return ask(task, question, example_id)
    return TaskExample(query=question, target='', answers=[], example_id=example_id,
                       question=question)


def generator_for(example_id: int, generator: np.random.Generator | None) -> np.random.Generator:
    """Returns the generator given, or the one that evaluations use for this example."""
    # Seeded by the example's number: a subset of the file is evaluated on the same draws.
    return np.random.default_rng(example_id) if generator is None else generator
