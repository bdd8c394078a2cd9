"""An edited world: the office holders of the test countries replaced, in the passages and in the answers, by others of their kind.

A reader that answers from its passages follows the edit; one that answers from its weights or its training gives the stale name.
"""

import dataclasses
import random
import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

from atlas_jax.demo import factbook, factbook_people

Text = TypeVar('Text')  # Document or Passage: a dataclass with title (the country) and text
Person = factbook_people.Person


def swap_office_holders(passages: Sequence[Text], questions: Iterable[factbook.Question], seed: int = 0,
                        split: str = 'test') -> tuple[list[Text], list[factbook.Question]]:
    """Gives the offices asked about in `split` to people who hold the same office, with the same title, in another country.

    Returns the passages that changed (same docids, every mention of the old holder's name replaced) and the questions with the new
    answers and, as `stale_answers`, the old ones. A holder whose name cannot be told apart from other words or people is left alone.
    """
    offices = [question for question in questions if question.office]
    draw = random.Random(seed)
    changed, swapped = [], []
    for country in sorted({question.country for question in offices if question.split == split}):
        old_texts = [passage for passage in passages if passage.title == country]
        new_texts = [passage.text for passage in old_texts]
        taken: set[str] = set()
        for holder, held in _holders(country, offices):
            for successor in _successors(holder, held, offices, draw):
                replaced = [_replace(text, holder, successor) for text in new_texts]
                if successor.name not in taken and _reads_well(holder, successor, new_texts, replaced):
                    new_texts = replaced
                    taken.add(successor.name)
                    swapped += [dataclasses.replace(question, answers=successor.answers, stale_answers=holder.answers) for question in held]
                    break
        changed += [dataclasses.replace(passage, text=text) for passage, text in zip(old_texts, new_texts, strict=True)
                    if passage.text != text]
    return changed, swapped


def _holders(country: str, offices: list[factbook.Question]) -> list[tuple[Person, list[factbook.Question]]]:
    """The country's office holders, each with the questions about the offices that he or she holds."""
    held: dict[Person, list[factbook.Question]] = {}
    for question in offices:
        if question.country == country:
            held.setdefault(_person(question), []).append(question)
    return list(held.items())


def _successors(holder: Person, held: list[factbook.Question], offices: list[factbook.Question], draw: random.Random) -> list[Person]:
    """People with the holder's title and one of the holder's offices in another country, in random order."""
    fields = {question.field for question in held}
    found = {_person(question) for question in offices if question.country != held[0].country and question.field in fields}
    same_title = sorted((person for person in found if person.title == holder.title), key=lambda person: person.name)
    draw.shuffle(same_title)
    return same_title


def _person(question: factbook.Question) -> Person:
    return factbook_people.parse(question.answers[-1])


def _replace(text: str, holder: Person, successor: Person) -> str:
    """The text with the full name, a shorter form of it ("John MAHAMA" for "John Dramani MAHAMA") and the bare surname replaced."""
    given = [re.escape(word) for word in holder.name.split() if word not in holder.surname.split()]
    full = re.escape(holder.name).replace(r'\ Jr\.', r',?\ Jr\.?')  # "Albert BRYAN, Jr." in the text
    shorter = rf'(?:(?:{"|".join(given)}) )+{re.escape(holder.surname)}' if given else full
    text = re.sub(rf'(?<!\w)(?:{full}|{shorter})(?!\w)', lambda match: successor.name, text)
    return re.sub(rf'(?<![\w-]){re.escape(holder.surname)}(?![\w-])', lambda match: successor.surname, text)


def _reads_well(holder: Person, successor: Person, before: list[str], after: list[str]) -> bool:
    """Whether the replacement left nothing of the old name, touched nobody else, added no second mention and kept within the length."""
    if before == after or holder.surname.lower() == successor.surname.lower():
        return False
    if any(_mentions(holder.surname, text) or holder.name in text for text in after):
        return False
    if any(_mentions(successor.surname, text) for text in before) or any(_has_stranger(text, successor) for text in after):
        return False
    return all(len(new.split()) <= max(len(old.split()), factbook.MAX_WORDS) for old, new in zip(before, after, strict=True))


def _has_stranger(text: str, successor: Person) -> bool:
    """Whether the bare surname stands beside another capitalised word that is no title: then the old one named somebody else there."""
    text = text.replace(successor.name, '_')
    for match in re.finditer(rf"(?:(?<!\w)(\w[\w.'-]*),? )?(?<!\w){re.escape(successor.surname)}(?!\w)(?: (\w[\w.'-]*))?", text):
        if any(word and word[0].isupper() and word not in factbook_people.TITLE_WORDS for word in match.groups()):
            return True
    return False


def _mentions(surname: str, text: str) -> bool:
    return re.search(rf'(?<!\w){re.escape(surname)}(?!\w)', text, re.IGNORECASE) is not None
