"""Questions with answers and no passages: Natural Questions open, WebQuestions and TriviaQA."""

import re
from collections.abc import Iterator, Mapping

from atlas_jax.apps.datasets import records
from atlas_jax.apps.datasets.examples.example_source import Example, example_source
from atlas_jax.apps.datasets.records import PublishedRecord
from atlas_jax.io import untrusted

_DESCRIPTION = re.compile(r'\(description (?:"((?:[^"\\]|\\.)*)"|([^\s()"]+))\)')


def natural_question(record: PublishedRecord) -> Iterator[Example]:
    """Yields the example of a line of NQ-open.

    Raises InputFileError: a field is missing or of another type, or there is no answer.
    """
    yield {'question': record.text('question'), 'answers': record.answers('answer')}


def web_question(record: PublishedRecord) -> Iterator[Example]:
    """Yields the example of an element of WebQuestions.

    Raises InputFileError: the same errors as natural_question, or answers that are not a Lisp list.
    """
    question, written = record.text('utterance'), record.text('targetValue')
    # A Lisp list of descriptions, with quotes around those that have blanks.
    inner = re.fullmatch(r'\(list\s*(.*)\)', written, re.DOTALL)
    if not inner or _DESCRIPTION.sub('', inner[1]).strip():
        raise record.wrong('targetValue',
                           f'expected (list (description …) …), found {untrusted.shown(written)}')
    found = [
        re.sub(r'\\(.)', r'\1', quoted) if quoted else bare
        for quoted, bare in _DESCRIPTION.findall(inner[1])]
    if not (answers := records.distinct(found)):
        raise record.wrong('targetValue', 'no answer that is not blank')
    yield {'question': question, 'answers': answers}


def trivia_question(record: PublishedRecord) -> Iterator[Example]:
    """Yields the example of an element of TriviaQA; those of a test file have no answers.

    Raises InputFileError: the same errors as natural_question.
    """
    example: Example = {'id': record.identity('QuestionId'), 'question': record.text('Question')}
    if record.fields.get('Answer') is not None:
        answer = _answer_of(record)
        value = answer.text('Value')
        aliases = answer.answers('Aliases') if answer.fields.get('Aliases') else []
        example['answers'] = records.distinct([value, *aliases])
        # Many values are in capitals, as quizzes print them. FiD and Atlas train on
        # "Sinclair Lewis" for "SINCLAIR LEWIS".
        example['target'] = value.title() if value.isupper() else value
    yield example


def _answer_of(record: PublishedRecord) -> PublishedRecord:
    """Returns the object in the field Answer. Raises InputFileError: it is something else."""
    value = record.fields['Answer']
    if not isinstance(value, Mapping):
        raise record.wrong('Answer', f'expected an object, found {untrusted.shown(value)}')
    return PublishedRecord(record.path, value, record.line,
                           '.'.join(part for part in (record.place, 'Answer') if part))


SOURCES = (
    example_source('nq_open', 'qa', 'NQ-open.train.jsonl, NQ-open.dev.jsonl; with FiD\'s '
                   'NQ.*.idx.json, its train, dev and test', natural_question, with_lists=True),
    example_source('triviaqa', 'qa', 'unfiltered-web-*.json or wikipedia-*.json, web-*.json; with '
                   'FiD\'s TQA.*.idx.json, its train, dev and test', trivia_question,
                   with_lists=True),
    example_source('web_questions', 'qa', 'webquestions.examples.train.json, '
                   'webquestions.examples.test.json', web_question),
)
