"""Results files: one JSON line a question, kept as they come, so that an evaluation that was killed goes on.

While an evaluation runs, its rows stand in FILE.partial, below a line that says what they depend on. At its end they are written to FILE in
the order of the questions, and FILE.partial is removed.
"""

import contextlib
import dataclasses
import fcntl
import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from atlas_jax import errors
from atlas_jax.io import atomic, jsonl, untrusted
from atlas_jax.metrics import answers as answer_metrics
from atlas_jax.metrics import kilt

Row = dict[str, Any]
Key = tuple[str, str]  # name of the index, '' where there is one alone; and the example's number
# Metrics that a row may have, each a number from 0 to 1, higher is better.
METRICS = (*answer_metrics.OF_TEXT, 'debiased_accuracy', *kilt.NAMES, 'ndcg_at_10', 'recall_at_100', 'mrr', 'map', 'precision_at_10')
SUFFIX = '.partial'
_BLOCK = 1 << 20  # bytes read at once
_REMEDY = 'give a file that `atlas-jax evaluate` wrote as results_file'


def key_of(row: Row) -> Key:
    """Returns what tells the questions of a file apart."""
    return str(row.get('index_name', '')), str(row['example_id'])


@dataclasses.dataclass
class Log:
    """The rows of an evaluation by question, in memory and, where there is a file, on the disk as soon as they are known.

    Attributes:
      rows: by key_of.
      file: where lines are appended; None keeps them in memory alone.
      without: fields that do not go to the file.
    """

    rows: dict[Key, Row] = dataclasses.field(default_factory=dict)
    file: pathlib.Path | None = None
    without: frozenset[str] = frozenset()
    _descriptor: int | None = None

    def has(self, key: Key, field: str) -> bool:
        """Returns whether a field of a question is known."""
        return field in self.rows.get(key, ())

    def add(self, row: Row) -> None:
        """Adds a question, or more fields of one. Raises DiskFullError, StorageError."""
        self.rows.setdefault(key_of(row), {}).update(row)
        if self._descriptor is not None:
            self._append({name: value for name, value in row.items() if name not in self.without})

    @contextlib.contextmanager
    def kept(self, description: Mapping[str, Any]) -> Iterator[None]:
        """Goes on with the rows that a killed evaluation left in `file`, and appends to it inside the block; without a file does nothing.

        Raises:
          ConfigError: these rows are of other data, another model or other options; or another process is writing them.
          InputFileError: they are damaged. DiskFullError, StorageError.
        """
        if self.file is None:
            yield
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with atomic.storage_errors_are_user_errors(self.file):
            self._descriptor = os.open(self.file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            self._lock()
            self._go_on(json.loads(json.dumps(description)))  # as JSON gives it back: lists for tuples
            try:
                yield
            finally:
                if not self.rows:  # nothing to go on from
                    self.file.unlink(missing_ok=True)
        finally:
            os.close(self._descriptor)
            self._descriptor = None

    def _lock(self) -> None:
        assert self._descriptor is not None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise errors.ConfigError(f'{self.file}: another evaluation is writing it; wait until it has ended, or give another '
                                     'results_file') from error
        except OSError:  # a disk without locks
            pass

    def _go_on(self, description: dict[str, Any]) -> None:
        assert self._descriptor is not None and self.file is not None
        # A process that was killed in the middle of a line left no line end.
        whole = _end_of_lines(self._descriptor)
        os.ftruncate(self._descriptor, whole)
        if not whole:
            self._append({'evaluation': description})
            return
        lines = jsonl.read(self.file)
        _, header = next(lines)
        if differing := _differences(header.get('evaluation'), description):
            raise errors.ConfigError(f'{self.file}: an evaluation that was stopped left it, with other {", ".join(differing)}; '
                                     'run it again as it was, or remove the file to begin anew')
        for line, row in lines:
            _check(self.file, line, row, partial=True)
            self.rows.setdefault(key_of(row), {}).update(row)

    def _append(self, row: Row) -> None:
        assert self._descriptor is not None and self.file is not None
        data = (json.dumps(row, ensure_ascii=False) + '\n').encode()
        with atomic.storage_errors_are_user_errors(self.file):
            while data:  # a disk may take a part
                data = data[os.write(self._descriptor, data):]


def finish(path: str | os.PathLike, rows: Sequence[Row], write_passages: bool = True) -> None:
    """Writes the results file and removes what was kept meanwhile. Raises DiskFullError."""
    left_out = () if write_passages else ('passages',)
    jsonl.write(path, ({name: value for name, value in row.items() if name not in left_out} for row in rows))
    partial_of(path).unlink(missing_ok=True)


def partial_of(path: str | os.PathLike) -> pathlib.Path:
    """Returns the file of an evaluation that is not finished."""
    return pathlib.Path(f'{os.fspath(path)}{SUFFIX}')


def read(path: str | os.PathLike) -> list[Row]:
    """Reads a results file.

    Raises InputFileError: no such file, or a line that is no result, has a figure out of range, or is of a question that was there before.
    """
    rows: dict[Key, Row] = {}
    for line, row in jsonl.read(path):
        _check(path, line, row)
        if key_of(row) in rows:
            raise errors.InputFileError(path, f'question {row["example_id"]} was there before', line=line, field='example_id',
                                        remedy='leave one of the lines')
        rows[key_of(row)] = row
    return list(rows.values())


def passages_of(row: Row) -> list[dict[str, Any]]:
    """Returns the passages of a row that have a text, and finite numbers where they have a score and an attention.

    What else a row holds is checked when it is read; anybody may have written these.
    """
    passages = row.get('passages')
    return [each for each in (passages if isinstance(passages, list) else [])
            if isinstance(each, dict) and isinstance(each.get('text'), str)
            and all(_is_number(each.get(name, 0.0)) for name in ('score', 'attention'))]


def is_results(path: str | os.PathLike) -> bool:
    """Returns whether the first line of a JSON-lines file is a result, so that other files of a folder are passed over."""
    with contextlib.suppress(errors.InputFileError, StopIteration):
        _, row = next(jsonl.read(path))
        return 'example_id' in row and 'question' in row and ('answers' in row or 'prediction' in row)
    return False


def _check(path: str | os.PathLike, line: int, row: Row, partial: bool = False) -> None:
    """Raises InputFileError: a field that figures are made from is missing or not what it should be."""
    def wrong(field: str, expected: str) -> errors.InputFileError:
        shown = untrusted.shown(row[field]) if field in row else 'nothing'
        return errors.InputFileError(path, f'expected {expected}, found {shown}', line=line, field=field, remedy=_REMEDY)

    # bool is an int, and no number of a question
    if not isinstance(row.get('example_id'), int | str) or isinstance(row.get('example_id'), bool):
        raise wrong('example_id', 'a number or a text')
    if not isinstance(row.get('question', '' if partial else None), str):
        raise wrong('question', 'a text')
    for name in METRICS:
        if name in row and not (_is_number(row[name]) and -1e-9 <= row[name] <= 1 + 1e-9):
            raise wrong(name, 'a number from 0 to 1')
    if row.get('confidence') is not None and not (_is_number(row['confidence']) and 0 <= row['confidence'] <= 1):
        raise wrong('confidence', 'a number from 0 to 1')
    if not isinstance(row.get('abstained', False), bool):
        raise wrong('abstained', 'true or false')
    for name in ('nll', 'target_tokens'):
        if name in row and not _is_number(row[name]):
            raise wrong(name, 'a number')
    if not (row.get('answer_rank') is None or _is_rank(row['answer_rank'])):
        raise wrong('answer_rank', 'a rank from 0, or null')
    for name, fits in (('gold_ranks', _is_rank), ('gold_docids', lambda value: isinstance(value, str))):
        if name in row and not (isinstance(row[name], list) and all(map(fits, row[name]))):
            raise wrong(name, 'a list')
    if 'retrieved' in row and not _is_rank(row['retrieved']):
        raise wrong('retrieved', 'a number of passages')
    for name in ('labels', 'correlations'):
        if name in row and not isinstance(row[name], dict):
            raise wrong(name, 'an object')
    if not all(value is None or _is_number(value) for value in row.get('correlations', {}).values()):
        raise wrong('correlations', 'an object of numbers')
    if not all(isinstance(value, str | int) for value in row.get('labels', {}).values()):
        raise wrong('labels', 'an object of texts and numbers')
    if not isinstance(row.get('index_name', ''), str):
        raise wrong('index_name', 'a text')


def _end_of_lines(descriptor: int) -> int:
    """Returns the number of bytes up to the last line end of a file."""
    end = os.fstat(descriptor).st_size
    while end:
        start = max(0, end - _BLOCK)
        if (last := os.pread(descriptor, end - start, start).rfind(b'\n')) >= 0:
            return start + last + 1
        end = start
    return 0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and abs(value) < 1e15


def _is_rank(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40


def _differences(before: Any, now: dict[str, Any]) -> list[str]:
    if not isinstance(before, dict):
        return ['contents']
    return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
