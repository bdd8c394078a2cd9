"""Checks of a row's fields name the first wrong one and its value."""

import pytest

from atlas_jax.corpus.passages import Passage, ScoredPassage
from atlas_jax.tasks import fields
from atlas_jax.tasks.fields import FieldProblem


@pytest.mark.parametrize('row, what', [
    ({'q': 'who?'}, None), ({}, 'missing, found no field'), ({'b': 1, 'a': 2}, 'missing, found a, b'),
    ({'q': ' \n'}, "expected a text that is not blank, found ' \\n'"), ({'q': 7}, 'expected a text that is not blank, found 7'),
    ({'q': None}, 'expected a text that is not blank, found None')])
def test_texts(row, what):
    assert fields.text_problem(row, 'q', 'give a q') == (None if what is None else FieldProblem('q', what, 'give a q'))


@pytest.mark.parametrize('row, what', [
    ({'q': ''}, None), ({}, 'missing, found no field'), ({'q': ['a']}, "expected a string, found ['a']")])
def test_strings_may_be_blank(row, what):
    assert fields.string_problem(row, 'q', 'give a q') == (None if what is None else FieldProblem('q', what, 'give a q'))


@pytest.mark.parametrize('row, docid', [({}, None), ({'id': 'a/1'}, 'a/1'), ({'id': 17}, '17'), ({'id': ''}, '')])
def test_ids_are_strings_or_numbers(row, docid):
    assert fields.id_problem(row, 'r') is None and fields.own_docid(row) == docid


@pytest.mark.parametrize('value', [None, 1.5, ['a'], {}])
def test_other_ids_are_refused(value):
    assert fields.id_problem({'id': value}, 'r') == FieldProblem('id', f'expected a string or a number, found {value!r}', 'r')


def test_optional_fields_are_checked_in_their_order():
    good = {'target': '', 'answers': ['a', ''], 'gold_docids': (), 'passages': [{'text': 'x', 'id': 3}]}
    assert fields.optional_problem({}, ('target',), ('answers',)) is None
    assert fields.optional_problem(good, ('target',), ('answers', 'gold_docids')) is None
    bad = {'target': 1, 'answers': 'a', 'passages': {}}
    assert fields.optional_problem(bad, ('target',), ('answers',)).field == 'target'
    assert fields.optional_problem(bad, (), ('answers',)) == FieldProblem(
        'answers', "expected a list of strings, found 'a'", 'write a list of strings, or leave the field out')
    assert fields.optional_problem(bad).field == 'passages'


@pytest.mark.parametrize('given, what', [
    ('x', "expected a list of objects, found 'x'"), (['x'], "expected a list of objects, found ['x']"),
    ([{'text': 'x'}, {}], 'passage 1 has the text None'), ([{'text': 'x', 'section': 3}], 'passage 0 has the section 3'),
    ([{'text': 'x', 'title': None}], 'passage 0 has the title None'), ([{'text': 'x', 'id': []}], 'passage 0 has the id []')])
def test_wrong_passages(given, what):
    problem = fields.passages_problem({'passages': given})
    assert problem.what == what and 'each passage needs a "text"' in problem.remedy


def test_passages_without_words_are_left_out_and_keep_their_numbers():
    row = {'passages': [{'text': ' '}, {'text': '', 'title': 'T'}, {'text': 'x', 'id': 7, 'section': 'S'}]}
    assert fields.passages(row) == (Passage('1', 'T', '', ''), Passage('7', '', 'S', 'x'))
    assert fields.passages({}) == () == fields.passages({'passages': []})


@pytest.mark.parametrize('value, expected', [([], True), (['a'], True), (('a', ''), True), ('a', False), (['a', 1], False), (None, False)])
def test_lists_of_texts(value, expected):
    assert fields.is_texts(value) is expected


def test_a_teachers_scores_come_with_passages():
    row = {'passages': [{'text': 'x', 'gold_score': -2}, {'text': 'y'}]}
    assert fields.passages(row) == (ScoredPassage('0', '', '', 'x', -2.0), Passage('1', '', '', 'y'))
    for wrong in ('high', True, float('nan'), 1e40):
        assert 'passage 0 has the gold_score' in fields.passages_problem({'passages': [{'text': 'x', 'gold_score': wrong}]}).what
