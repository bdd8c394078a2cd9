"""Metrics of answers against recorded numbers: exact match, F1, ROUGE, accuracy, and their bounds."""

import json
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_jax.metrics import answers
from atlas_jax.tasks import registry

_RECORDED = pathlib.Path(__file__).parents[1] / 'fixtures' / 'parity' / 'evaluation.json'
_CASES = json.loads(_RECORDED.read_text(encoding='utf-8'))
_PAIRS = [pair for pair in _CASES if pair['ground_truths']]
TEXT = st.lists(st.sampled_from(['a', 'b', 'c', 'd.', '. ', '\n', 'e f', '  ', '']), max_size=15).map(' '.join)


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


@pytest.mark.parametrize('case', _CASES, ids=lambda case: repr(case['prediction']))
def test_rouge_equals_the_original(case):
    assert answers.rouge(case['prediction'], case['ground_truths']) == pytest.approx(tuple(case['rouge_1_2_L']), abs=1e-12)


@given(TEXT, st.lists(TEXT, max_size=3))
def test_rouge_bounds(prediction, texts):
    scores = answers.rouge(prediction, texts)
    assert all(0 <= score < 1 for score in scores)
    best = [max((answers.rouge(prediction, [answer])[place] for answer in texts), default=0) for place in range(3)]
    assert list(scores) == best
    assert scores[1] == 0 or scores[0] > 0


@given(TEXT)
def test_rouge_a_text_is_itself(text):
    one, two, longest = answers.rouge(text, [text])
    if text.replace('.', '').strip():
        assert one == longest == pytest.approx(1, abs=1e-8) and (two == 0 or two == pytest.approx(1, abs=1e-8))


@given(TEXT, TEXT)
def test_rouge_both_ways_round(first, second):
    there, back = answers.rouge(first, [second]), answers.rouge(second, [first])
    assert there[:2] == pytest.approx(back[:2])


def test_rouge_repeating_a_word_changes_nothing():
    assert answers.rouge('cat cat cat', ['cat']) == answers.rouge('cat', ['cat'])
    assert answers.rouge('x', []) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize('pair', _PAIRS, ids=lambda pair: repr(pair['prediction']))
def test_metrics_by_name_equal_the_original(pair):
    found = answers.of_text(('exact_match', 'f1', 'accuracy', 'perplexity'), pair['prediction'], pair['ground_truths'])
    assert found == {'exact_match': pair['exact_match_normalized'], 'f1': pytest.approx(pair['f1_normalized']),
                     'accuracy': pair['exact_match_raw']}


def test_metrics_by_name_need_an_answer():
    with pytest.raises(ValueError, match='at least one'):
        answers.of_text(('f1',), 'x', [])


def test_every_metric_of_a_task_is_known():
    elsewhere = {'perplexity', 'debiased_accuracy', 'answer_recall'}
    assert {name for kind in registry.TASKS.values() for name in kind.metrics} <= {*answers.OF_TEXT, *elsewhere}
