"""Edits of the demo's knowledge: government sections of another year, or office holders exchanged
in the texts.

A reader that answers from its passages gives the new name; one that answers from its weights gives
the stale one.
"""

import dataclasses
import random
import re
from collections.abc import Iterable, Sequence

from atlas_jax.apps.demo import factbook, facts
from atlas_jax.corpus.documents import Document
from atlas_jax.metrics import answers as answer_metrics

SECTION = 'Government'


@dataclasses.dataclass(frozen=True)
class EditionSwap:
    """The changes that turn an index of the newer edition into one of the older edition.

    documents  documents to add, or to replace those of the same docid
    removed    docids that the older edition lacks
    questions  questions about offices with another holder; `stale_answers` are the newer edition's
    """

    documents: tuple[Document, ...]
    removed: tuple[str, ...]
    questions: tuple[factbook.FactbookQuestion, ...]


def swap_edition(documents: Sequence[Document],
                 questions: Sequence[factbook.FactbookQuestion], older: factbook.Factbook,
                 split: str = 'test') -> EditionSwap:
    """Replaces the government sections of the countries of `split` that both editions have."""
    # Only countries of the split: the reader was trained on others.
    countries = {question.country for question in questions if question.split == split} & {
        document.title for document in older.documents}

    def government(edition: Sequence[Document]) -> list[Document]:
        return [
            document for document in edition
            if document.title in countries and document.section == SECTION]

    # Only the government section names office holders.
    added = government(older.documents)
    kept = {document.docid for document in added}
    removed = tuple(
        document.docid for document in government(documents) if document.docid not in kept)
    before = {(question.country, question.field): question.answers
              for question in questions if question.office}
    swapped = []
    for question in older.questions:
        stale = before.get((question.country, question.field))
        # An answer that counts for both editions would prove nothing.
        if question.office and question.country in countries and stale and not _share_a_name(
                question.answers, stale):
            swapped.append(dataclasses.replace(question, stale_answers=stale))
    return EditionSwap(tuple(added), removed, tuple(swapped))


def _share_a_name(first: Sequence[str], second: Sequence[str]) -> bool:
    """Returns whether one answer would count for both: the holder stayed, or has a namesake."""
    return any(answer_metrics.exact_match(answer, second) for answer in first)


def swap_office_holders(
        documents: Sequence[Document], questions: Iterable[factbook.FactbookQuestion],
        seed: int = 0, split: str = 'test'
) -> tuple[list[Document], list[factbook.FactbookQuestion]]:
    """Gives the offices in the questions of `split` to people who hold the same office, with the
    same title, in another country.

    A holder keeps the office if his or her name could be confused with other words or people.

    Returns:
      The changed documents, with the same docids and every mention of the old holder replaced; and
      the questions with the new answers, and the old ones as `stale_answers`.
    """
    offices = [question for question in questions if question.office]
    # A separate generator, so that the exchange depends only on the seed.
    draw = random.Random(seed)
    changed: list[Document] = []
    swapped: list[factbook.FactbookQuestion] = []
    for country in sorted({question.country for question in offices if question.split == split}):
        old = [document for document in documents if document.title == country]
        new_texts = [document.text for document in old]
        # Two holders in a country must not get the same successor.
        taken: set[str] = set()
        for holder, held in _holders(country, offices):
            for successor in _successors(holder, held, offices, draw):
                replaced = [_replace(text, holder, successor) for text in new_texts]
                if successor.name not in taken and _reads_well(holder, successor, new_texts,
                                                               replaced):
                    new_texts = replaced
                    taken.add(successor.name)
                    swapped += [
                        dataclasses.replace(question, answers=successor.answers,
                                            stale_answers=holder.answers) for question in held]
                    break
        changed += [dataclasses.replace(document, text=text)
                    for document, text in zip(old, new_texts, strict=True)
                    if document.text != text]
    return changed, swapped


