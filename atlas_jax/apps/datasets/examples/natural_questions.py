"""Natural Questions, the full release: documents as tokens, and annotations that name token spans.
"""

import re
from collections.abc import Iterator

from atlas_jax.apps.datasets import records
from atlas_jax.apps.datasets.examples.example_source import Example, example_source
from atlas_jax.apps.datasets.records import PublishedRecord
from atlas_jax.io import untrusted

_TAG = re.compile(r'<[^>]*>')


def question(record: PublishedRecord, max_answer_tokens: int, yes_no: bool) -> Iterator[Example]:
    """Yields the example of a question with a short answer; yields nothing for other questions.

    Args:
      record: A line of the simplified or the original release.
      max_answer_tokens: Ignores answers with more tokens; 0 sets no limit.
      yes_no: Counts yes and no as answers.

    Raises InputFileError: a field is missing or of another type.
    """
    tokens = _tokens(record)
    answers = []
    for annotation in record.objects('annotations'):
        for span in annotation.objects('short_answers'):
            first, stop = (_place(span, name, len(tokens)) for name in ('start_token', 'end_token'))
            words = tokens[first:stop]
            # Tags count towards the limit, as in the publisher's figures, but are not written.
            if not max_answer_tokens or len(words) <= max_answer_tokens:
                answers.append(' '.join(word for word in words if not _TAG.fullmatch(word)))
        verdict = annotation.text('yes_no_answer', 'NONE')
        if verdict not in ('NONE', 'YES', 'NO'):
            raise annotation.wrong('yes_no_answer',
                                   f'expected NONE, YES or NO, found {untrusted.shown(verdict)}')
        if yes_no and verdict != 'NONE':
            answers.append(verdict.lower())
    if answers := records.distinct(answers):
        yield {
            'id': record.identity('example_id'), 'question': record.text('question_text'),
            'answers': answers}


def _tokens(record: PublishedRecord) -> list[str]:
    """Returns the document's tokens, including tags.

    Raises InputFileError: a field is missing or of another type.
    """
    if 'document_tokens' in record.fields:
        # The publisher's simplified release joins tokens with blanks; a blank inside a token would
        # shift all later ones.
        return [
            token.text('token', ' ').replace(' ', '_')
            for token in record.objects('document_tokens')]
    return record.text('document_text').split(' ')


def _place(span: PublishedRecord, name: str, count: int) -> int:
    value = span.fields.get(name)
    if not records.is_whole(value) or not 0 <= value <= count:
        raise span.wrong(name, f'expected a token\'s number up to {count:,}, found '
                               f'{untrusted.shown(value)}')
    return value


# A piece for each file: the release has up to fifty files of a gigabyte.
SOURCES = (example_source(
    'nq', 'qa', 'v1.0-simplified_simplified-nq-train.jsonl.gz, '
    'v1.0-simplified_nq-dev-all.jsonl.gz, nq-train-*.jsonl.gz', question,
    {'max_answer_tokens': 5, 'yes_no': False},
    counted='questions left out: no short answer within the limit', piece_per_file=True),)
