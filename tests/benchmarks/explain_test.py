"""The benchmarks of explanations and of the confidence compute what they say, at sizes that say nothing of speed."""

import importlib

import pytest

from tests.testing import tiny_run

explain = importlib.import_module('explain')
confidence = importlib.import_module('confidence')


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    atlas = tiny_run.atlas(dropout_rate=0.0)
    return atlas, tiny_run.index(atlas, tmp_path_factory.mktemp('explain'))


def test_both_ways_are_timed(model):
    atlas, index = model
    found = explain.measure(atlas, index, tiny_run.examples(atlas, 2), n_context=2, batch=2, rounds=1)
    assert found['ratio'] == found['explained']['seconds'] / found['plain']['seconds'] > 0 and found['cpu_ratio'] > 0


def test_figures_of_answers(model):
    atlas, _ = model
    examples = tiny_run.examples(atlas, 3)
    from atlas_jax.answering import api
    signals = dict.fromkeys(confidence._SIGNALS)
    answers = [api.Answer(example.question, text, confidence=chance, signals={name: chance for name in signals})
               for example, text, chance in zip(examples, ['red', 'wrong', 'blue'], [0.9, 0.3, 0.8], strict=True)]
    found = confidence._figures(answers, examples, threshold=0.5)
    assert found['coverage_at_95'] == found['coverage_at_dev_threshold'] == pytest.approx(2 / 3)
    assert found['precision_at_dev_threshold'] == 1 and found['aurc'] == found['aurc_of']['top_score'] == pytest.approx(1 / 9)
    none = confidence._figures(answers, examples, threshold=None)
    assert none['coverage_at_dev_threshold'] == 0 and none['precision_at_dev_threshold'] is None
