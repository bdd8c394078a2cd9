"""Checks training data against test questions and passages: near-duplicates and exact leaks, counted, listed and removed."""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from atlas_jax import errors
from atlas_jax.corpus.store import PassageStore
from atlas_jax.datasets import duplicates, leaks, rows
from atlas_jax.datasets.rows import Line
from atlas_jax.io import atomic, compressed, file_list, jsonl
from atlas_jax.runtime import progress

# What is looked for: in which rows, against which, and the words of the table. The first stays of rows that are alike.
KINDS = {
    'test_near_test': ('test', 'test', 'near-duplicates within the test questions'),
    'train_near_train': ('train', 'train', 'near-duplicates within training'),
    'train_near_test': ('train', 'test', 'near-duplicates of a test question in training'),
    'train_shares_test': ('train', 'test', 'words of a test question in training'),
    'passages_share_test': ('passages', 'test', 'words of a test question in passages'),
}
REPORT_FILE, FOUND_FILE, STORE_FOLDER = 'report.json', 'found.jsonl', 'store'
_BATCH = 1000  # rows that are compared at once
_SHOWN_CHARACTERS = 160
_EXAMPLES = 3  # of each kind


@dataclasses.dataclass(frozen=True)
class Found:
    """A row that should perhaps not be there.

    Attributes:
      kind: of KINDS.
      row: its number through all files of its side.
      place: file and line, or docid.
      id: its own; None if it has none.
      text: what is asked, or the passage, shortened.
      of_place, of_id, of_text: the same of the row that it is compared with.
      measure: the similarity, or the words that both have.
    """

    kind: str
    row: int
    place: str
    id: str | None
    text: str
    of_place: str
    of_id: str | None
    of_text: str
    measure: float | str


@dataclasses.dataclass
class Report:
    """The rows that were found; `read` counts the rows of each side, `test_rows` holds the test questions that each kind hits."""

    read: dict[str, int]
    near: float
    found: list[Found] = dataclasses.field(default_factory=list)
    test_rows: dict[str, set[int]] = dataclasses.field(default_factory=lambda: {kind: set() for kind in KINDS})

    def kinds(self) -> list[str]:
        """Returns the kinds that were looked for."""
        return [kind for kind, (side, other, _) in KINDS.items() if self.read.get(side) and self.read.get(other)
                and (self.near or 'near' not in kind)]

    def rows_of(self, side: str) -> set[int]:
        """Returns the rows of a side that something was found of."""
        return {each.row for each in self.found if KINDS[each.kind][0] == side}

    def figures(self) -> dict[str, Any]:
        """Returns counts, shares and examples, as JSON."""
        found: dict[str, Any] = {}
        for kind in self.kinds():
            side, other, _ = KINDS[kind]
            theirs = [each for each in self.found if each.kind == kind]
            found[kind] = {'rows': len(theirs), 'of': self.read[side], 'share': len(theirs) / self.read[side]}
            if other == 'test' and side != 'test':
                hit = len(self.test_rows[kind])
                found[kind] |= {'test_rows': hit, 'test_share': hit / self.read['test']}
            found[kind]['examples'] = [dataclasses.asdict(each) for each in theirs[:_EXAMPLES]]
        return {'rows': self.read, 'near': self.near, 'words': leaks.WORDS, 'found': found}

    def as_text(self) -> str:
        """Returns the table, and an example of each kind that was found."""
        figures = self.figures()['found']
        width = max(len(KINDS[kind][2]) for kind in figures)
        last = 'test questions hit' if any('test_rows' in values for values in figures.values()) else ''
        lines = [f'{"":{width}}  {"rows":>9}  {"of":>9}  {"share":>7}  {last}'.rstrip()]
        for kind, values in figures.items():
            hit = f'{values["test_rows"]} ({values["test_share"]:.2%})' if 'test_rows' in values else ''
            lines.append(f'{KINDS[kind][2]:{width}}  {values["rows"]:>9}  {values["of"]:>9}  {values["share"]:>7.2%}  {hit}'.rstrip())
        for kind, values in figures.items():
            for each in values['examples'][:1]:
                measure = f'{each["measure"]:.2f}' if isinstance(each['measure'], float) else f'"{each["measure"]}"'
                lines.append(f'{KINDS[kind][2]}, {measure}:\n  {each["place"]}: {each["text"]}\n  {each["of_place"]}: {each["of_text"]}')
        return '\n'.join(lines)


