"""Thresholds, and settings that differ from those of a calibration."""

import dataclasses

import pytest

from atlas_jax import errors
from atlas_jax.answering import confidence, prepare
from atlas_jax.decoding import DecodingConfig
from atlas_jax.runtime import notes
from tests.checkpoints.calibration_test import MADE
from tests.testing import tiny_run


def test_thresholds_that_nothing_can_meet():
    confidence.check(0, MADE), confidence.check(1.0, MADE)
    with pytest.raises(errors.ConfigError, match=r'abstain_below is 1\.5; it must be from 0 to 1'):
        confidence.check(1.5, MADE)
    with pytest.raises(errors.ConfigError, match='the model is not calibrated: `atlas-jax calibrate --model RUN'):
        confidence.check(0.5, None)
    with pytest.raises(errors.ConfigError, match='from 0 to 1'):
        confidence.check(float('nan'), MADE)


def test_settings_are_those_of_the_answers(tmp_path):
    atlas = tiny_run.atlas(dropout_rate=0.0)
    index, examples = tiny_run.index(atlas, tmp_path), tiny_run.examples(atlas, 2)
    size = atlas.whole_batch(2)
    found = confidence.settings_of(atlas.task, prepare.prepare_examples(atlas, examples, index, 2, size), DecodingConfig(num_beams=3))
    assert found.indexes == (str(index.index.path),) and len(found.stores[0]) >= 8
    assert (found.searcher, found.n_context, found.num_beams, found.task) == ('exact', 2, 3, 'QATask')
    closed = confidence.settings_of(atlas.task, prepare.prepare_examples(atlas, examples, None, 0, size), DecodingConfig())
    assert (closed.indexes, closed.stores, closed.n_context) == ((), (), 0)


def test_other_settings_are_said_once(capsys):
    notes.say_once.cache_clear()
    confidence.say_differences(MADE, MADE.settings)
    assert capsys.readouterr().err == ''
    for _ in range(2):
        confidence.say_differences(MADE, dataclasses.replace(MADE.settings, n_context=3, indexes=('/b',), stores=('f2',)))
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith('the confidence was fitted with index /a/index, now /b, n_context 5, now 3: it may be off; fit it again')
