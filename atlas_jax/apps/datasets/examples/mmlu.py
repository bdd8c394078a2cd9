"""MMLU: questions of 57 subjects, from the publisher's csv files or Hugging Face's parquet files
(Hendrycks et al. 2021, 2009.03300).
"""

import csv
import functools
import heapq
import io
import itertools
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from atlas_jax import errors
from atlas_jax.apps.datasets import piece_files, records
from atlas_jax.apps.datasets.examples import releases
from atlas_jax.apps.datasets.examples.example_source import Example
from atlas_jax.apps.datasets.records import PublishedRecord
from atlas_jax.apps.datasets.source import OutputRow, Piece, RowOrError, Source
from atlas_jax.io import compressed, untrusted

# The publisher's groups of subjects (categories.py of its repository).
GROUPS = {
    'STEM':
        'abstract_algebra astronomy college_biology college_chemistry college_computer_science '
        'college_mathematics college_physics computer_security conceptual_physics '
        'electrical_engineering elementary_mathematics high_school_biology high_school_chemistry '
        'high_school_computer_science high_school_mathematics high_school_physics '
        'high_school_statistics machine_learning',
    'humanities':
        'formal_logic high_school_european_history high_school_us_history '
        'high_school_world_history international_law jurisprudence logical_fallacies '
        'moral_disputes moral_scenarios philosophy prehistory professional_law world_religions',
    'social sciences':
        'econometrics high_school_geography high_school_government_and_politics '
        'high_school_macroeconomics high_school_microeconomics high_school_psychology '
        'human_sexuality professional_psychology public_relations security_studies sociology '
        'us_foreign_policy',
    'other':
        'anatomy business_ethics clinical_knowledge college_medicine global_facts human_aging '
        'management marketing medical_genetics miscellaneous nutrition professional_accounting '
        'professional_medicine virology',
}
GROUP_OF = {subject: group for group, subjects in GROUPS.items() for subject in subjects.split()}
AUXILIARY = 'auxiliary'
_LETTERS = 'ABCD'
_SPLITS = {'dev': 'dev', 'val': 'val', 'validation': 'val', 'test': 'test'}
_WHAT = ('the folder of the publisher\'s data.tar (auxiliary_train, dev, val, test), or that of '
         'the parquet files')
_MAX_FIELD = 1 << 20  # characters of a csv field; the longest text of a question has 20,000


class _File(NamedTuple):
    """A file of MMLU.

    split    its split; 'auxiliary' for the training questions
    subject  its subject; '' if each row has its own
    path     the file
    """

    split: str
    subject: str
    path: pathlib.Path


def _file(path: pathlib.Path) -> _File:
    """Returns the split and subject that a file's name tells.

    Raises InputFileError: it is not a file of MMLU, or its subject is unknown.
    """
    name = compressed.plain_name(path).name.lower()
    if found := re.fullmatch(r'(\w+)-\d+-of-\d+\.parquet', name):
        if found[1] in ('auxiliary_train', 'train'):
            return _File(AUXILIARY, '', path)
        if found[1] in _SPLITS:
            return _File(_SPLITS[found[1]], '', path)
    elif name.endswith('.csv') and path.resolve().parent.name == 'auxiliary_train':
        return _File(AUXILIARY, name.removesuffix('.csv'), path)
    elif found := re.fullmatch(r'(\w+)_(dev|val|test)\.csv', name):
        if found[1] not in GROUP_OF:
            raise errors.InputFileError(path, f'"{found[1]}" is not one of the 57 subjects of MMLU',
                                        remedy=f'give {_WHAT}')
        return _File(_SPLITS[found[2]], found[1], path)
    raise errors.InputFileError(path, 'its name is not that of a file of MMLU, such as '
                                      'anatomy_test.csv or test-00000-of-00001.parquet',
                                remedy=f'give {_WHAT}')


def _files_of(given: Sequence[pathlib.Path]) -> list[_File]:
    """Returns the files, sorted by split and name.

    Raises InputFileError: a folder has no such files, or a file is given twice.
    """
    paths: list[pathlib.Path] = []
    for path in given:
        if not path.is_dir():
            paths.append(path)
            continue
        # The parquet release has each question twice: by subject, and in the folder `all`.
        folder = path / 'all' if (path / 'all').is_dir() else path
        found = sorted(file for file in folder.rglob('*')
                       if compressed.plain_suffix(file) in ('.csv', '.parquet'))
        if not found:
            raise errors.InputFileError(path, 'no csv or parquet files in this folder',
                                        remedy=f'give {_WHAT}')
        paths += found
    releases.check_distinct(paths)
    order = [AUXILIARY, 'dev', 'val', 'test']
    files = sorted(map(_file, paths), key=lambda file:
                   (order.index(file.split), file.subject, file.path.name))
    for first, second in itertools.pairwise(files):
        if first[:2] == second[:2] and first.subject:
            raise errors.InputFileError(second.path,
                                        f'{first.path} is the same split of {first.subject}',
                                        remedy='give one of them')
    return files


def _read(file: _File) -> Iterator[PublishedRecord | errors.InputFileError]:
    """Yields rows as records with question, choices, answer (a letter or its number) and subject.
    """
    is_csv = compressed.plain_suffix(file.path) == '.csv'
    yield from _read_csv(file) if is_csv else _read_parquet(file)


