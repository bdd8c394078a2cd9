"""KILT's knowledge source and FEVER's wiki-pages, with the marks in their texts."""

import pytest

from atlas_jax import errors
from atlas_jax.apps.datasets.corpora import wikipedia_versions
from atlas_jax.metrics import kilt_provenance, retrieval
from tests.apps.datasets.corpora.passage_files_test import lines, made

KILT = {'_id': '290', 'wikipedia_id': '290', 'wikipedia_title': 'A', 'categories': 'x', 'text': [
    'A\n', 'A (named a) is a letter.\n', 'Section::::History.\n', 'The earliest:\n', 'BULLET::::- Egyptian\n', 'BULLET::::- Cretan.\n',
    'BULLET::::- \n', 'After.\n', 'Section::::History:Use in writing.\n', 'Section::::History:Use in writing:English.\n', 'In English.\n']}


def test_kilt_sections_and_lists(tmp_path):
    page = {'wikipedia_id': 7, 'wikipedia_title': '居里', 'text': ['居里\n']}
    assert made(tmp_path, 'kilt_wikipedia', {'kilt_knowledgesource.json': lines(KILT, page)}) == [
        ('290#0', 'A', '', 'A (named a) is a letter.'), ('290#1', 'A', 'History', 'The earliest:\n\nEgyptian; Cretan.\n\nAfter.'),
        ('290#2', 'A', 'History: Use in writing: English', 'In English.')]


def test_passages_are_found_by_the_pages_that_kilt_names(tmp_path):
    docids = [row[0] for row in made(tmp_path, 'kilt_wikipedia', {'k.json': lines(KILT)})]
    assert retrieval.first_gold_rank(docids[1:], {'290'}) == 0 and {kilt_provenance.page_of(docid) for docid in docids} == {'290'}


def test_kilt_pages_are_cut(tmp_path):
    long = ' '.join(f'Sentence {number} has exactly six words.' for number in range(40))
    found = made(tmp_path, 'kilt_wikipedia', {'k.json': lines({'wikipedia_id': '1', 'wikipedia_title': 'T', 'text': ['T\n', long]})})
    assert [row[0] for row in found] == ['1#0', '1#1', '1#2'] and ' '.join(row[3] for row in found) == long


def test_fever_pages(tmp_path):
    pages = lines(
        {'id': '', 'text': '', 'lines': ''},
        {'id': 'The_Ten_-LRB-film-RRB-', 'text': 'x', 'lines': '0\tThe Ten -LRB- 2007 -RRB- is a film , he said `` yes \'\' .\tfilm\t'
         'Film\n1\t\n2\tIt \'s a\nlong one .\tOne\tone\n3\t'},
        {'id': 'Beyoncé', 'text': 'y', 'lines': '0\tBeyoncé sings .'}, {'id': 'Empty', 'text': '', 'lines': ''})
    assert made(tmp_path, 'fever_wikipedia', {'wiki-001.jsonl': pages}) == [
        ('The_Ten_-LRB-film-RRB-', 'The Ten (film)', '', 'The Ten (2007) is a film, he said " yes ". It\'s a long one.'),
        ('Beyoncé', 'Beyoncé', '', 'Beyoncé sings.')]


def test_fever_marks():
    assert wikipedia_versions.fever_text('a -LSB- b -RSB- -LCB- c -RCB- 5 -COLON- 3 ; d') == 'a [b] {c} 5: 3; d'


@pytest.mark.parametrize('name, content, message', [
    ('kilt_wikipedia', lines({'id': 'x', 'input': 'y'}), 'field "wikipedia_id": missing; give kilt_knowledgesource'),
    ('kilt_wikipedia', lines(KILT, KILT | {'text': 'x'}), ':2: expected wikipedia_title as text and text as a list'),
    ('fever_wikipedia', lines({'id': 1, 'claim': 'x', 'label': 'SUPPORTS'}), 'field "text": missing; give the folder wiki-pages'),
    ('fever_wikipedia', lines({'id': 'a', 'text': '', 'lines': None}), ':1: id and lines must be text')])
def test_other_releases_are_told(tmp_path, name, content, message):
    with pytest.raises(errors.InputFileError, match=message):
        made(tmp_path, name, {'a.jsonl': content})
