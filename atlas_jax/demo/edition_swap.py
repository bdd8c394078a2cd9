"""The knowledge of another year: the government sections of the test countries as an older edition of the Factbook has them.

A reader that answers from its passages names the office holders of that year; one that answers from its weights or its training does not.
"""

import dataclasses
from collections.abc import Sequence

from atlas_jax.corpus import documents as corpus_documents
from atlas_jax.demo import factbook
from atlas_jax.metrics import answers as answer_metrics

SECTION = 'Government'


@dataclasses.dataclass(frozen=True)
class EditionSwap:
    """What turns an index of the newer edition into one of the older.

    documents  those to add; one with a known docid replaces it
    removed    docids that the older edition does not have
    questions  about offices whose holder is another one; `stale_answers` are the newer edition's
    """

    documents: tuple[corpus_documents.Document, ...]
    removed: tuple[str, ...]
    questions: tuple[factbook.Question, ...]


def swap_edition(documents: Sequence[corpus_documents.Document], questions: Sequence[factbook.Question], older: factbook.Factbook,
                 split: str = 'test') -> EditionSwap:
    """Replaces the government sections of the countries of `split` that both editions have."""
    countries = {question.country for question in questions if question.split == split} & {document.title for document in older.documents}

    def government(edition: Sequence[corpus_documents.Document]) -> list[corpus_documents.Document]:
        return [document for document in edition if document.title in countries and document.section == SECTION]

    added = government(older.documents)
    kept = {document.docid for document in added}
    removed = tuple(document.docid for document in government(documents) if document.docid not in kept)
    before = {(question.country, question.field): question.answers for question in questions if question.office}
    swapped = []
    for question in older.questions:
        stale = before.get((question.country, question.field))
        if question.office and question.country in countries and stale and not _share_a_name(question.answers, stale):
            swapped.append(dataclasses.replace(question, stale_answers=stale))
    return EditionSwap(tuple(added), removed, tuple(swapped))


def _share_a_name(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether one answer would count for both: the holder stayed, or has a namesake."""
    return any(answer_metrics.exact_match(answer, second) for answer in first)
