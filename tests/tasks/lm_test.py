"""Language modelling: texts are split between two words."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_jax import errors
from atlas_jax.tasks import lm

WORDS = st.lists(st.text('abcé<>{}.', min_size=1, max_size=5), min_size=2, max_size=400)


@given(WORDS, st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.integers(0, 3))
def test_splits_between_words(words, first, second, seed):
    low, high = min(first, second), max(first, second)
    example = lm.LMTask(low, high).example({'text': ' \n'.join(words)}, 0, np.random.default_rng(seed))
    assert example.query.split() + example.target.split() == words and example.query and example.target
    share = len(example.query.split()) / len(words)
    assert low - 1 / len(words) - 1e-9 <= share <= high + 1 / len(words) + 1e-9
    assert lm.LMTask(low, high).draws == (low < high)


def test_halves_by_default():
    example = lm.LMTask().example({'id': 'd', 'text': 'one two three  four five'}, 0)
    assert (example.query, example.target, example.own_docid) == ('one two', 'three four five', 'd')
    with pytest.raises(errors.ConfigError, match='min_context_ratio is 0.7 and max_context_ratio 0.5'):
        lm.LMTask(min_context_ratio=0.7)


@pytest.mark.parametrize('low, high', [(0.0, 0.5), (0.5, 1.0), (0.6, 0.5)])
def test_wrong_ratios(low, high):
    with pytest.raises(errors.ConfigError, match='LMTask.min_context_ratio'):
        lm.LMTask(low, high)


def test_short_texts_are_left_out():
    assert lm.LMTask().example({'text': ' one '}, 0) is None and lm.LMTask().example({'text': ''}, 0) is None
    assert lm.LMTask(min_words=5).example({'text': 'one two three four'}, 0) is None
    assert lm.LMTask(min_words=4).example({'text': 'one two three four'}, 0).target == 'three four'


def test_drawn_places_depend_on_the_generator_alone():
    task, row = lm.LMTask(0.1, 0.9), {'text': ' '.join(f'w{i}' for i in range(97))}
    first, again = ([task.example(row, 3, np.random.default_rng(seed)).query for seed in range(7)] for _ in range(2))
    assert first == again and len(set(first)) > 3
    assert task.example(row, 3) == task.example(row, 3) and task.example(row, 3).row is row
    assert lm.LMTask().example(row, 3).row is None
