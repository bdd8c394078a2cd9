"""Metrics by name: recorded exact match and F1, accuracy letter for letter."""

import json
import pathlib

import pytest

from atlas_jax.metrics import scores
from atlas_jax.tasks import registry

_RECORDED = [case for case in json.loads((pathlib.Path(__file__).parents[1] / 'fixtures' / 'parity' / 'evaluation.json').read_text())
             if case['ground_truths']]


@pytest.mark.parametrize('case', _RECORDED, ids=lambda case: repr(case['prediction']))
def test_equals_the_original(case):
    found = scores.of_text(('exact_match', 'f1', 'accuracy', 'perplexity'), case['prediction'], case['ground_truths'])
    assert found == {'exact_match': case['exact_match_normalized'], 'f1': pytest.approx(case['f1_normalized']),
                     'accuracy': case['exact_match_raw']}


def test_no_answer_is_an_error():
    with pytest.raises(ValueError, match='at least one'):
        scores.of_text(('f1',), 'x', [])


def test_every_metric_of_a_task_is_known():
    elsewhere = {'perplexity', 'debiased_accuracy'}
    assert {name for kind in registry.TASKS.values() for name in kind.metrics} <= {*scores.OF_TEXT, *elsewhere}
