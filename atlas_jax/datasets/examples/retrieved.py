"""Questions with retrieved passages, as FiD, DPR and Contriever write them, and the training data of DPR's retriever."""

import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from atlas_jax.datasets.examples import records, releases
from atlas_jax.datasets.examples.records import Example, Record
from atlas_jax.datasets.source import Piece, Source

_IDS = ('id', 'passage_id', 'psg_id')  # of a result; of DPR's data for Natural Questions; for the others


def _fid_question(n_passages: int, record: Record) -> Iterator[Example]:
    """Yields a question with its passages, best first as in the file; answers and target are optional."""
    example = _question(record)
    if target := record.text('target', ''):
        example['target'] = target
    example['passages'] = [_passage(passage) for passage in _first(record, 'ctxs', n_passages)]
    yield example


def _dpr_question(n_passages: int, record: Record) -> Iterator[Example]:
    """Yields a question with its gold passages, then the hard negative ones."""
    gold = [_passage(passage) for passage in record.objects('positive_ctxs')]
    hard = [_passage(passage) for passage in _first(record, 'hard_negative_ctxs', n_passages)]
    example = _question(record)
    if docids := [passage['id'] for passage in gold if 'id' in passage]:
        example['gold_docids'] = docids
    yield example | {'passages': [*gold, *hard]}


def _question(record: Record) -> Example:
    key = {'id': record.identity('id')} if record.fields.get('id') not in (None, '') else {}
    answers = {'answers': record.answers('answers')} if record.fields.get('answers') is not None else {}
    return {**key, 'question': record.text('question'), **answers}


def _first(record: Record, name: str, count: int) -> list[Record]:
    return record.objects(name)[:count or None]


def _passage(passage: Record) -> dict[str, str]:
    key = next((name for name in _IDS if passage.fields.get(name) not in (None, '')), None)
    section = passage.text('section', '')
    return {**({'id': passage.identity(key)} if key else {}), 'title': passage.text('title', ''),
            **({'section': section} if section else {}), 'text': passage.text('text', '')}


def _pieces(command: str, examples_of: Callable[[int, Record], Iterator[Example]], files: Sequence[pathlib.Path],
            options: Mapping[str, Any]) -> list[Piece]:
    return records.pieces(releases.check(files, command), functools.partial(examples_of, options['n_passages']))


SOURCES = (
    Source('fid', 'examples', 'qa', 'files of FiD, DPR or Contriever with question, answers and ctxs, a JSON array or JSON lines',
           functools.partial(_pieces, 'fid', _fid_question), {'n_passages': 0}),
    Source('dpr_retriever', 'examples', 'qa', 'biencoder-nq-train.json, biencoder-trivia-dev.json and the like, with positive_ctxs',
           functools.partial(_pieces, 'dpr_retriever', _dpr_question), {'n_passages': 0}),
)
