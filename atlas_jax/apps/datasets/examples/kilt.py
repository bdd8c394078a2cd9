"""The eleven tasks of KILT, as published.

TriviaQA's files lack the questions, which come from TriviaQA's own files.
"""

import functools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from atlas_jax import errors
from atlas_jax.apps.datasets import records
from atlas_jax.apps.datasets.examples import example_source, releases
from atlas_jax.apps.datasets.examples.example_source import Example
from atlas_jax.apps.datasets.records import PublishedRecord
from atlas_jax.apps.datasets.source import OutputRow, Piece, RowOrError, Source
from atlas_jax.runtime import notes

# The names that the published files begin with.
TASKS = ('fever', 'aidayago2', 'wned', 'cweb', 'trex', 'structured_zeroshot', 'nq', 'hotpotqa',
         'triviaqa', 'eli5', 'wow')
_TRIVIA = ('wikipedia-train.json, wikipedia-dev.json and wikipedia-test-without-answers.json of '
           'triviaqa-rc')
_PROVENANCE = ('title', 'section', 'start_paragraph_id', 'end_paragraph_id')
_Files = Sequence[tuple[pathlib.Path, str]]  # (path, form), as for records.read


def _example(questions: Mapping[str, str] | None, is_test: bool,
             record: PublishedRecord) -> Iterator[Example]:
    """Yields the example of a line; lines of a test file have no output. `questions` holds
    TriviaQA's questions by id.
    """
    key = record.identity('id')
    if questions is not None and not record.text('input', ''):
        if key not in questions:
            raise record.wrong('id', f'no question "{key}" in the files of TriviaQA',
                               f'give {_TRIVIA}')
        example: Example = {'id': key, 'input': questions[key]}
    else:
        example = {'id': key, 'input': record.text('input')}
    if record.fields.get('output') or not is_test:
        example['output'] = [part for part in map(_output, record.objects('output')) if part]
        if not any('answer' in part for part in example['output']):
            raise record.wrong('output', 'no "answer" that is not blank')
    yield example


def _output(part: PublishedRecord) -> dict[str, Any]:
    """Returns the answer and its provenance, from which evaluations take the gold pages."""
    output: dict[str, Any] = {}
    if answer := part.text('answer', ''):
        output['answer'] = answer
    if pages := part.objects('provenance'):
        output['provenance'] = [
            {'wikipedia_id': page.identity('wikipedia_id'), **_rest(page)} for page in pages]
    return output


def _rest(page: PublishedRecord) -> dict[str, Any]:
    return {
        name: value for name in _PROVENANCE
        if records.is_text(value := page.fields.get(name)) or records.is_whole(value)}


def _read(path: pathlib.Path, output: str, trivia: _Files) -> Iterator[RowOrError]:
    """Yields the examples of a file, and prints how many with answers name no page."""
    questions, is_test = dict(_questions(trivia)) if trivia else None, output.endswith('-test')
    total = unproven = 0
    for item in example_source.convert_records(
            [(path, 'lines')], output, functools.partial(_example, questions, is_test)):
        if isinstance(item, OutputRow) and 'output' in item.fields:
            total += 1
            unproven += not any('provenance' in part for part in item.fields['output'])
        yield item
    if unproven:
        notes.say(f'{path.name}: {unproven:,} of {total:,} examples have no provenance: these have '
                  'answers, and no gold passages')


def _questions(trivia: _Files) -> Iterator[tuple[str, str]]:
    for path, form in trivia:
        for record in records.read(path, form):
            if isinstance(record, errors.InputFileError):
                raise record
            yield record.identity('QuestionId'), record.text('Question')


def _pieces(files: Sequence[pathlib.Path], options: Mapping[str, Any]) -> list[Piece]:
    releases.check_distinct(files)
    found = [(path, releases.release_of(path, 'kilt', 'triviaqa')) for path in files]
    trivia = [(path, release.form) for path, release in found if release.command == 'triviaqa']
    outputs: dict[str, tuple[pathlib.Path, _Files]] = {}
    for path in (path for path, release in found if release.command == 'kilt'):
        task = next((task for task in sorted(TASKS, key=len, reverse=True)
                     if path.name.lower().startswith(task)), None)
        if task is None:
            # Only the file's name distinguishes FEVER's labels from answers.
            raise errors.InputFileError(path, 'the name of a KILT file begins with its task: '
                                              f'{", ".join(TASKS)}',
                                        remedy='give it the name that it was published under')
        output = f'{task}-{releases.split_of(path)}'
        if output in outputs:
            raise errors.InputFileError(path,
                                        f'{outputs[output][0].name} is the same split of {task}',
                                        remedy='give one of them')
        if task == 'triviaqa' and not trivia and not _has_questions(path):
            raise errors.InputFileError(path, 'KILT\'s TriviaQA has no questions',
                                        remedy=f'give {_TRIVIA} beside it')
        outputs[output] = path, trivia if task == 'triviaqa' else []
    if not outputs:
        raise errors.InputFileError(files[0], 'questions of TriviaQA, and no file of KILT',
                                    remedy='give triviaqa-dev_id-kilt.jsonl beside it')
    return [
        Piece(f'{number:04}', (path, *(file for file, _ in given)),
              functools.partial(_read, path, output, given))
        for number, (output, (path, given)) in enumerate(outputs.items())]


def _has_questions(path: pathlib.Path) -> bool:
    first = next(records.read(path, 'lines'))
    return isinstance(first, PublishedRecord) and bool(first.text('input', ''))


SOURCES = (Source(
    'kilt', 'examples', 'kilt', 'TASK-train-kilt.jsonl, TASK-dev-kilt.jsonl, '
    f'TASK-test_without_answers-kilt.jsonl of any of {", ".join(TASKS)}; for '
    'triviaqa-*_id-kilt.jsonl also TriviaQA\'s wikipedia-*.json', _pieces), )
