"""Natural Questions, the full release: documents as tokens, and annotations that name spans of them."""

import functools
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from atlas_jax.datasets.examples import records, releases
from atlas_jax.datasets.examples.records import Example, Record
from atlas_jax.datasets.source import Piece, Source
from atlas_jax.io import untrusted

_TAG = re.compile(r'<[^>]*>')


def question(max_answer_tokens: int, yes_no: bool, record: Record) -> Iterator[Example]:
    """Yields the example of a question that has a short answer; nothing of one that has none.

    Args:
      max_answer_tokens: of the short answers that count; 0 sets no limit.
      yes_no: counts yes and no as answers.
      record: a line of the simplified or the original release.

    Raises InputFileError: a field is missing or of another type.
    """
    tokens = _tokens(record)
    answers = []
    for annotation in record.objects('annotations'):
        for span in annotation.objects('short_answers'):
            words = tokens[_place(span, 'start_token', len(tokens)):_place(span, 'end_token', len(tokens))]
            # Counted as published, with the tags; written without them.
            if not max_answer_tokens or len(words) <= max_answer_tokens:
                answers.append(' '.join(word for word in words if not _TAG.fullmatch(word)))
        said = annotation.text('yes_no_answer', 'NONE')
        if said not in ('NONE', 'YES', 'NO'):
            raise annotation.wrong('yes_no_answer', f'expected NONE, YES or NO, found {untrusted.shown(said)}')
        if yes_no and said != 'NONE':
            answers.append(said.lower())
    if answers := records.different(answers):
        yield {'id': record.identity('example_id'), 'question': record.text('question_text'), 'answers': answers}


def _tokens(record: Record) -> list[str]:
    """Returns the document's tokens, tags among them. Raises InputFileError: a field is missing or of another type."""
    if 'document_tokens' in record.fields:
        # The publisher's own simplification joins them by blanks; a token with a blank in it would shift all behind it.
        return [token.text('token', ' ').replace(' ', '_') for token in record.objects('document_tokens')]
    return record.text('document_text').split(' ')


def _place(span: Record, name: str, count: int) -> int:
    value = span.fields.get(name)
    if not records.is_whole(value) or not 0 <= value <= count:
        raise span.wrong(name, f'expected a token\'s number up to {count:,}, found {untrusted.shown(value)}')
    return value


def _pieces(files: Sequence[pathlib.Path], options: Mapping[str, Any]) -> list[Piece]:
    read = functools.partial(question, options['max_answer_tokens'], options['yes_no'])
    counted = 'questions left out: no short answer within the limit'
    # A piece for each file, since the release has up to fifty of a gigabyte.
    return [Piece(f'{number:04}', (path,), functools.partial(records.convert, [(path, form)], output, read, counted))
            for number, (output, path, form) in enumerate(releases.check(files, 'nq'))]


SOURCES = (
    Source('nq', 'examples', 'qa', 'v1.0-simplified_simplified-nq-train.jsonl.gz, v1.0-simplified_nq-dev-all.jsonl.gz, nq-train-*.jsonl.gz',
           _pieces, {'max_answer_tokens': 5, 'yes_no': False}),
)
