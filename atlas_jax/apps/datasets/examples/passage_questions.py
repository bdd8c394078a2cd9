"""Questions that come with their passages: SQuAD, HotpotQA, BoolQ and SciQ."""

import random
import string
from collections.abc import Callable, Iterator
from typing import Any

from atlas_jax.apps.datasets import records
from atlas_jax.apps.datasets.examples.example_source import Example, example_source
from atlas_jax.apps.datasets.records import PublishedRecord
from atlas_jax.io import untrusted


def squad_article(record: PublishedRecord) -> Iterator[Example]:
    """Yields the questions of an article, without the unanswerable ones of SQuAD 2.

    Raises InputFileError: a field is missing or of another type, or there is no answer.
    """
    title = record.text('title', '').replace('_', ' ')  # titles are published as in URLs
    for number, paragraph in enumerate(record.objects('paragraphs')):
        passage = {'id': f'{title}#{number}', 'title': title, 'text': paragraph.text('context')}
        for question in paragraph.objects('qas'):
            if question.fields.get('is_impossible'):
                continue
            answers = records.distinct(
                answer.text('text') for answer in question.objects('answers'))
            if not answers:
                raise question.wrong('answers', 'no answer')
            yield {
                'id': question.identity('id'), 'question': question.text('question'),
                'answers': answers, 'gold_docids': [passage['id']], 'passages': [passage]}


def hotpot_question(record: PublishedRecord) -> Iterator[Example]:
    """Yields a question with the paragraphs of its context, whose ids are their titles. Questions
    of a test file have no answer.

    Raises InputFileError: the same errors as squad_article.
    """
    example: Example = {'id': record.identity('_id'), 'question': record.text('question')}
    if 'answer' in record.fields:
        example['answers'] = [record.text('answer')]
    gold = [title for title, _ in _titled(record, 'supporting_facts', records.is_whole)]
    if gold:
        example['gold_docids'] = list(dict.fromkeys(gold))
    example['passages'] = [
        {'id': title, 'title': title, 'text': ' '.join(''.join(sentences).split())}
        for title, sentences in _titled(record, 'context', _is_texts)]
    yield example


def boolq_question(record: PublishedRecord) -> Iterator[Example]:
    """Yields a yes-no question, from BoolQ's own files or SuperGLUE's. Questions of a test file
    have no answer.

    Raises InputFileError: the same errors as squad_article.
    """
    title, text = record.text('title', ''), record.text('passage')
    # SuperGLUE writes the title before the passage.
    if not title and ' -- ' in text:
        title, text = (part.strip() for part in text.split(' -- ', 1))
    example: Example = {
        'question': record.text('question'), 'passages': [{'title': title, 'text': text}]}
    name = 'answer' if 'answer' in record.fields else 'label'
    if name in record.fields:
        if not isinstance(record.fields[name], bool):
            raise record.wrong(name, 'expected true or false, found '
                                     f'{untrusted.shown(record.fields[name])}')
        example['answers'] = ['yes' if record.fields[name] else 'no']
    yield example


def sciq_question(record: PublishedRecord) -> Iterator[Example]:
    """Yields a question, with the passage that supports it if there is one.

    Raises InputFileError: the same errors as squad_article.
    """
    support = record.text('support', '')
    yield {'question': record.text('question'), 'answers': [record.text('correct_answer')],
           **({'passages': [{'text': support}]} if support else {})}


def sciq_choices(record: PublishedRecord) -> Iterator[Example]:
    """Yields a question with four options, in an order that depends only on the question's text.

    Raises InputFileError: the same errors as squad_article.
    """
    example = next(sciq_question(record))
    right = example.pop('answers')[0]
    texts = [right, *(record.text(f'distractor{number}') for number in (1, 2, 3))]
    # The publisher gives the right answer in a field of its own.
    random.Random(example['question']).shuffle(texts)
    options = dict(zip(string.ascii_uppercase, texts, strict=False))
    yield {
        **example, 'options': options,
        'answer': next(letter for letter, text in options.items() if text == right)}


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(records.is_text, value))


def _titled(record: PublishedRecord, name: str,
            is_second: Callable[[object], bool]) -> list[tuple[str, Any]]:
    """Returns a list of pairs of a title and a value that `is_second` accepts.

    Raises InputFileError: the field is no such list.
    """
    pairs = record.fields.get(name) or []
    if not isinstance(pairs, list) or not all(
            isinstance(pair, list) and len(pair) == 2 and records.is_text(pair[0])
            and is_second(pair[1]) for pair in pairs):
        raise record.wrong(name, 'expected a list of pairs that begin with a title, found '
                                 f'{untrusted.shown(pairs)}')
    return [(title, second) for title, second in pairs]


SOURCES = (
    example_source('squad', 'qa', 'train-v1.1.json, dev-v1.1.json, train-v2.0.json, dev-v2.0.json',
                   squad_article),
    example_source('hotpotqa', 'qa', 'hotpot_train_v1.1.json, hotpot_dev_distractor_v1.json, '
                   'hotpot_dev_fullwiki_v1.json', hotpot_question),
    example_source('boolq', 'qa', 'train.jsonl, dev.jsonl, test.jsonl of BoolQ; train.jsonl, '
                   'val.jsonl, test.jsonl of SuperGLUE', boolq_question),
    example_source('sciq', 'qa', 'train.json, valid.json, test.json', sciq_question),
    example_source('sciq_choices', 'multiple_choice', 'train.json, valid.json, test.json of SciQ',
                   sciq_choices, release='sciq'),
)
