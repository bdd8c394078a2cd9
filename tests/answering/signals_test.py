"""The numbers that a confidence is made from, of made-up answers."""

import math

import numpy as np
import pytest

from atlas_jax import types
from atlas_jax.answering import signals
from atlas_jax.steps import evidence
from atlas_jax.steps.answer import Answered


def answered(scores=(3.0, 1.0, -np.inf), attention=(0.5, 0.5, 0.0), beams=None) -> Answered:
    """A batch of two rows; the first is filler."""
    retrieved = types.Retrieved(np.array([[0.0] * 3, scores]), np.zeros((2, 3), np.int32))
    return Answered(np.zeros((2, 1, 4), np.int32), None if beams is None else np.array([[0.0] * len(beams), beams]), retrieved,
                    np.array([[0.0] * 3, attention]), evidence.Evidence(np.array([0.0, -6.0]), np.array([0, 3])))


def test_of_an_answer_from_passages():
    found = signals.of_row(answered(), 1, ['Paris'], ['It is Lyon .', 'The Paris of old'], closed_book=-10.0)
    assert found == pytest.approx({'log_likelihood': -6, 'log_likelihood_per_token': -2, 'top_score': 3, 'score_margin': 2,
                                   'score_spread': 1, 'attention_entropy': 1,
                                   'answer_in_passages': 1, 'closed_book_log_likelihood': -10, 'gain_of_passages': 4})
    assert set(found) <= set(signals.NAMES)


@pytest.mark.parametrize(('question', 'found'), [
    ('What is the capital of Albania?', {'question_in_passage': 1, 'names_in_passage': 1}),
    ('Who heads the governments of Austria and Albania?', {'question_in_passage': .5, 'names_in_passage': .5}),
    ('who heads it?', {'question_in_passage': 0}),
    ('What is it?', {}),
    ('Albania', {'question_in_passage': 1}),  # the first word of a sentence may be no name
])
def test_words_of_the_question_in_the_passage_that_was_looked_at(question, found):
    passages = ['Austria Vienna.', 'Albania Government: Capital: Tirana.']
    made = signals.of_row(answered(attention=(0.2, 0.8, 0.0)), 1, ['Tirana'], passages, question=question)
    assert {name: made[name] for name in signals.OF_TEXTS if name in made} == found


@pytest.mark.parametrize(('passages', 'found'), [(['in Parisian life'], 0), (['a', 'So, paris!'], 1), ([], 0)])
def test_an_answer_stands_in_a_passage_as_whole_words(passages, found):
    assert signals.of_row(answered(), 1, ['Paris'], passages)['answer_in_passages'] == found


def test_attention_on_one_passage_has_no_entropy():
    assert signals.of_row(answered(attention=(1.0, 0.0, 0.0)), 1, ['Paris'])['attention_entropy'] == pytest.approx(0)


@pytest.mark.parametrize(('scores', 'missing'), [((-np.inf,) * 3, {'top_score', 'score_margin', 'score_spread', 'attention_entropy'}),
                                                 ((3.0, -np.inf, -np.inf), {'score_margin', 'attention_entropy'})])
def test_signals_of_too_few_passages_are_absent(scores, missing):
    found = signals.of_row(answered(scores), 1, ['Paris'])
    assert {*signals.OF_ANSWER, *signals.OF_PASSAGES} - set(found) == missing and all(map(math.isfinite, found.values()))


def test_beams_that_say_the_same_agree():
    scores = [math.log(0.4), math.log(0.2), math.log(0.2)]
    found = signals.of_row(answered(beams=scores), 1, ['The Paris', 'paris.', 'Lyon'])['beam_agreement']
    assert found == pytest.approx(0.75)
    # One sequence agrees with itself and says nothing.
    assert 'beam_agreement' not in signals.of_row(answered(beams=scores[:1]), 1, ['Paris'])
