"""Finds near-duplicates and exact leaks of test questions in training data and passages, and
removes them.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from atlas_jax import errors
from atlas_jax.apps.datasets import duplicates, leaks, rows
from atlas_jax.apps.datasets.rows import FileRow
from atlas_jax.corpus.store import PassageStore
from atlas_jax.io import atomic, compressed, file_list, jsonl
from atlas_jax.runtime import progress

# Kinds of matches: (side whose rows are reported, side they are compared with, title in the table).
# Of similar rows within a side, the first is not reported.
KINDS = {
    'test_near_test': ('test', 'test', 'near-duplicates within the test questions'),
    'train_near_train': ('train', 'train', 'near-duplicates within training'),
    'train_near_test': ('train', 'test', 'near-duplicates of a test question in training'),
    'train_shares_test': ('train', 'test', 'words of a test question in training'),
    'passages_share_test': ('passages', 'test', 'words of a test question in passages'),
}
REPORT_FILE, FOUND_FILE, STORE_FOLDER = 'report.json', 'found.jsonl', 'store'
_BATCH = 1000  # rows compared at once
_SHOWN_CHARACTERS = 160
_EXAMPLES = 3  # shown of each kind


@dataclasses.dataclass(frozen=True)
class Match:
    """A row that matches another one, and may have to be removed.

    Attributes:
      kind: A key of KINDS.
      row: The row's number through all files of its side.
      place: The row's file and line, or its docid.
      id: The row's id, or None.
      text: The question or the passage, shortened.
      of_place, of_id, of_text: Place, id and text of the row it matches.
      measure: The similarity, or the words that both have.
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
class ContaminationReport:
    """The matches of a check.

    Attributes:
      read: The number of rows of each side.
      near: The least similarity of near-duplicates; 0 if they were not searched.
      found: The matches, in the order of the rows.
      test_rows: The test questions that matches of each kind hit.
    """

    read: dict[str, int]
    near: float
    found: list[Match] = dataclasses.field(default_factory=list)
    test_rows: dict[str, set[int]] = dataclasses.field(
        default_factory=lambda: {kind: set() for kind in KINDS})

    def kinds(self) -> list[str]:
        """Returns the kinds of matches that were searched."""
        return [
            kind for kind, (side, other, _) in KINDS.items()
            if self.read.get(side) and self.read.get(other) and (self.near or 'near' not in kind)]

    def rows_of(self, side: str) -> set[int]:
        """Returns the numbers of a side's rows that match another row."""
        return {each.row for each in self.found if KINDS[each.kind][0] == side}

    def figures(self) -> dict[str, Any]:
        """Returns counts, shares and examples, as JSON."""
        found: dict[str, Any] = {}
        for kind in self.kinds():
            side, other, _ = KINDS[kind]
            matches = [match for match in self.found if match.kind == kind]
            found[kind] = {
                'rows': len(matches), 'of': self.read[side],
                'share': len(matches) / self.read[side]}
            if other == 'test' and side != 'test':
                hit = len(self.test_rows[kind])
                found[kind] |= {'test_rows': hit, 'test_share': hit / self.read['test']}
            found[kind]['examples'] = [dataclasses.asdict(match) for match in matches[:_EXAMPLES]]
        return {'rows': self.read, 'near': self.near, 'words': leaks.WORDS, 'found': found}

    def as_text(self) -> str:
        """Returns the table, and an example of each kind with matches."""
        figures = self.figures()['found']
        width = max(len(KINDS[kind][2]) for kind in figures)
        hits_test = any('test_rows' in values for values in figures.values())
        last = 'test questions hit' if hits_test else ''
        lines = [f'{"":{width}}  {"rows":>9}  {"of":>9}  {"share":>7}  {last}'.rstrip()]
        for kind, values in figures.items():
            hit = ''
            if 'test_rows' in values:
                hit = f'{values["test_rows"]} ({values["test_share"]:.2%})'
            lines.append(f'{KINDS[kind][2]:{width}}  {values["rows"]:>9}  {values["of"]:>9}  '
                         f'{values["share"]:>7.2%}  {hit}'.rstrip())
        for kind, values in figures.items():
            for match in values['examples'][:1]:
                measure = match['measure']
                shown = f'{measure:.2f}' if isinstance(measure, float) else f'"{measure}"'
                lines.append(f'{KINDS[kind][2]}, {shown}:\n  {match["place"]}: {match["text"]}\n  '
                             f'{match["of_place"]}: {match["of_text"]}')
        return '\n'.join(lines)


