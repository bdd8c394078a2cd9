"""Questions with answers and no passages: Natural Questions open, WebQuestions and TriviaQA."""

import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from atlas_jax.datasets.examples import records, releases, split_lists
from atlas_jax.datasets.examples.records import Example, Record
from atlas_jax.datasets.source import Piece, Source
from atlas_jax.io import untrusted

_DESCRIPTION = re.compile(r'\(description (?:"((?:[^"\\]|\\.)*)"|([^\s()"]+))\)')


def natural_question(record: Record) -> Iterator[Example]:
    """Yields the example of a line of NQ-open. Raises InputFileError: a field is missing or of another type, or no answer is left."""
    yield {'question': record.text('question'), 'answers': record.answers('answer')}


def web_question(record: Record) -> Iterator[Example]:
    """Yields the example of an element of WebQuestions. Raises InputFileError: as natural_question; answers that are no such list."""
    question, written = record.text('utterance'), record.text('targetValue')
    # A Lisp list of descriptions, quoted where they have blanks in them.
    inner = re.fullmatch(r'\(list\s*(.*)\)', written, re.DOTALL)
    if not inner or _DESCRIPTION.sub('', inner[1]).strip():
        raise record.wrong('targetValue', f'expected (list (description …) …), found {untrusted.shown(written)}')
    found = [re.sub(r'\\(.)', r'\1', quoted) if quoted else bare for quoted, bare in _DESCRIPTION.findall(inner[1])]
    if not (answers := records.different(found)):
        raise record.wrong('targetValue', 'no answer that is not blank')
    yield {'question': question, 'answers': answers}


def trivia_question(record: Record) -> Iterator[Example]:
    """Yields the example of an element of TriviaQA; in a test file it has no answers.

    Raises InputFileError: as natural_question.
    """
    example: Example = {'id': record.identity('QuestionId'), 'question': record.text('Question')}
    if record.fields.get('Answer') is not None:
        answer = answer_of(record, 'Answer')
        value = answer.text('Value')
        example['answers'] = records.different([value, *answer.answers('Aliases')] if answer.fields.get('Aliases') else [value])
        # Many values are in capital letters, as quizzes print them; FiD and Atlas train on "Sinclair Lewis" for "SINCLAIR LEWIS".
        example['target'] = value.title() if value.isupper() else value
    yield example


def answer_of(record: Record, name: str) -> Record:
    """Returns the object that a field holds. Raises InputFileError: it holds something else."""
    value = record.fields[name]
    if not isinstance(value, Mapping):
        raise record.wrong(name, f'expected an object, found {untrusted.shown(value)}')
    return Record(record.path, value, record.line, '.'.join(part for part in (record.place, name) if part))


def _natural_questions(files: Sequence[pathlib.Path], options: Mapping[str, Any]) -> list[Piece]:
    return split_lists.pieces(files, 'nq_open', natural_question)


def _web_questions(files: Sequence[pathlib.Path], options: Mapping[str, Any]) -> list[Piece]:
    return records.pieces(releases.check(files, 'web_questions'), web_question)


def _trivia_questions(files: Sequence[pathlib.Path], options: Mapping[str, Any]) -> list[Piece]:
    return split_lists.pieces(files, 'triviaqa', trivia_question)


SOURCES = (
    Source('nq_open', 'examples', 'qa', 'NQ-open.train.jsonl, NQ-open.dev.jsonl; with FiD\'s NQ.*.idx.json, its train, dev and test',
           _natural_questions),
    Source('triviaqa', 'examples', 'qa', 'unfiltered-web-*.json or wikipedia-*.json, web-*.json; with FiD\'s TQA.*.idx.json, its '
           'train, dev and test', _trivia_questions),
    Source('web_questions', 'examples', 'qa', 'webquestions.examples.train.json, webquestions.examples.test.json', _web_questions),
)
