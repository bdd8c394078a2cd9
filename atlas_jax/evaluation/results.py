"""Results files: a JSON line a question, written as answers come, so that evaluations can resume.

A running evaluation writes to FILE.partial, whose first line describes what the rows depend on. At
the end the rows go to FILE in the order of the questions, and FILE.partial is removed.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from atlas_jax import errors
from atlas_jax.io import atomic, jsonl, untrusted
from atlas_jax.metrics import answers as answer_metrics
from atlas_jax.metrics import kilt_provenance

Row = dict[str, Any]
Key = tuple[str, str]  # name of the index ('' for a single one) and the example's number
# Metrics that a row may have: numbers from 0 to 1, higher is better.
METRICS = (*answer_metrics.OF_TEXT, 'debiased_accuracy', *kilt_provenance.NAMES, 'ndcg_at_10',
           'recall_at_100', 'mrr', 'map', 'precision_at_10')
SUFFIX = '.partial'
_BLOCK = 1 << 20  # bytes read at once
_REMEDY = 'give a file that `atlas-jax evaluate` wrote as results_file'


def key_of(row: Row) -> Key:
    """Returns the key that identifies a row in its file."""
    return str(row.get('index_name', '')), str(row['example_id'])


@dataclasses.dataclass
class Log:
    """The rows of an evaluation, in memory and, if there is a file, on disk as they come.

    Attributes:
      rows: Rows by `key_of`.
      file: File to append lines to; None keeps them in memory only.
      without: Fields that are not written to the file.
    """

    rows: dict[Key, Row] = dataclasses.field(default_factory=dict)
    file: pathlib.Path | None = None
    without: frozenset[str] = frozenset()
    _descriptor: int | None = None

    def has(self, key: Key, field: str) -> bool:
        """Returns whether a question's row has a field."""
        return field in self.rows.get(key, ())

    def add(self, row: Row) -> None:
        """Adds a row, or more fields to one. Raises DiskFullError, StorageError."""
        self.rows.setdefault(key_of(row), {}).update(row)
        if self._descriptor is not None:
            self._append({name: value for name, value in row.items() if name not in self.without})

    @contextlib.contextmanager
    def kept(self, description: Mapping[str, Any]) -> Iterator[None]:
        """Reads the rows that a stopped evaluation left in `file`, and appends inside the block.

        Does nothing without a file.

        Args:
          description: Everything that the rows depend on, as JSON values.

        Raises:
          ConfigError: the rows are from other data, another model or other options; or another
            process is writing them.
          InputFileError: they are damaged.
          DiskFullError, StorageError.
        """
        if self.file is None:
            yield
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with atomic.storage_errors_are_user_errors(self.file):
            self._descriptor = os.open(self.file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            self._lock()
            # Converted by JSON, for the comparison: tuples become lists.
            self._resume(json.loads(json.dumps(description)))
            try:
                yield
            finally:
                if not self.rows:
                    self.file.unlink(missing_ok=True)
        finally:
            os.close(self._descriptor)
            self._descriptor = None

    def _lock(self) -> None:
        assert self._descriptor is not None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise errors.ConfigError(f'{self.file}: another evaluation is writing it; wait until '
                                     'it has ended, or give another results_file') from error
        except OSError:  # a disk without locks
            pass

    def _resume(self, description: dict[str, Any]) -> None:
        assert self._descriptor is not None and self.file is not None
        # A process that was killed may have left half a line.
        whole = _end_of_lines(self._descriptor)
        os.ftruncate(self._descriptor, whole)
        if not whole:
            self._append({'evaluation': description})
            return
        lines = jsonl.read(self.file)
        _, header = next(lines)
        if differing := _differences(header.get('evaluation'), description):
            raise errors.ConfigError(
                f'{self.file}: an evaluation that was stopped left it, with other '
                f'{", ".join(differing)}; run it again as it was, or remove the file to start over')
        for line, row in lines:
            _check(self.file, line, row, partial=True)
            self.rows.setdefault(key_of(row), {}).update(row)

    def _append(self, row: Row) -> None:
        assert self._descriptor is not None and self.file is not None
        data = (json.dumps(row, ensure_ascii=False) + '\n').encode()
        with atomic.storage_errors_are_user_errors(self.file):
            while data:  # a single write may be partial
                data = data[os.write(self._descriptor, data):]


def finish(path: str | os.PathLike, rows: Sequence[Row], write_passages: bool = True) -> None:
    """Writes the results file and removes the partial one. Raises DiskFullError."""
    left_out = () if write_passages else ('passages',)
    jsonl.write(path, ({name: value for name, value in row.items() if name not in left_out}
                       for row in rows))
    partial_of(path).unlink(missing_ok=True)


def partial_of(path: str | os.PathLike) -> pathlib.Path:
    """Returns the file of an unfinished evaluation."""
    return pathlib.Path(f'{os.fspath(path)}{SUFFIX}')


def read(path: str | os.PathLike) -> list[Row]:
    """Reads a results file.

    Raises InputFileError: no such file, or a line that is no result, has a figure out of range, or
    repeats a question.
    """
    rows: dict[Key, Row] = {}
    for line, row in jsonl.read(path):
        _check(path, line, row)
        if key_of(row) in rows:
            raise errors.InputFileError(path, f'question {row["example_id"]} was there before',
                                        line=line, field='example_id',
                                        remedy='leave one of the lines')
        rows[key_of(row)] = row
    return list(rows.values())


def passages_of(row: Row) -> list[dict[str, Any]]:
    """Returns the passages of a row that have a text, and no invalid score or attention.

    `read` checks all other fields, but not passages.
    """
    passages = row.get('passages')
    return [each for each in (passages if isinstance(passages, list) else [])
            if isinstance(each, dict) and isinstance(each.get('text'), str)
            and all(_is_number(each.get(name, 0.0)) for name in ('score', 'attention'))]


def is_results(path: str | os.PathLike) -> bool:
    """Returns whether the first line of a JSON-lines file is a result."""
    with contextlib.suppress(errors.InputFileError, StopIteration):
        _, row = next(jsonl.read(path))
        return {'example_id', 'question'} <= row.keys() and bool(
            {'answers', 'prediction'} & row.keys())
    return False


def _check(path: str | os.PathLike, line: int, row: Row, partial: bool = False) -> None:
    """Raises InputFileError: a field that figures are computed from is missing or invalid."""
    required = {'example_id'} if partial else {'example_id', 'question'}
    for field, (expected, fits) in _FIELDS.items():
        if (field in row or field in required) and not fits(row.get(field)):
            found = untrusted.shown(row[field]) if field in row else 'nothing'
            raise errors.InputFileError(path, f'expected {expected}, found {found}', line=line,
                                        field=field, remedy=_REMEDY)


def _end_of_lines(descriptor: int) -> int:
    """Returns the position after the last line end of a file."""
    end = os.fstat(descriptor).st_size
    while end:
        start = max(0, end - _BLOCK)
        if (last := os.pread(descriptor, end - start, start).rfind(b'\n')) >= 0:
            return start + last + 1
        end = start
    return 0


def _is_number(value: object, low: float = -1e15, high: float = 1e15) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _is_rank(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40


def _is_share(value: object) -> bool:
    return _is_number(value, -1e-9, 1 + 1e-9)  # means of floats may be off by their rounding


def _is_list(value: object, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(fits, value))


def _is_object(value: object, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and all(map(fits, value.values()))


def _is_text(value: object) -> bool:
    return isinstance(value, str)


# Fields that figures are computed from: what they must be, and a test for it.
_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    'example_id': ('a number or a text',
                   lambda value: isinstance(value, int | str) and not isinstance(value, bool)),
    'question': ('a text', _is_text),
    **{name: ('a number from 0 to 1', _is_share) for name in METRICS},
    'confidence': ('a number from 0 to 1',
                   lambda value: value is None or _is_number(value, 0, 1)),
    'abstained': ('true or false', lambda value: isinstance(value, bool)),
    'nll': ('a number', _is_number),
    'target_tokens': ('a number', _is_number),
    'answer_rank': ('a rank from 0, or null', lambda value: value is None or _is_rank(value)),
    'gold_ranks': ('a list', lambda value: _is_list(value, _is_rank)),
    'gold_docids': ('a list', lambda value: _is_list(value, _is_text)),
    'retrieved': ('a number of passages', _is_rank),
    'correlations': ('an object of numbers', lambda value: _is_object(
        value, lambda each: each is None or _is_number(each))),
    'labels': ('an object of texts and numbers', lambda value: _is_object(
        value, lambda each: isinstance(each, str | int))),
    'index_name': ('a text', _is_text)}


def _differences(before: Any, now: dict[str, Any]) -> list[str]:
    if not isinstance(before, dict):
        return ['contents']
    return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
