"""The questions of a project: read from JSON lines or a table, and a fifth of them held out by their hash."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from atlas_jax import errors
from atlas_jax.io import compressed, jsonl, table
from atlas_jax.tasks.qa import QATask

SEPARATOR = '|'  # between answers that all count, in a cell of a table
LONGEST = 10_000  # characters of a question; the models read some fifty words of it
_HELD_OUT = 5  # one in so many
_FEWEST = 5  # of fewer, none is held out


@dataclasses.dataclass(frozen=True)
class Split:
    """Rows to train on and rows to test on."""

    train: list[dict[str, Any]]
    test: list[dict[str, Any]]


def read(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Reads questions with answers: JSON lines as docs/tasks.md has them, or a .csv or .tsv file with columns `question` and `answers`.

    In a table several answers stand in one cell, with | between them.

    Raises InputFileError: no such file, another kind, no question, or a row without a question or an answer.
    """
    path, task, found = pathlib.Path(path), QATask(), []
    for line, row in _rows(path):
        if wrong := task.problem(row):
            raise errors.InputFileError(path, wrong.what, line=line, field=wrong.field, remedy=wrong.remedy)
        if not row['question'].strip() or len(row['question']) > LONGEST:
            problem = f'{len(row["question"]):,} characters, at most {LONGEST:,} are read' if row['question'].strip() else 'empty'
            raise errors.InputFileError(path, problem, line=line, field='question', remedy='give a question of a sentence or two')
        if not any(answer.strip() for answer in row.get('answers', [row.get('target', '')])):
            raise errors.InputFileError(path, 'no answer', line=line, field='answers', remedy='each question needs at least one; to ask '
                                        'without training, leave --questions out')
        found.append(row)
    return found


def check(question: str) -> None:
    """Raises ConfigError: an empty question, or one that is no question by its length."""
    if not question.strip():
        raise errors.ConfigError('the question is empty; type one')
    if len(question) > LONGEST:
        raise errors.ConfigError(f'the question has {len(question):,} characters, at most {LONGEST:,} are read; ask in a sentence or '
                                 'two, and put documents into the index')


def split(rows: Sequence[dict[str, Any]]) -> Split:
    """Holds out the questions whose hash is in the lowest fifth, so that a question stays on its side when others are added."""
    by_hash = [(_hash(row['question']), row) for row in rows]
    limit = 2**64 // _HELD_OUT
    # Of a dozen questions the fifth may be none.
    if by_hash and len(by_hash) >= _FEWEST:
        limit = max(limit, min(value for value, _ in by_hash) + 1)
    elif len(by_hash) < _FEWEST:
        limit = 0
    return Split([row for value, row in by_hash if value >= limit], [row for value, row in by_hash if value < limit])


def _rows(path: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
    suffix = compressed.plain_suffix(path)
    if suffix == '.jsonl':
        yield from jsonl.read(path)
        return
    if suffix not in table.SUFFIXES:
        raise errors.InputFileError(path, f'unknown kind of file "{path.suffix}"', remedy='give questions as .jsonl, .csv or .tsv')
    for line, cells in table.read(path):
        name = next((name for name in ('answers', 'answer') if name in cells), None)
        if 'question' not in cells or name is None:
            raise errors.InputFileError(path, f'no column "{"answers" if "question" in cells else "question"}"', line=1,
                                        remedy='the first line must name the columns question and answers')
        answers = [answer.strip() for answer in cells[name].split(SEPARATOR)]
        yield line, {'question': cells['question'], 'answers': [answer for answer in answers if answer] or ['']}


def _hash(question: str) -> int:
    # Case and spacing do not make another question: it must not be on both sides.
    return int.from_bytes(hashlib.sha256(' '.join(question.lower().split()).encode('utf-8', 'replace')).digest()[:8], 'big')
