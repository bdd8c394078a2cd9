"""ROUGE against the recorded numbers, and its bounds."""

import json
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_jax.metrics import rouge

_RECORDED = json.loads((pathlib.Path(__file__).parents[1] / 'fixtures' / 'parity' / 'evaluation.json').read_text(encoding='utf-8'))
TEXT = st.lists(st.sampled_from(['a', 'b', 'c', 'd.', '. ', '\n', 'e f', '  ', '']), max_size=15).map(' '.join)


@pytest.mark.parametrize('case', _RECORDED, ids=lambda case: repr(case['prediction']))
def test_equals_the_original(case):
    assert rouge.rouge(case['prediction'], case['ground_truths']) == pytest.approx(tuple(case['rouge_1_2_L']), abs=1e-12)


@given(TEXT, st.lists(TEXT, max_size=3))
def test_bounds(prediction, answers):
    scores = rouge.rouge(prediction, answers)
    assert all(0 <= score < 1 for score in scores)
    best = [max((rouge.rouge(prediction, [answer])[place] for answer in answers), default=0) for place in range(3)]
    assert list(scores) == best
    assert scores[1] == 0 or scores[0] > 0


@given(TEXT)
def test_a_text_is_itself(text):
    one, two, longest = rouge.rouge(text, [text])
    if text.replace('.', '').strip():
        assert one == longest == pytest.approx(1, abs=1e-8) and (two == 0 or two == pytest.approx(1, abs=1e-8))


@given(TEXT, TEXT)
def test_both_ways_round(first, second):
    there, back = rouge.rouge(first, [second]), rouge.rouge(second, [first])
    assert there[:2] == pytest.approx(back[:2])


def test_repeating_a_word_changes_nothing():
    assert rouge.rouge('cat cat cat', ['cat']) == rouge.rouge('cat', ['cat'])
    assert rouge.rouge('x', []) == (0.0, 0.0, 0.0)
