import json
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_jax.metrics import answers

_RECORDED = pathlib.Path(__file__).parents[1] / 'fixtures' / 'parity' / 'evaluation.json'
_PAIRS = [pair for pair in json.loads(_RECORDED.read_text(encoding='utf-8')) if pair['ground_truths']]


@pytest.mark.parametrize('pair', _PAIRS, ids=[repr(pair['prediction']) for pair in _PAIRS])
def test_equals_the_original(pair):
    assert answers.normalize(pair['prediction']) == pair['normalized_prediction']
    assert [answers.normalize(answer) for answer in pair['ground_truths']] == pair['normalized_ground_truths']
    assert answers.exact_match(pair['prediction'], pair['ground_truths']) == bool(pair['exact_match_normalized'])
    assert answers.f1(pair['prediction'], pair['ground_truths']) == pytest.approx(pair['f1_normalized'], abs=1e-12)


@pytest.mark.parametrize('metric', [answers.exact_match, answers.f1])
@pytest.mark.parametrize('wrong', [[], 'Paris'])
def test_answers_must_be_a_sequence_of_at_least_one(metric, wrong):
    with pytest.raises(ValueError, match='at least one string'):
        metric('Paris', wrong)


def test_contains_answer_wants_whole_words():
    assert answers.contains_answer('The capital: Paris.', ['paris'])
    assert answers.contains_answer('President Emmanuel MACRON (since 2017)', ['nobody', 'Emmanuel Macron'])
    assert not answers.contains_answer('Parisian life', ['Paris'])
    assert not answers.contains_answer('anything', ['', 'the', '...'])
    assert not answers.contains_answer('', ['Paris'])


@given(st.text(), st.text())
def test_scores_stay_in_range_and_agree(prediction, answer):
    score = answers.f1(prediction, [answer])
    assert 0 <= score <= 1 and score == answers.f1(answer, [prediction])
    if answers.exact_match(prediction, [answer]) and answers.normalize(answer):
        assert score == 1 and answers.contains_answer(prediction, [answer])
