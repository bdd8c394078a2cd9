"""Questions with retrieved passages, as FiD, DPR and Contriever write them, and the training data
of DPR's retriever.
"""

from collections.abc import Iterator

from atlas_jax.apps.datasets.examples.example_source import Example, example_source
from atlas_jax.apps.datasets.records import PublishedRecord

# Field names of a passage's id: in results, in DPR's data for Natural Questions, in its other data.
_IDS = ('id', 'passage_id', 'psg_id')


def _fid_question(record: PublishedRecord, n_passages: int) -> Iterator[Example]:
    """Yields a question with its passages in the file's order, best first; answers and target are
    optional.
    """
    example = _question(record)
    if target := record.text('target', ''):
        example['target'] = target
    example['passages'] = [_passage(passage) for passage in _first(record, 'ctxs', n_passages)]
    yield example


def _dpr_question(record: PublishedRecord, n_passages: int) -> Iterator[Example]:
    """Yields a question with its gold passages, followed by its hard negatives."""
    gold = [_passage(passage) for passage in record.objects('positive_ctxs')]
    hard = [_passage(passage) for passage in _first(record, 'hard_negative_ctxs', n_passages)]
    example = _question(record)
    if docids := [passage['id'] for passage in gold if 'id' in passage]:
        example['gold_docids'] = docids
    yield example | {'passages': [*gold, *hard]}


def _question(record: PublishedRecord) -> Example:
    has_answers = record.fields.get('answers') is not None
    return {**record.identity_if_given('id'), 'question': record.text('question'),
            **({'answers': record.answers('answers')} if has_answers else {})}


def _first(record: PublishedRecord, name: str, count: int) -> list[PublishedRecord]:
    return record.objects(name)[:count or None]


def _passage(passage: PublishedRecord) -> dict[str, str]:
    key = next((name for name in _IDS if passage.fields.get(name) not in (None, '')), 'id')
    section = passage.text('section', '')
    return {**passage.identity_if_given(key), 'title': passage.text('title', ''),
            **({'section': section} if section else {}), 'text': passage.text('text', '')}


SOURCES = (
    example_source('fid', 'qa', 'files of FiD, DPR or Contriever with question, answers and ctxs, '
                   'a JSON array or JSON lines', _fid_question, {'n_passages': 0}),
    example_source('dpr_retriever', 'qa', 'biencoder-nq-train.json, biencoder-trivia-dev.json and '
                   'the like, with positive_ctxs', _dpr_question, {'n_passages': 0}),
)
