"""Questions that come with their passages: SQuAD, HotpotQA, BoolQ and SciQ."""

import functools
import pathlib
import random
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from atlas_jax.datasets.examples import records, releases
from atlas_jax.datasets.examples.records import Example, Record
from atlas_jax.datasets.source import Piece, Source
from atlas_jax.io import untrusted


def squad_article(record: Record) -> Iterator[Example]:
    """Yields the questions of an article; those of SQuAD 2 that cannot be answered are left out.

    Raises InputFileError: a field is missing or of another type, or no answer is left.
    """
    title = record.text('title', '').replace('_', ' ')  # published as it stands in the address
    for number, paragraph in enumerate(record.objects('paragraphs')):
        passage = {'id': f'{title}#{number}', 'title': title, 'text': paragraph.text('context')}
        for question in paragraph.objects('qas'):
            if question.fields.get('is_impossible'):
                continue
            answers = records.different(answer.text('text') for answer in question.objects('answers'))
            if not answers:
                raise question.wrong('answers', 'no answer')
            yield {'id': question.identity('id'), 'question': question.text('question'), 'answers': answers,
                   'gold_docids': [passage['id']], 'passages': [passage]}


def hotpot_question(record: Record) -> Iterator[Example]:
    """Yields a question with the paragraphs of its context, which are called by their titles; in a test file it has no answer.

    Raises InputFileError: as squad_article.
    """
    example: Example = {'id': record.identity('_id'), 'question': record.text('question')}
    if 'answer' in record.fields:
        example['answers'] = [record.text('answer')]
    gold = [title for title, _ in _titled(record, 'supporting_facts', records.is_whole)]
    if gold:
        example['gold_docids'] = list(dict.fromkeys(gold))
    example['passages'] = [{'id': title, 'title': title, 'text': ' '.join(''.join(sentences).split())}
                           for title, sentences in _titled(record, 'context', _is_texts)]
    yield example


def boolq_question(record: Record) -> Iterator[Example]:
    """Yields a question that is answered by yes or no, in BoolQ's own form and in SuperGLUE's; in a test file it has no answer.

    Raises InputFileError: as squad_article.
    """
    title, text = record.text('title', ''), record.text('passage')
    # SuperGLUE writes the title before the passage.
    if not title and ' -- ' in text:
        title, text = (part.strip() for part in text.split(' -- ', 1))
    example: Example = {'question': record.text('question'), 'passages': [{'title': title, 'text': text}]}
    name = 'answer' if 'answer' in record.fields else 'label'
    if name in record.fields:
        if not isinstance(record.fields[name], bool):
            raise record.wrong(name, f'expected true or false, found {untrusted.shown(record.fields[name])}')
        example['answers'] = ['yes' if record.fields[name] else 'no']
    yield example


def sciq_question(record: Record) -> Iterator[Example]:
    """Yields a question, with the passage that supports it if there is one. Raises InputFileError: as squad_article."""
    support = record.text('support', '')
    yield {'question': record.text('question'), 'answers': [record.text('correct_answer')],
           **({'passages': [{'text': support}]} if support else {})}


def sciq_choices(record: Record) -> Iterator[Example]:
    """Yields a question with four options, in an order that depends on its text alone. Raises InputFileError: as squad_article."""
    example = next(sciq_question(record))
    right = example.pop('answers')[0]
    texts = [right, *(record.text(f'distractor{number}') for number in (1, 2, 3))]
    random.Random(example['question']).shuffle(texts)  # published with the right one in a field of its own
    options = dict(zip(string.ascii_uppercase, texts, strict=False))
    yield {**example, 'options': options, 'answer': next(letter for letter, text in options.items() if text == right)}


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(records.is_text, value))


def _titled(record: Record, name: str, is_second: Callable[[object], bool]) -> list[tuple[str, Any]]:
    """Returns a list of pairs of a title and something. Raises InputFileError: it is no such list."""
    pairs = record.fields.get(name) or []
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 and records.is_text(pair[0]) and is_second(pair[1])
                                              for pair in pairs):
        raise record.wrong(name, f'expected a list of pairs that begin with a title, found {untrusted.shown(pairs)}')
    return [(title, second) for title, second in pairs]


def _pieces(command: str, examples_of: Callable[[Record], Iterator[Example]], files: Sequence[pathlib.Path],
            options: Mapping[str, Any]) -> list[Piece]:
    return records.pieces(releases.check(files, command), examples_of)


SOURCES = (
    Source('squad', 'examples', 'qa', 'train-v1.1.json, dev-v1.1.json, train-v2.0.json, dev-v2.0.json',
           functools.partial(_pieces, 'squad', squad_article)),
    Source('hotpotqa', 'examples', 'qa', 'hotpot_train_v1.1.json, hotpot_dev_distractor_v1.json, hotpot_dev_fullwiki_v1.json',
           functools.partial(_pieces, 'hotpotqa', hotpot_question)),
    Source('boolq', 'examples', 'qa', 'train.jsonl, dev.jsonl, test.jsonl of BoolQ; train.jsonl, val.jsonl, test.jsonl of SuperGLUE',
           functools.partial(_pieces, 'boolq', boolq_question)),
    Source('sciq', 'examples', 'qa', 'train.json, valid.json, test.json', functools.partial(_pieces, 'sciq', sciq_question)),
    Source('sciq_choices', 'examples', 'multiple_choice', 'train.json, valid.json, test.json of SciQ',
           functools.partial(_pieces, 'sciq', sciq_choices)),
)