def check(train: file_list.Paths, test: file_list.Paths, passages: file_list.Paths = (),
          store: PassageStore | None = None, near: float = 0.8,
          show_progress: bool = False) -> ContaminationReport:
    """Reads every side once and compares its rows.

    Memory: about five kilobytes for each row of training and test (with `near` 0: of test only),
    and the matches. Passages are not kept.

    Args:
      train, test: Files of examples, or of texts to learn from. One of them may be empty.
      passages: Files of passages as JSON lines.
      store: A passage store, instead of `passages` or in addition.
      near: The least similarity of near-duplicates, 0.3 to 1; 0 does not search for them.
      show_progress: Shows progress bars.

    Raises:
      InputFileError: A file is missing, or a row has no question, claim or text.
      ConfigError: rensa is not installed, or `near` is out of range.
      StoreError: The store is damaged.
    """
    report = ContaminationReport({'train': 0, 'test': 0, 'passages': 0}, near)
    duplicated = duplicates.NearDuplicates(near) if near else None
    seen: list[FileRow] = []  # shortened rows of test, then of training
    questions: list[list[str]] = []
    for batch in _batches(_rows(test, 'test', show_progress)):
        _take(report, 'test', batch, duplicated, seen)
        questions += [rows.words(line.asked) for line in batch]
    runs = leaks.TestRuns(questions) if questions else None
    for batch in _batches(_rows(train, 'train', show_progress)):
        _take(report, 'train', batch, duplicated, seen)
        if runs is not None:
            _search(report, 'train_shares_test', batch,
                    [[rows.words(text) for text in line.texts] for line in batch], runs, seen)
    if runs is not None:
        for batch in _batches(_passages(passages, store, show_progress)):
            report.read['passages'] += len(batch)
            _search(report, 'passages_share_test', batch,
                    [[rows.words(line.fields['text'])] for line in batch], runs, seen)
    return report


def write(report: ContaminationReport, folder: pathlib.Path) -> None:
    """Writes the figures to report.json and every match to found.jsonl. Raises DiskFullError."""
    jsonl.write(folder / FOUND_FILE, map(dataclasses.asdict, report.found))
    atomic.write_json(folder / REPORT_FILE, report.figures())


def check_folder(folder: pathlib.Path, *sides: file_list.Paths,
                 store: pathlib.Path | None = None) -> None:
    """Raises InputFileError: a cleaned copy in `folder` would replace a file or store that is read,
    or two copies would have the same name.
    """
    if store is not None and store.resolve() == (folder / STORE_FOLDER).resolve():
        raise errors.InputFileError(store, 'the cleaned copy would replace it',
                                    remedy='give another --to')
    copies: dict[pathlib.Path, pathlib.Path] = {}
    for file in (file for paths in sides if file_list.listed(paths)
                 for file in file_list.files_of(paths)):
        copy = _copy_of(file, folder)
        if copy.resolve() == file.resolve():
            raise errors.InputFileError(file, 'the cleaned copy would replace it',
                                        remedy='give another --to')
        if copy in copies:
            raise errors.InputFileError(file,
                                        f'its copy would have the name of that of {copies[copy]}',
                                        remedy='rename one of them')
        copies[copy] = file


