"""Edits of the demo's knowledge: another year's government sections, or office holders exchanged in the texts.

A reader that answers from its passages follows the edit; one that answers from its weights or its training gives the stale name.
"""

import dataclasses
import random
import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

from atlas_jax.corpus import documents as corpus_documents
from atlas_jax.corpus import passages as corpus_passages
from atlas_jax.demo import factbook, facts
from atlas_jax.metrics import answers as answer_metrics

SECTION = 'Government'


@dataclasses.dataclass(frozen=True)
class EditionSwap:
    """The changes that turn an index of the newer edition into one of the older.

    documents  documents to add; one with a known docid replaces it
    removed    docids that the older edition does not have
    questions  questions about offices with another holder; `stale_answers` are the newer edition's
    """

    documents: tuple[corpus_documents.Document, ...]
    removed: tuple[str, ...]
    questions: tuple[factbook.Question, ...]


def swap_edition(documents: Sequence[corpus_documents.Document], questions: Sequence[factbook.Question], older: factbook.Factbook,
                 split: str = 'test') -> EditionSwap:
    """Replaces the government sections of those countries of `split` that both editions have."""
    # Countries of the split alone: the others were trained on.
    countries = {question.country for question in questions if question.split == split} & {document.title for document in older.documents}

    def government(edition: Sequence[corpus_documents.Document]) -> list[corpus_documents.Document]:
        return [document for document in edition if document.title in countries and document.section == SECTION]

    # Office holders stand in the government section; the other sections stay as they are.
    added = government(older.documents)
    kept = {document.docid for document in added}
    removed = tuple(document.docid for document in government(documents) if document.docid not in kept)
    before = {(question.country, question.field): question.answers for question in questions if question.office}
    swapped = []
    for question in older.questions:
        stale = before.get((question.country, question.field))
        # Where one name would count for both editions, an answer proves nothing.
        if question.office and question.country in countries and stale and not _share_a_name(question.answers, stale):
            swapped.append(dataclasses.replace(question, stale_answers=stale))
    return EditionSwap(tuple(added), removed, tuple(swapped))


def _share_a_name(first: Sequence[str], second: Sequence[str]) -> bool:
    """Returns True if one answer would count for both: the holder stayed, or has a namesake."""
    return any(answer_metrics.exact_match(answer, second) for answer in first)


Text = TypeVar('Text', corpus_documents.Document, corpus_passages.Passage)  # the title is the country


def swap_office_holders(passages: Sequence[Text], questions: Iterable[factbook.Question], seed: int = 0,
                        split: str = 'test') -> tuple[list[Text], list[factbook.Question]]:
    """Gives the offices asked about in `split` to people who hold the same office, with the same title, in another country.

    A holder whose name cannot be told apart from other words or people is left alone.

    Returns:
      The passages that changed (same docids, every mention of the old holder's name replaced), and the questions with the new answers and,
      as `stale_answers`, the old ones.
    """
    offices = [question for question in questions if question.office]
    # A generator of its own: the exchange depends on the seed alone.
    draw = random.Random(seed)
    changed: list[Text] = []
    swapped: list[factbook.Question] = []
    for country in sorted({question.country for question in offices if question.split == split}):
        old_texts = [passage for passage in passages if passage.title == country]
        new_texts = [passage.text for passage in old_texts]
        # Two offices of a country must not get the same successor.
        taken: set[str] = set()
        for holder, held in _holders(country, offices):
            for successor in _successors(holder, held, offices, draw):
                replaced = [_replace(text, holder, successor) for text in new_texts]
                if successor.name not in taken and _reads_well(holder, successor, new_texts, replaced):
                    new_texts = replaced
                    taken.add(successor.name)
                    swapped += [dataclasses.replace(question, answers=successor.answers, stale_answers=holder.answers) for question in held]
                    # The first successor who reads well is taken.
                    break
        changed += [dataclasses.replace(passage, text=text) for passage, text in zip(old_texts, new_texts, strict=True)
                    if passage.text != text]
    return changed, swapped


def _holders(country: str, offices: list[factbook.Question]) -> list[tuple[facts.Person, list[factbook.Question]]]:
    """Returns the country's office holders, each with the questions about his or her offices."""
    held: dict[facts.Person, list[factbook.Question]] = {}
    for question in offices:
        if question.country == country:
            held.setdefault(_person(question), []).append(question)
    return list(held.items())


def _successors(holder: facts.Person, held: list[factbook.Question], offices: list[factbook.Question],
                draw: random.Random) -> list[facts.Person]:
    """Returns people with the holder's title and one of the holder's offices in another country, in random order."""
    fields = {question.field for question in held}
    found = {_person(question) for question in offices if question.country != held[0].country and question.field in fields}
    # Sorted before shuffling: the order of a set differs from process to process.
    same_title = sorted((person for person in found if person.title == holder.title), key=lambda person: person.name)
    draw.shuffle(same_title)
    return same_title


def _person(question: factbook.Question) -> facts.Person:
    found = facts.parse_person(question.answers[-1])  # the last answer is the title with the name
    if found is None:
        raise ValueError(f'{question.question}: its last answer {question.answers[-1]!r} is no title with a name')
    return found


def _replace(text: str, holder: facts.Person, successor: facts.Person) -> str:
    """Replaces the full name, a shorter form of it ("John MAHAMA" for "John Dramani MAHAMA") and the bare surname in a text."""
    # Texts shorten given names, never the surname.
    given = [re.escape(word) for word in holder.name.split() if word not in holder.surname.split()]
    full = re.escape(holder.name).replace(r'\ Jr\.', r',?\ Jr\.?')  # "Albert BRYAN, Jr." in the text
    shorter = rf'(?:(?:{"|".join(given)}) )+{re.escape(holder.surname)}' if given else full
    # Full names first: their surname is gone when bare surnames are replaced.
    text = re.sub(rf'(?<!\w)(?:{full}|{shorter})(?!\w)', lambda match: successor.name, text)
    return re.sub(rf'(?<![\w-]){re.escape(holder.surname)}(?![\w-])', lambda match: successor.surname, text)


def _reads_well(holder: facts.Person, successor: facts.Person, before: list[str], after: list[str]) -> bool:
    """Returns True if the replacement left nothing of the old name, touched nobody else, added no second mention and kept the length."""
    # A namesake as successor could not be told from the holder.
    if before == after or holder.surname.lower() == successor.surname.lower():
        return False
    if any(_mentions(holder.surname, text) or holder.name in text for text in after):
        return False
    if any(_mentions(successor.surname, text) for text in before) or any(_has_stranger(text, successor) for text in after):
        return False
    # A document above the limit would be split into passages with docids of their own, and would no longer replace the old one.
    return all(len(new.split()) <= max(len(old.split()), factbook.MAX_WORDS) for old, new in zip(before, after, strict=True))


def _has_stranger(text: str, successor: facts.Person) -> bool:
    """Returns True if the bare surname stands beside a capitalised word that is no title: the old name meant somebody else there."""
    # The full name is meant; only bare surnames are doubtful.
    text = text.replace(successor.name, '_')
    for match in re.finditer(rf"(?:(?<!\w)(\w[\w.'-]*),? )?(?<!\w){re.escape(successor.surname)}(?!\w)(?: (\w[\w.'-]*))?", text):
        if any(word and word[0].isupper() and word not in facts.TITLE_WORDS for word in match.groups()):
            return True
    return False


def _mentions(surname: str, text: str) -> bool:
    return re.search(rf'(?<!\w){re.escape(surname)}(?!\w)', text, re.IGNORECASE) is not None
