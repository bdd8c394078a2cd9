"""The text-to-text task takes query and target from the row."""

import pytest

from atlas_jax import errors
from atlas_jax.tasks import base

TASK = base.BaseTask()


def test_query_and_target_are_the_rows_word_for_word():
    example = TASK.example({'query': ' q {x} ', 'target': '<extra_id_0> t', 'gold_docids': ['d'], 'passages': [{'text': 'p'}]}, 7)
    assert (example.query, example.target, example.answers) == (' q {x} ', '<extra_id_0> t', ['t'])
    assert (example.example_id, example.gold_docids, example.question) == (7, ['d'], ' q {x} ')
    assert [passage.text for passage in example.passages] == ['p']
    assert not TASK.draws and TASK.expand({'query': 'q'}, True) == [{'query': 'q'}]


def test_answers_count_instead_of_the_target():
    assert TASK.example({'query': 'q', 'target': 't', 'answers': ['a', 'b']}, 0).answers == ['a', 'b']
    assert TASK.example({'query': 'q', 'target': 't', 'answers': []}, 0).answers == ['t']
    assert TASK.example({'query': 'q'}, 0).answers == [] and TASK.example({'query': 'q'}, 0).target == ''
    assert TASK.example({'query': 'q', 'answers': ['a']}, 0).answers == []


def test_wrong_rows():
    with pytest.raises(errors.ConfigError, match='^example 3, field "query": missing, found target; each row needs "query" and "target"'):
        TASK.example({'target': 't'}, 3)


def test_answer_text_has_no_sentinels():
    assert TASK.answer_text('<extra_id_0> a  b<extra_id_1>') == 'a b'
