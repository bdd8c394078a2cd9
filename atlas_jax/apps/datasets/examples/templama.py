"""TempLAMA: sentences with a gap, whose answer depends on the year (Dhingra et al.

2022, arXiv 2106.15110).
"""

import functools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from atlas_jax import errors
from atlas_jax.apps.datasets import records
from atlas_jax.apps.datasets.examples import releases
from atlas_jax.apps.datasets.examples.example_source import Example
from atlas_jax.apps.datasets.records import PublishedRecord
from atlas_jax.apps.datasets.source import OutputRow, Piece, RowOrError, Source
from atlas_jax.io import untrusted

_GAP = '_X_'


def _question(record: PublishedRecord) -> tuple[str, Example]:
    """Returns the year and the example of a line. T5's sentinel replaces the gap, and the reader
    fills it.
    """
    query, year = record.text('query'), record.identity('date')
    if query.count(_GAP) != 1:
        raise record.wrong('query',
                           f'expected a sentence with one {_GAP}, found {untrusted.shown(query)}')
    if not year.isdigit() or len(year) != 4:
        raise record.wrong('date', f'expected a year, found {untrusted.shown(year)}')
    answers = records.distinct(answer.text('name') for answer in record.objects('answer'))
    if not answers:
        raise record.wrong('answer', 'no answer')
    key = {'id': record.identity('id')} if 'id' in record.fields else {}
    # Evaluations can report their results by `year`.
    return year, {
        **key, 'question': query.replace(_GAP, '<extra_id_0>'), 'answers': answers,
        'year': int(year)}


def _changed(examples: Sequence[tuple[str, Example]]) -> list[tuple[str, Example]]:
    """Returns a question's first example and the later ones that share no answer with it; nothing
    if there are no such later ones.
    """
    first, later = examples[0], [
        example for example in examples[1:]
        if not set(example[1]['answers']) & set(examples[0][1]['answers'])]
    return [first, *later] if later else []


def _read(path: pathlib.Path, split: str, years: frozenset[str],
          keep_unchanged: bool) -> Iterator[RowOrError]:
    # The questions of the chosen years are held in memory: the largest file has 30,000 lines.
    questions: dict[str, list[tuple[str, Example]]] = {}
    seen: set[str] = set()

    def new_question(record: PublishedRecord) -> tuple[str, Example]:
        year, example = _question(record)
        if example.get('id') in seen:
            raise record.wrong('id', f'"{example["id"]}" was the id of an earlier example')
        return year, example

    for record in records.read(path, 'lines'):
        found = records.attempt(record, new_question)
        if isinstance(found, errors.InputFileError):
            yield found
            continue
        year, example = found
        if 'id' in example:
            seen.add(example['id'])
        if not years or year in years:
            questions.setdefault(example['question'], []).append(found)
    for examples in questions.values():
        yield from (OutputRow(f'{split}.{year}', example)
                    for year, example in (examples if keep_unchanged else _changed(examples)))


def _pieces(files: Sequence[pathlib.Path], options: Mapping[str, Any]) -> list[Piece]:
    years = frozenset(options['years'].replace(',', ' ').split())
    if wrong := sorted(year for year in years if not (year.isdigit() and len(year) == 4)):
        raise errors.ConfigError(f'--years has "{wrong[0]}"; give years, such as 2017,2020, or "" '
                                 'for all')
    return [
        Piece(f'{number:04}', (path, ),
              functools.partial(_read, path, split, years, options['keep_unchanged']))
        for number, (split, path, _) in enumerate(releases.check(files, 'templama'))]


SOURCES = (Source('templama', 'examples', 'qa', 'train.json, val.json, test.json', _pieces,
                  {'years': '2017,2020', 'keep_unchanged': False}), )