def remove(report: ContaminationReport, folder: pathlib.Path, train: file_list.Paths,
           passages: file_list.Paths = (),
           store: PassageStore | None = None) -> dict[pathlib.Path, tuple[int, int]]:
    """Writes copies of the training files, the passage files and the store, without the matching
    rows. Test files are not copied.

    Returns {copy: (rows kept, rows left out)}.

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


def _take(report: ContaminationReport, side: str, batch: Sequence[FileRow],
          duplicated: duplicates.NearDuplicates | None, seen: list[FileRow]) -> None:
    """Counts a batch and reports its near-duplicates. All rows of test must come before those of
    training.
    """
    report.read[side] += len(batch)
    if duplicated is None:
        seen += map(_shortened, batch if side == 'test' else ())
        return
    seen += map(_shortened, batch)
    tests = report.read['test']
    for line, near in zip(
            batch, duplicated.add([line.asked for line in batch], first_only=side == 'train'),
            strict=True):
        for other in ('test', 'train')[:1 if side == 'test' else 2]:
            similar = {
                row: value for row, value in near.items() if (row < tests) == (other == 'test')}
            if similar:
                # The most similar row; of equally similar ones, the first.
                best = max(similar, key=lambda row: (similar[row], -row))
                kind = f'{side}_near_{other}'
                report.found.append(_match(kind, line, seen[best], round(similar[best], 4)))
                report.test_rows[kind].update(similar if other == 'test' else ())


def _search(report: ContaminationReport, kind: str, batch: Sequence[FileRow],
            texts: Sequence[Sequence[Sequence[str]]], runs: leaks.TestRuns,
            tests: Sequence[FileRow]) -> None:
    """Reports the rows of a batch that share a run of words with a test question."""
    for line, hits in zip(batch, runs.find(texts), strict=True):
        if hits:
            first = min(hits)
            report.found.append(_match(kind, line, tests[first], hits[first]))
            report.test_rows[kind].update(hits)


def _match(kind: str, line: FileRow, other: FileRow, measure: float | str) -> Match:
    line, other = _shortened(line), _shortened(other)
    return Match(kind, line.row, line.place, line.docid, line.asked, other.place, other.docid,
                 other.asked, measure)


def _shortened(line: FileRow) -> FileRow:
    text = ' '.join(line.asked.split())
    text = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS - 1] + '…'
    return dataclasses.replace(line, fields={'id': line.docid, 'text': text})


def _passages(paths: file_list.Paths, store: PassageStore | None,
              show_progress: bool) -> Iterator[FileRow]:
    """Yields the passages of files, then those of a store, whose rows continue the count."""
    count = 0
    for line in _rows(paths, 'passages', show_progress):
        if not isinstance(line.fields.get('text'), str):
            raise errors.InputFileError(line.file, 'missing, or no text', line=line.line,
                                        field='text', remedy='give files of passages')
        yield line
        count += 1
    if store is not None:
        superseded = store.superseded()
        with progress.bar(int((~superseded).sum()), 'reading the store', ' passages',
                          show=show_progress) as bar:
            for row in np.flatnonzero(~superseded).tolist():
                passage = store[row]
                yield FileRow(pathlib.Path(str(store.path)), row, count + row,
                              {'id': passage.docid, 'text': passage.text})
                bar.update(1)


def _rows(paths: file_list.Paths, side: str, show_progress: bool) -> Iterator[FileRow]:
    if file_list.listed(paths):
        yield from rows.read(paths, f'reading {side}' if show_progress else '')


def _batches(lines: Iterable[FileRow]) -> Iterator[list[FileRow]]:
    iterator = iter(lines)
    while batch := list(itertools.islice(iterator, _BATCH)):
        yield batch


def _copy_of(file: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    return folder / compressed.plain_name(file).name


def _lines(file: pathlib.Path) -> Iterator[bytes]:
    """Yields the unparsed lines of the rows that jsonl.read yields."""
    with compressed.reading(file) as stream:
        for content in iter(lambda: stream.readline(jsonl.MAX_LINE + 1), b''):
            if content.strip():
                yield content