def check(train: file_list.Paths, test: file_list.Paths, passages: file_list.Paths = (), store: PassageStore | None = None,
          near: float = 0.8, show_progress: bool = False) -> Report:
    """Reads every side once and compares its rows.

    Memory grows with the rows of training and test by about five kilobytes each (near 0: with the test questions alone), and with what
    is found; passages take none.

    Args:
      train, test: examples, or texts to learn from; either may be empty, not both.
      passages: JSON lines of passages.
      store: a passage store, in place of passages or besides them.
      near: the least similarity of near-duplicates, 0.3 to 1; 0 looks for none.
      show_progress: shows bars.

    Raises:
      InputFileError: a file is missing or a row has nothing that is asked. ConfigError: rensa is not installed, or `near` is out of range.
      StoreError: the store is damaged.
    """
    report = Report({'train': 0, 'test': 0, 'passages': 0}, near)
    duplicated = duplicates.NearDuplicates(near) if near else None
    seen: list[Line] = []  # shortened: those of test, then those of training
    questions: list[list[str]] = []
    for batch in _read('test', test, show_progress):
        _take(report, 'test', batch, duplicated, seen)
        questions += [rows.words(line.asked) for line in batch]
    runs = leaks.TestRuns(questions) if questions else None
    for batch in _read('train', train, show_progress):
        _take(report, 'train', batch, duplicated, seen)
        if runs is not None:
            _search(report, 'train_shares_test', batch, [[rows.words(text) for text in line.texts] for line in batch], runs, seen)
    if runs is not None:
        for batch in _batches(_passages(passages, store, show_progress)):
            report.read['passages'] += len(batch)
            _search(report, 'passages_share_test', batch, [[rows.words(line.fields['text'])] for line in batch], runs, seen)
    return report


def write(report: Report, folder: pathlib.Path) -> None:
    """Writes the figures (report.json) and every row that was found with its id (found.jsonl). Raises DiskFullError."""
    jsonl.write(folder / FOUND_FILE, map(dataclasses.asdict, report.found))
    atomic.write_json(folder / REPORT_FILE, report.figures())


def check_folder(folder: pathlib.Path, *sides: file_list.Paths, store: pathlib.Path | None = None) -> None:
    """Raises InputFileError: a copy in `folder` would replace a file or the store that is read, or two files would have one copy."""
    if store is not None and store.resolve() == (folder / STORE_FOLDER).resolve():
        raise errors.InputFileError(store, 'the cleaned copy would replace it', remedy='give another --to')
    copies: dict[pathlib.Path, pathlib.Path] = {}
    for file in (file for paths in sides if file_list.listed(paths) for file in file_list.files_of(paths)):
        copy = _copy_of(file, folder)
        if copy.resolve() == file.resolve():
            raise errors.InputFileError(file, 'the cleaned copy would replace it', remedy='give another --to')
        if copy in copies:
            raise errors.InputFileError(file, f'its copy would have the name of that of {copies[copy]}', remedy='rename one of them')
        copies[copy] = file


def remove(report: Report, folder: pathlib.Path, train: file_list.Paths, passages: file_list.Paths = (),
           store: PassageStore | None = None) -> dict[pathlib.Path, tuple[int, int]]:
    """Writes copies of the training and passage files, and of the store, without the rows that were found; test files are left alone.

    Returns by copy how many rows were kept and left out.

    Raises InputFileError: a file was changed or removed meanwhile. StoreError. DiskFullError.
    """
    written = {}
    for side, paths in (('train', train), ('passages', passages)):
        dropped, row = report.rows_of(side), 0
        for file in file_list.files_of(paths) if file_list.listed(paths) else []:
            copy = _copy_of(file, folder)
            with atomic.writing(copy, 'wb') as output:
                before, kept = row, 0
                for content in _lines(file):
                    if row not in dropped:
                        output.write(content.rstrip(b'\r\n') + b'\n')
                        kept += 1
                    row += 1
            written[copy] = kept, row - before - kept
        if store is not None and side == 'passages':
            keep = ~store.superseded()
            left_out = [place - row for place in sorted(dropped) if place >= row]
            before = int(keep.sum())
            keep[left_out] = False
            store.copy_kept(folder / STORE_FOLDER, keep)
            written[folder / STORE_FOLDER] = int(keep.sum()), before - int(keep.sum())
    return written


