"""Span corruption: query and target give the text back, and the right share is masked."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_jax import errors
from atlas_jax.tasks import mlm

_SENTINEL = re.compile(r'<extra_id_(\d+)>')
WORDS = st.lists(st.text('abcé<>{}.', min_size=1, max_size=5), min_size=2, max_size=400)


def restore(query: str, target: str) -> str:
    """Returns the text from which `corrupt` made query and target."""
    parts = _SENTINEL.split(target)  # '', number, span, number, span …
    spans = {number: span.strip() for number, span in zip(parts[1::2], parts[2::2], strict=True)}
    return _SENTINEL.sub(lambda match: spans[match.group(1)], query)


@given(WORDS, st.floats(0.01, 0.99), st.floats(1, 9), st.integers(0, 5), st.integers(1, 3))
def test_query_and_target_restore_the_text(words, density, span, seed, tokens_a_word):
    query, target = mlm.corrupt(words, density, span, tokens_a_word * len(words), np.random.default_rng(seed))
    assert restore(query, target) == ' '.join(words)
    sentinels = re.findall(r'<extra_id_\d+>', query)
    assert sentinels == re.findall(r'<extra_id_\d+>', target) == [f'<extra_id_{i}>' for i in range(len(sentinels))]
    taken = len(target.split()) - len(sentinels)
    assert taken == min(max(round(len(words) * density), 1), len(words) - 1)
    assert 1 <= len(sentinels) <= min(taken, mlm.MAX_SPANS)
    assert target.startswith('<extra_id_0>') and not re.search(r'<extra_id_\d+> <extra_id_', query)


def test_every_place_is_taken_alike():
    counts = np.zeros(8)
    for seed in range(800):
        query, _ = mlm.corrupt([str(i) for i in range(8)], 0.25, 1.0, 8, np.random.default_rng(seed))
        counts[[i for i in range(8) if str(i) not in re.sub(r'<extra_id_\d+>', '', query)]] += 1
    assert counts.sum() == 1600 and counts.min() > 100


def test_mean_span_counts_tokens_of_the_reader():
    words = ['word'] * 1000
    few, many = (mlm.corrupt(words, 0.15, 3.0, tokens, np.random.default_rng(0))[0].count('<extra_id_') for tokens in (1000, 1500))
    assert (few, many) == (50, 75)


def test_examples_come_from_the_generator_alone():
    row = {'id': 7, 'text': 'one two three four five six seven eight nine ten ' * 4 + '<extra_id_3> end'}
    task = mlm.MLMTask()
    make = lambda seed: task.example(row, 2, np.random.default_rng(seed))  # noqa: E731
    assert make(1) == make(1) and make(1).query != make(2).query
    assert task.example(row, 2) == task.example(row, 2) and task.example(row, 2).query != task.example(row, 3).query
    example = make(1)
    assert example.own_docid == '7' and restore(example.query, example.target) == row['text'].replace('<extra_id_3> ', '')
    assert example.answers == [task.answer_text(example.target)] and '<extra' not in example.answers[0]


def test_short_texts_are_left_out():
    assert mlm.MLMTask().example({'text': 'one'}, 0) is None and mlm.MLMTask().example({'text': ''}, 0) is None
    assert mlm.MLMTask(min_words=5).example({'text': 'one two three four'}, 0) is None
    assert mlm.MLMTask().example({'text': 'one two'}, 0).target in ('<extra_id_0> one', '<extra_id_0> two')


@pytest.mark.parametrize('options', [{'noise_density': 0.0}, {'noise_density': 1.0}, {'mean_span_tokens': 0.5}])
def test_wrong_options(options):
    with pytest.raises(errors.ConfigError, match=next(iter(options))):
        mlm.MLMTask(**options)