def _holders(country: str, offices: list[factbook.FactbookQuestion]
             ) -> list[tuple[facts.Person, list[factbook.FactbookQuestion]]]:
    """Returns the country's office holders, each with the questions about his or her offices."""
    held: dict[facts.Person, list[factbook.FactbookQuestion]] = {}
    for question in offices:
        if question.country == country:
            held.setdefault(_person(question), []).append(question)
    return list(held.items())


def _successors(holder: facts.Person, held: list[factbook.FactbookQuestion],
                offices: list[factbook.FactbookQuestion],
                draw: random.Random) -> list[facts.Person]:
    """Returns people with the holder's title and one of the holder's offices in another country, in
    random order.
    """
    fields = {question.field for question in held}
    found = {_person(question) for question in offices
             if question.country != held[0].country and question.field in fields}
    # Sorted before shuffling, because the order of a set differs between processes.
    same_title = sorted((person for person in found if person.title == holder.title),
                        key=lambda person: person.name)
    draw.shuffle(same_title)
    return same_title


def _person(question: factbook.FactbookQuestion) -> facts.Person:
    found = facts.parse_person(question.answers[-1])  # the last answer is the title with the name
    if found is None:
        raise ValueError(f'{question.question}: its last answer {question.answers[-1]!r} is not '
                         'a title with a name')
    return found


def _replace(text: str, holder: facts.Person, successor: facts.Person) -> str:
    """Replaces a holder's full name, its shorter forms ("John MAHAMA" for "John Dramani MAHAMA")
    and the bare surname.
    """
    # Shorter forms drop given names, never the surname.
    given = [re.escape(word) for word in holder.name.split() if word not in holder.surname.split()]
    # Texts also write "Albert BRYAN, Jr."
    full = re.escape(holder.name).replace(r'\ Jr\.', r',?\ Jr\.?')
    shorter = rf'(?:(?:{"|".join(given)}) )+{re.escape(holder.surname)}' if given else full
    # Full names first, so that their surnames are gone when bare surnames are replaced.
    text = re.sub(rf'(?<!\w)(?:{full}|{shorter})(?!\w)', lambda match: successor.name, text)
    return re.sub(rf'(?<![\w-]){re.escape(holder.surname)}(?![\w-])',
                  lambda match: successor.surname, text)


def _reads_well(holder: facts.Person, successor: facts.Person, before: list[str],
                after: list[str]) -> bool:
    """Returns whether the replacement removed every mention of the old name, affected nobody else,
    and keeps texts short enough.
    """
    # A successor with the same surname could not be told from the holder.
    if before == after or holder.surname.lower() == successor.surname.lower():
        return False
    if any(_mentions(holder.surname, text) or holder.name in text for text in after):
        return False
    if any(_mentions(successor.surname, text)
           for text in before) or any(_has_stranger(text, successor) for text in after):
        return False
    # A document above the limit would be split into passages with new docids, which would not
    # replace the old ones.
    return all(
        len(new.split()) <= max(len(old.split()), factbook.MAX_WORDS)
        for old, new in zip(before, after, strict=True))


def _has_stranger(text: str, successor: facts.Person) -> bool:
    """Returns whether the bare surname is next to a capitalised word that is not a title. There the
    old name meant somebody else.
    """
    # Full names are certain; only bare surnames are doubtful.
    text = text.replace(successor.name, '_')
    surname = rf'(?<!\w){re.escape(successor.surname)}(?!\w)'
    neighbours = re.finditer(rf"(?:(?<!\w)(\w[\w.'-]*),? )?{surname}(?: (\w[\w.'-]*))?", text)
    return any(word and word[0].isupper() and word not in facts.TITLE_WORDS
               for match in neighbours for word in match.groups())


def _mentions(surname: str, text: str) -> bool:
    return re.search(rf'(?<!\w){re.escape(surname)}(?!\w)', text, re.IGNORECASE) is not None
