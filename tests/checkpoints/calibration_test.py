"""The file of a calibration: written, read, damaged, of other weights, hostile."""

import dataclasses
import json
import math

import pytest

from atlas_jax import errors
from atlas_jax.checkpoints import calibration, run_folder
from atlas_jax.io import contents
from atlas_jax.metrics.logistic import Logistic

MADE = calibration.Calibration(
    ('log_likelihood', 'top_score'), Logistic((-2.0, 5.0), (1.0, 2.0), (1.5, 0.0), 0.25),
    calibration.CalibrationSettings(('/a/index',), ('f1',), 'bm25', 5, 1, 'QATask'), 'exact_match', 40, 30, '7 x', {'ece': 0.05})


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'tokenizers').mkdir()
    run_folder.write_model_file(tmp_path, {'reader': {}})
    return tmp_path


def test_round_trip_and_verified(folder):
    assert calibration.read(folder) is None
    calibration.write(folder, MADE)
    assert calibration.read(folder) == MADE and calibration.FILE in contents.read(folder)
    calibration.write(folder, dataclasses.replace(MADE, questions=41))
    assert calibration.read(folder).questions == 41 and contents.damage(folder) == []


def test_a_folder_without_a_list_gets_none(tmp_path):
    calibration.write(tmp_path, MADE)
    assert calibration.read(tmp_path) == MADE and contents.read(tmp_path) is None


def test_damage_is_told_and_can_be_replaced(folder):
    calibration.write(folder, MADE)
    path = folder / calibration.FILE
    path.write_text(path.read_text().replace('0.25', '9.25'))
    with pytest.raises(errors.ModelFolderError, match=r'confidence\.json: damaged .*run `atlas-jax calibrate` again'):
        calibration.read(folder)
    with contents.unchecked():
        assert calibration.read(folder).regression.intercept == 9.25
    calibration.remove_unreadable(folder)
    assert not path.exists()
    calibration.write(folder, MADE)
    calibration.remove_unreadable(folder)
    assert calibration.read(folder) == MADE


@pytest.mark.parametrize(('change', 'says'), [
    ({'version': 2}, '"version" is 2'), ({'format': 'x'}, '"format" is'), ({'signals': ['a']}, 'as many signals'),
    ({'regression': {'means': [0, 0], 'scales': [1, 0], 'weights': [1, 1], 'intercept': 0}}, 'a scale is not above 0'),
    ({'regression': {'means': [0, 1e300], 'scales': [1, 1], 'weights': [1, 1], 'intercept': 0}}, 'expected a number'),
    ({'regression': {'means': [0, True], 'scales': [1, 1], 'weights': [1, 1], 'intercept': 0}}, 'expected a number'),
    ({'settings': {}}, 'no field "settings.indexes"'), ({'more': 1}, 'unknown field "more"'), ({'questions': -3}, '"questions" is -3')])
def test_what_anybody_may_have_written(tmp_path, change, says):
    calibration.write(tmp_path, MADE)
    path = tmp_path / calibration.FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(errors.ModelFolderError) as error:
        calibration.read(tmp_path)
    assert says in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize('text', ['', '[]', '{"format"', '[' * 10_000])
def test_no_json(tmp_path, text):
    (tmp_path / calibration.FILE).write_text(text)
    with pytest.raises(errors.ModelFolderError, match='confidence.json'):
        calibration.read(tmp_path)


def test_confidence_is_the_regressions_and_a_missing_signal_counts_as_its_mean():
    odds = math.log(0.2 / 0.8)
    expected = 1 / (1 + math.exp(-(0.25 + 1.5 * (odds + 2))))
    assert MADE.confidence({'log_likelihood': math.log(0.2), 'top_score': 9.0}) == pytest.approx(expected)
    assert MADE.confidence({}) == MADE.confidence({'top_score': 5.0, 'other': 3.0}) == pytest.approx(0.5621765)


def test_log_likelihoods_become_log_odds():
    names = ('log_likelihood', 'top_score', 'closed_book_log_likelihood')
    found = calibration.features({'log_likelihood': math.log(0.75), 'top_score': -0.5, 'closed_book_log_likelihood': -80.0}, names)
    assert found == pytest.approx([math.log(3), -0.5, -80])
    certain, missing, _ = calibration.features({'log_likelihood': 0.0}, names)  # rounding may give a probability of 1
    assert math.isfinite(certain) and certain > 16 and math.isnan(missing)


def test_settings_that_are_still_the_same():
    settings = MADE.settings
    assert settings.differences(settings) == []
    assert settings.differences(dataclasses.replace(settings, indexes=('/moved',))) == []  # its passages are the same
    assert settings.differences(dataclasses.replace(settings, stores=('f2',))) == []  # passages were added
    assert settings.differences(dataclasses.replace(settings, indexes=('/b',), stores=('f2',), n_context=3)) == ['index', 'n_context']
    closed = calibration.CalibrationSettings()
    assert closed.differences(closed) == [] and closed.differences(settings)[0] == settings.differences(closed)[0] == 'index'


def test_weights_are_told_apart(tmp_path):
    for step in (3, 20):
        (tmp_path / 'checkpoints' / f'{step}').mkdir(parents=True)
    assert calibration.weights_of(tmp_path) == '20'
    (tmp_path / 'checkpoints' / '20' / contents.FILE).write_text('a')
    first = calibration.weights_of(tmp_path)
    (tmp_path / 'checkpoints' / '20' / contents.FILE).write_text('b')
    assert first.startswith('20 ') and calibration.weights_of(tmp_path) != first
