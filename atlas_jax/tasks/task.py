"""Tasks: a row of a file becomes an example, and the reader's text becomes a plain answer."""

import dataclasses
import itertools
import pathlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from atlas_jax import errors
from atlas_jax.corpus import documents
from atlas_jax.corpus.passages import Passage
from atlas_jax.io import file_list, jsonl
from atlas_jax.tasks import fields

# Fields of any row by which an evaluation reports its figures.
LABELS = ('subject', 'group', 'year', 'label')
_LABEL_LENGTH = 100
CountTokens = Callable[[str], int]  # by the reader's tokenizer, which tasks do not know


@dataclasses.dataclass(frozen=True)
class TaskExample:
    """One example as the models see it.

    query        the text for retriever and reader, prompt included
    target       the text that the reader learns to write
    answers      the right answers, plain, without the target's format; empty if unknown
    example_id   row in the examples files, from 0, counted through all of them; the permutations of one row share it
    gold_docids  docids of passages that hold the answer; empty if unknown
    question     the question alone, as a person asked it
    passages     the example's own passages, to be read instead of retrieved ones
    own_docid    docid of the passage that the example was made from; the search must not return it
    hidden_docids  docids of other passages that the search must not return
    choices      targets to choose from, as the reader writes them; empty if it writes freely
    options      the plain text of each of `choices`
    row          the row itself if the task draws at random, so that another generator can make another example
    kept         the end of the query that is never cut: a query that is too long loses its beginning; '' if it loses its end
    line         line of its file, from 1; 0 if it is from none
    file         the file; '' if it is from none
    labels       what the row says of itself, such as subject and year: short texts and numbers that the task does not read, and its label
    evidence     of KILT: each output's pages, '' where one is not named
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
    labels: dict[str, str | int] = dataclasses.field(default_factory=dict, repr=False, compare=False)
    # Not shown: the record of a run is made of what is shown, and a file that was moved holds the same examples.
    evidence: tuple[tuple[str, ...], ...] = dataclasses.field(default=(), repr=False, compare=False)
    hidden_docids: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    file: str = dataclasses.field(default='', repr=False, compare=False)


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


def read_examples(paths: file_list.Paths, task: Task, *, training: bool = False, labelled: bool = True,
                  count_tokens: CountTokens | None = None, max_rows: int | None = None) -> list[TaskExample]:
    """Reads JSON-lines files; example_ids count their rows from 0. Prints how many rows the task left out, and fields that have no use.

    Args:
      paths: files, folders and patterns, as file_list.files_of takes them; one object a line, see docs/tasks.md. A row without `filename`
        gets its file's name.
      task: turns rows into examples.
      training: expands rows as for training (letters of a multiple choice).
      labelled: refuses rows without a right answer.
      count_tokens: see Task.example.
      max_rows: reads the first rows of all files together only; None reads all.

    Raises:
      InputFileError: no such file, a row lacks a field or has one of the wrong type, or no row is left. The message names file, line and
        field.
    """
    examples: list[TaskExample] = []
    read: Counter[pathlib.Path] = Counter()
    left_out: Counter[pathlib.Path] = Counter()
    unread: dict[pathlib.Path, set[str]] = defaultdict(set)
    reads = {*task.reads, 'filename'} - {'label'}  # a class is both: FEVER is reported by it
    for number, (file, line, row) in enumerate(_rows(paths, max_rows)):
        row = documents.in_our_fields(row)
        unread[file].update(row.keys() - reads.union(LABELS, ('id',)))
        _check_fields(file, line, row, task)
        # Lazily: a row that is left out costs nothing more.
        expanded = (task.example(each, number, count_tokens=count_tokens) for each in task.expand(row, training))
        made = [example for example in expanded if example is not None]
        # Training needs targets; plain questions are asked without.
        if labelled and not all(example.answers for example in made):
            raise errors.InputFileError(file, 'missing', line=line, field=task.label, remedy=task.remedy)
        # A row may give several examples (orders of options) or none; ids count rows.
        labels = {name: value for name, value in row.items() if name not in reads and _is_label(value)}
        examples += [dataclasses.replace(example, line=line, file=str(file), labels=labels) for example in made]
        read[file] += 1
        left_out[file] += not made
    for file, count in read.items():
        if left_out[file]:
            print(f'{file}: {left_out[file]} of {count} rows are too short, or have no section, and were left out', flush=True)
        if unread[file] and task.reads:
            print(f'{file}: not read: the fields {", ".join(sorted(unread[file])[:9])}', flush=True)
    # An empty file has raised in jsonl.read.
    if read and not examples:
        raise errors.InputFileError(file_list.shown(paths), f'the task left out all of its {read.total()} rows',
                                    remedy='lower min_words, or give longer texts')
    return examples


def _is_label(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _LABEL_LENGTH or isinstance(value, int) and not isinstance(value, bool)


def check_rows(paths: file_list.Paths, task: Task, *, training: bool = False, labelled: bool = True, max_rows: int | None = None) -> None:
    """Checks the rows of files as read_examples does, without keeping their examples.

    Raises InputFileError: as read_examples, but for files of which a task leaves out every row, which needs the reader's tokenizer.
    """
    for number, (file, line, row) in enumerate(_rows(paths, max_rows)):
        _check_fields(file, line, row, task)
        # A row that the task leaves out needs no label.
        made = [task.example(each, number) for each in task.expand(row, training)] if labelled else []
        if not all(example is None or example.answers for example in made):
            raise errors.InputFileError(file, 'missing', line=line, field=task.label, remedy=task.remedy)


def _rows(paths: file_list.Paths, max_rows: int | None) -> Iterator[tuple[pathlib.Path, int, dict[str, Any]]]:
    """Yields (file, line, row); a row without `filename` gets its file's name, which KILT's answers depend on."""
    rows = ((file, line, {'filename': file.name, **row}) for file in file_list.files_of(paths) for line, row in jsonl.read(file))
    # Nothing is read behind the rows asked for: it may be damaged.
    return itertools.islice(rows, max_rows)


def _check_fields(file: pathlib.Path, line: int, row: dict[str, Any], task: Task) -> None:
    if wrong := task.problem(row):
        raise errors.InputFileError(file, wrong.what, line=line, field=wrong.field, remedy=wrong.remedy)


def places(examples: Sequence[TaskExample], most: int) -> str:
    """Returns where examples stand, as a message names them: a file and lines of it, or file:line where they are from several."""
    if len(files := {example.file for example in examples}) > 1:
        start, found = '', [f'{example.file}:{example.line}' for example in examples]
    else:
        start = ''.join(f'{file}, ' for file in files if file) + ('line ' if examples[0].line else 'example ')
        found = [str(example.line or example.example_id) for example in examples]
    # The permutations of one row have the same place.
    found = list(dict.fromkeys(found))
    return start + ', '.join(found[:most]) + (', …' if len(found) > most else '')


def ask(task: Task, question: str, example_id: int) -> TaskExample:
    """Returns the example of a plain question, without answers. Raises ConfigError: the task needs more than one text, or a longer one."""
    example = task.example({task.asks: question}, example_id)
    if example is None:
        raise errors.ConfigError(f'"{question}" is too short for the task')
    return example


def searched(task: Task, question: str, example_id: int, with_prompt: bool) -> TaskExample:
    """Returns the example of a question that is only searched for: as `ask` makes it, or, without prompt, the question as it is."""
    if with_prompt:
        return ask(task, question, example_id)
    return TaskExample(query=question, target='', answers=[], example_id=example_id, question=question)


def generator_for(example_id: int, generator: np.random.Generator | None) -> np.random.Generator:
    """Returns the generator given, or the one that every evaluation uses for this example."""
    # By the example's own number, so that a subset of the file is evaluated on the same draws.
    return np.random.default_rng(example_id) if generator is None else generator
