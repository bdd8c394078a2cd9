"""The questions of a project: read from JSON lines or a table; a fifth of them is held out by hash.
"""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from atlas_jax import errors
from atlas_jax.io import compressed, jsonl, table
from atlas_jax.tasks.qa import QATask

SEPARATOR = '|'  # between several correct answers in a cell of a table
LONGEST = 10_000  # characters of a question; the models read only some fifty words of it
_HELD_OUT = 5  # one question of five is held out
_FEWEST = 5  # with fewer questions, none is held out


@dataclasses.dataclass(frozen=True)
class Split:
    """Rows to train on and rows to test on."""

    train: list[dict[str, Any]]
    test: list[dict[str, Any]]


def read(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Reads questions with answers: JSON lines (docs/tasks.md), or a .csv or .tsv file with
    columns `question` and `answers`.

    Several answers in one cell of a table are separated by |.

    Raises InputFileError: no such file, an unknown kind of file, or a row without a question or
    an answer.
    """
    path, task, rows = pathlib.Path(path), QATask(), []
    for line, row in _rows(path):
        if wrong := task.problem(row):
            raise errors.InputFileError(path, wrong.what, line=line, field=wrong.field,
                                        remedy=wrong.remedy)
        length = len(row['question'].strip()) and len(row['question'])
        if not 0 < length <= LONGEST:
            problem = f'{length:,} characters, at most {LONGEST:,} are read' if length else 'empty'
            raise errors.InputFileError(path, problem, line=line, field='question',
                                        remedy='give a question of a sentence or two')
        if not any(answer.strip() for answer in row.get('answers', [row.get('target', '')])):
            raise errors.InputFileError(
                path, 'no answer', line=line, field='answers',
                remedy='each question needs at least one; to ask without training, leave '
                       '--questions out')
        rows.append(row)
    return rows


def check(question: str) -> None:
    """Raises ConfigError: the question is empty or too long."""
    if not question.strip():
        raise errors.ConfigError('the question is empty; type one')
    if len(question) > LONGEST:
        raise errors.ConfigError(f'the question has {len(question):,} characters, at most '
                                 f'{LONGEST:,} are read; ask in a sentence or two, and put '
                                 'documents into the index')


def split(rows: Sequence[dict[str, Any]]) -> Split:
    """Holds out the questions whose hash is in the lowest fifth. A question stays on its side when
    others are added.
    """
    by_hash = [(_hash(row['question']), row) for row in rows]
    limit = 0
    if len(by_hash) >= _FEWEST:
        # With a dozen questions, no hash may be in the lowest fifth. Then the lowest is held out.
        limit = max(2**64 // _HELD_OUT, min(value for value, _ in by_hash) + 1)
    return Split([row for value, row in by_hash if value >= limit],
                 [row for value, row in by_hash if value < limit])


def _rows(path: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
    suffix = compressed.plain_suffix(path)
    if suffix == '.jsonl':
        yield from jsonl.read(path)
        return
    if suffix not in table.SUFFIXES:
        raise errors.InputFileError(path, f'unknown kind of file "{path.suffix}"',
                                    remedy='give questions as .jsonl, .csv or .tsv')
    for line, cells in table.read(path):
        column = 'answers' if 'answers' in cells else 'answer'
        for name in ('question', column):
            if name not in cells:
                shown = 'answers' if name == 'answer' else name
                raise errors.InputFileError(
                    path, f'no column "{shown}"', line=1,
                    remedy='the first line must name the columns question and answers')
        answers = [answer.strip() for answer in cells[column].split(SEPARATOR)]
        yield line, {'question': cells['question'],
                     'answers': [answer for answer in answers if answer] or ['']}


def _hash(question: str) -> int:
    # Questions that differ only in case and spacing must be on the same side.
    text = ' '.join(question.lower().split()).encode('utf-8', 'replace')
    return int.from_bytes(hashlib.sha256(text).digest()[:8], 'big')