def _read_csv(file: _File) -> Iterator[PublishedRecord | errors.InputFileError]:
    csv.field_size_limit(_MAX_FIELD)
    line = 0
    with compressed.reading(file.path) as binary:
        text = io.TextIOWrapper(binary, encoding='utf-8-sig', newline='')
        # With a limit, because a small compressed file may unpack to one line of any length; the
        # csv reader then reports a field that is too long.
        rows = csv.reader(iter(lambda: text.readline(2 * _MAX_FIELD), ''))
        try:
            for row in rows:
                first, line = line + 1, rows.line_num  # a question may span several lines
                if len(row) == 6:
                    question, *choices, answer = row
                    fields = {
                        'question': question, 'choices': choices, 'answer': answer.strip(),
                        'subject': file.subject}
                    yield PublishedRecord(file.path, fields, first)
                elif row:
                    yield errors.InputFileError(
                        file.path, f'{len(row)} columns, expected 6: '
                        'question, four options, letter', line=first)
        except (csv.Error, UnicodeDecodeError) as error:
            raise errors.InputFileError(file.path, f'no csv ({error})', line=line + 1,
                                        remedy='download or copy it again') from error
    if not line:
        raise errors.InputFileError(file.path, 'the file is empty',
                                    remedy='download or copy it again')


def _read_parquet(file: _File) -> Iterator[PublishedRecord | errors.InputFileError]:
    # Imported here because pyarrow takes a while to import.
    import pyarrow
    from pyarrow import parquet
    try:
        untrusted.require_regular_file(file.path)
        with parquet.ParquetFile(file.path) as table:
            names = table.schema_arrow.names
            # One release of the auxiliary questions nests all columns in one.
            nested = names == ['train']
            if not nested and not {'question', 'choices', 'answer'} <= set(names):
                raise errors.InputFileError(
                    file.path, 'expected the columns question, subject, choices, answer, found '
                    f'{", ".join(names)[:99]}', remedy=f'give {_WHAT}')
            number = 0
            for batch in table.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    number += 1
                    yield PublishedRecord(file.path, (row['train'] or {}) if nested else row,
                                          number)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        first = f'{error}'.partition('\n')[0][:99]
        raise errors.InputFileError(file.path, f'no parquet file ({first})',
                                    remedy='download or copy it again') from error


def _question(file: _File, record: PublishedRecord) -> Example:
    """Returns the example of a row.

    Raises InputFileError: a field is missing or wrong, or the subject is unknown.
    """
    choices, answer = record.fields.get('choices'), record.fields.get('answer')
    if not isinstance(choices, list) or len(choices) != 4 or not all(map(records.is_text, choices)):
        raise record.wrong('choices', f'expected four texts, found {untrusted.shown(choices)}')
    letter = _LETTERS[answer] if records.is_whole(answer) and 0 <= answer < 4 else answer
    if not isinstance(letter, str) or letter not in tuple(_LETTERS):
        raise record.wrong('answer', 'expected a letter from A to D, or a number from 0 to 3, '
                                     f'found {untrusted.shown(answer)}')
    options = dict(zip(_LETTERS, (choice.strip() for choice in choices), strict=True))
    if not options[letter]:
        raise record.wrong('choices', f'the right option, {letter}, is blank')
    subject = record.text('subject', AUXILIARY if file.split == AUXILIARY else None)
    if file.split != AUXILIARY and subject not in GROUP_OF:
        raise record.wrong('subject',
                           f'{untrusted.shown(subject)} is not one of the 57 subjects of MMLU')
    return {
        'question': record.text('question'), 'options': options, 'answer': letter,
        'subject': subject, 'group': GROUP_OF.get(subject, AUXILIARY)}


def _split(file: _File, is_full: bool) -> Iterator[RowOrError]:
    """Yields a file's questions for its split and for its subject. The full setting also trains on
    the questions of dev.
    """
    for record in _read(file):
        example = records.attempt(record, functools.partial(_question, file))
        if isinstance(example, errors.InputFileError):
            yield example
            continue
        yield OutputRow(file.split, example)
        yield OutputRow(f'{file.split}.{example["subject"]}', example)
        if is_full and file.split == 'dev':
            yield OutputRow('full', example)


def _auxiliary(files: Sequence[_File], held_back: int) -> Iterator[RowOrError]:
    """Yields all auxiliary questions for the full setting. `held_back` of them go to its
    validation file instead.
    """
    count = sum(1 for file in files for _ in _read(file))
    if held_back >= count:
        raise errors.InputFileError(
            files[0].path, f'{count:,} auxiliary questions, of which '
            f'{held_back:,} cannot be held back',
            remedy='give all files of auxiliary_train, or another --held_back')
    # Chosen by a hash of the position: every machine holds back the same questions.
    held = set(
        heapq.nsmallest(held_back, range(count),
                        key=lambda position: piece_files.hash_of(str(position))))
    position = 0
    for file in files:
        for record in _read(file):
            example = records.attempt(record, functools.partial(_question, file))
            yield example if isinstance(example, errors.InputFileError) else OutputRow(
                'full_valid' if position in held else 'full', example)
            position += 1


def _pieces(files: Sequence[pathlib.Path], options: Mapping[str, Any]) -> list[Piece]:
    found = _files_of(files)
    auxiliary = [file for file in found if file.split == AUXILIARY]
    reads = [([file], functools.partial(_split, file, bool(auxiliary)))
             for file in found if file.split != AUXILIARY]
    if auxiliary:
        reads.insert(0, (auxiliary,
                         functools.partial(_auxiliary, auxiliary, options['held_back'])))
    return [
        Piece(f'{number:04}', tuple(file.path for file in parts), read)
        for number, (parts, read) in enumerate(reads)]


SOURCES = (Source('mmlu', 'examples', 'multiple_choice', _WHAT, _pieces, {'held_back': 5000}),)