def _take(report: Report, side: str, batch: Sequence[Line], duplicated: duplicates.NearDuplicates | None, seen: list[Line]) -> None:
    """Counts a batch, and adds its near-duplicates; all rows of test come before the first of training."""
    report.read[side] += len(batch)
    if duplicated is None:
        seen += map(_short, batch if side == 'test' else ())
        return
    seen += map(_short, batch)
    tests = report.read['test']
    for line, near in zip(batch, duplicated.add([line.asked for line in batch], first_only=side == 'train'), strict=True):
        for other in ('test', 'train')[:1 if side == 'test' else 2]:
            theirs = {each: value for each, value in near.items() if (each < tests) == (other == 'test')}
            if theirs:
                # The most similar one, and of equal ones the first.
                best = max(theirs, key=lambda each: (theirs[each], -each))
                kind = f'{side}_near_{other}'
                report.found.append(_found(kind, line, seen[best], round(theirs[best], 4)))
                report.test_rows[kind].update(theirs if other == 'test' else ())


def _search(report: Report, kind: str, batch: Sequence[Line], texts: Sequence[Sequence[Sequence[str]]], runs: leaks.TestRuns,
            tests: Sequence[Line]) -> None:
    """Adds the rows of a batch that have a run of words of a test question."""
    for line, hits in zip(batch, runs.find(texts), strict=True):
        if hits:
            first = min(hits)
            report.found.append(_found(kind, line, tests[first], hits[first]))
            report.test_rows[kind].update(hits)


def _found(kind: str, line: Line, other: Line, measure: float | str) -> Found:
    line, other = _short(line), _short(other)
    return Found(kind, line.row, line.place, line.docid, line.asked, other.place, other.docid, other.asked, measure)


def _short(line: Line) -> Line:
    text = ' '.join(line.asked.split())
    text = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS - 1] + '…'
    return dataclasses.replace(line, fields={'id': line.docid, 'text': text})


def _passages(paths: file_list.Paths, store: PassageStore | None, show_progress: bool) -> Iterator[Line]:
    """Yields the passages of files, then of a store; these have no file, and their rows are counted on."""
    count = 0
    for line in rows.read(paths, 'reading passages' if show_progress else '') if file_list.listed(paths) else ():
        if not isinstance(line.fields.get('text'), str):
            raise errors.InputFileError(line.file, 'missing, or no text', line=line.line, field='text', remedy='give files of passages')
        yield line
        count += 1
    if store is not None:
        superseded = store.superseded()
        with progress.bar(int((~superseded).sum()), 'reading the store', ' passages', show=show_progress) as bar:
            for row in np.flatnonzero(~superseded).tolist():
                passage = store[row]
                yield Line(pathlib.Path(str(store.path)), row, count + row, {'id': passage.docid, 'text': passage.text})
                bar.update(1)


def _read(side: str, paths: file_list.Paths, show_progress: bool) -> Iterator[list[Line]]:
    return _batches(rows.read(paths, f'reading {side}' if show_progress else '') if file_list.listed(paths) else ())


def _batches(lines: Iterable[Line]) -> Iterator[list[Line]]:
    iterator = iter(lines)
    while batch := list(itertools.islice(iterator, _BATCH)):
        yield batch


def _copy_of(file: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    return folder / compressed.plain_name(file).name


def _lines(file: pathlib.Path) -> Iterator[bytes]:
    """Yields the lines that jsonl.read reads, as they are."""
    with compressed.reading(file) as stream:
        for content in iter(lambda: stream.readline(jsonl.MAX_LINE + 1), b''):
            if content.strip():
                yield content
