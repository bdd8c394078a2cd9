"""Orders of the options, and their averaged probabilities as in the original."""

import json
import pathlib
import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_jax.tasks import multiple_choice

_RECORDED = json.loads((pathlib.Path(__file__).parents[1] / 'fixtures' / 'parity' / 'tasks.json').read_text())['multiple_choice']


@pytest.mark.parametrize('name', _RECORDED['orderings'])
def test_orderings_equal_the_original(name):
    size, kind = name.split('_')
    assert [list(order) for order in multiple_choice.orderings(int(size), kind)] == _RECORDED['orderings'][name]


@pytest.mark.parametrize('case', _RECORDED['permutations'], ids=lambda case: f'{case["example"]["question"]} {case["type"]}')
def test_permutations_equal_the_original(case):
    rows = multiple_choice.permutations(case['example'], case['type'])
    assert [(row['options'], row['answer']) for row in rows] == [(row['options'], row['answer']) for row in case['output']]


@pytest.mark.parametrize('case', _RECORDED['marginalize'], ids=lambda case: f'{case["example"]["question"]} {case["type"]}')
def test_marginalized_probabilities_equal_the_original(case):
    rows = multiple_choice.permutations(case['example'], case['type'])
    found = multiple_choice.marginalize([list(row['options'].values()) for row in rows],
                                        [[logits[letter] for letter in sorted(logits)] for logits in case['choice_logits']])
    assert found.letter == case['generation'][0]
    assert found.by_letter == pytest.approx(case['choice_probs'][0], abs=1e-6)
    assert found.by_option.keys() == case['all_probs'][0].keys()
    for option, probabilities in case['all_probs'][0].items():
        assert found.by_option[option] == pytest.approx(probabilities, abs=1e-6)
    right = rows[0]['options'][rows[0]['answer']]
    assert float(rows[0]['options'][found.letter] == right) == case['metrics']['debiased_accuracy'][0]


@given(st.lists(st.sampled_from(['x', 'y', 'z', 'w w', '']), min_size=2, max_size=5), st.sampled_from(multiple_choice.PERMUTATIONS),
       st.data())
def test_permuted_answers_keep_their_text(texts, kind, data):
    letters = string.ascii_uppercase[:len(texts)]
    row = {'question': 'q', 'options': dict(zip(letters, texts, strict=True)), 'answer': data.draw(st.sampled_from(letters)), 'more': 1}
    rows = multiple_choice.permutations(row, kind)
    assert len(rows) == {'single': 1, 'cyclic': len(texts), 'all': int(np.prod(range(1, len(texts) + 1)))}[kind]
    for permuted in rows:
        assert sorted(permuted['options'].values()) == sorted(texts) and list(permuted['options']) == list(letters)
        assert permuted['options'][permuted['answer']] == row['options'][row['answer']] and permuted['more'] == 1
    if kind != 'single':  # every option stands under every letter equally often: no letter is favoured
        for letter in letters:
            assert sorted(permuted['options'][letter] for permuted in rows) == sorted(texts * (len(rows) // len(texts)))


def test_a_taste_for_a_letter_does_not_count():
    row = {'question': 'q', 'options': {'A': 'x', 'B': 'y', 'C': 'z'}, 'answer': 'C'}
    rows = multiple_choice.permutations(row, 'cyclic')
    taste = {'A': 3.0, 'B': 0.0, 'C': 0.0}
    scores = [[taste[letter] + (1.0 if text == 'z' else 0.0) for letter, text in permuted['options'].items()] for permuted in rows]
    found = multiple_choice.marginalize([list(permuted['options'].values()) for permuted in rows], scores)
    assert np.argmax(scores[0]) == 0 and found.letter == 'C'
    assert sum(found.by_letter.values()) == pytest.approx(1)


def test_the_query():
    task = multiple_choice.MultipleChoiceTask()
    example = task.example({'question': ' q? ', 'options': {'A': 'x', 'B': 'y'}, 'answer': 'B'}, 0)
    assert example.query == 'question: q? options: (A) x (B) y answer: <extra_id_0>' and example.target == '<extra_id_0> B'
    assert example.choices == ('<extra_id_0> A', '<extra_id_0> B') and example.options == ('x', 'y')
    assert example.kept == 'options: (A) x (B) y answer: <extra_id_0>'
    assert task.answer_text('<extra_id_0> B') == 'B'
