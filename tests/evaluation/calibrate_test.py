"""Calibrates a tiny model by functions and by the command; the calibration is written, loaded, and withholds answers."""

import dataclasses
import json
import re
import types

import pytest

from atlas_jax import errors
from atlas_jax.answering import api
from atlas_jax.apps.cli import main as cli
from atlas_jax.checkpoints import calibration
from atlas_jax.evaluation import calibrate
from atlas_jax.metrics import answers as answer_metrics
from atlas_jax.metrics.logistic import Logistic
from atlas_jax.tasks.task import TaskExample
from tests.e2e import commands_test
from tests.testing import tiny_run


@pytest.fixture(scope='module')
def known(tmp_path_factory):
    """A folder with run and index, and the model; some answers are right since the questions' answers were taken from the model."""
    folder = tmp_path_factory.mktemp('calibrate')
    atlas = tiny_run.atlas(dropout_rate=0.0)
    atlas.save(folder / 'run')
    index = tiny_run.index(atlas, folder)
    examples = tiny_run.examples(atlas, 11)
    said = [answer.text for answer in atlas.answer_examples(examples, index)]
    rows = [row | {'answers': [text if number % 3 else 'never']} for number, (row, text) in
            enumerate(zip(tiny_run.rows(11), said, strict=True))]
    (folder / 'held-out.jsonl').write_text('\n'.join(map(json.dumps, rows * 3)))
    return folder, atlas, index, [atlas.task.example(row, number) for number, row in enumerate(rows)]


def test_calibrated_answers_and_those_that_are_withheld(known, monkeypatch, capsys):
    folder, _, index, examples = known
    monkeypatch.chdir(folder)
    fit, ask, explain = commands_test.commands('docs/confidence.md')
    asking = [*ask, '--json']
    assert cli.main(asking) == 2
    assert 'run is not calibrated: `atlas-jax calibrate --model run' in capsys.readouterr().err
    assert cli.main([*fit, '--json', 'figures.json']) == 0
    said = capsys.readouterr().out
    assert '33 questions, 21 right (exact_match 0.636, 95 % interval 0.466 to 0.778)' in said and 'calibration error' in said
    assert json.loads((folder / 'figures.json').read_text())['questions'] == 33
    atlas = api.Atlas.load('run')
    made = atlas.calibration
    assert made == calibration.read(folder / 'run') and made.right == 21 and made.settings.n_context == 2
    assert made.signals[:2] == ('log_likelihood', 'log_likelihood_per_token') and 'beam_agreement' not in made.signals
    answers = list(atlas.answer_examples(examples, index))
    chances = [answer.confidence for answer in answers]
    assert [made.confidence(answer.signals) for answer in answers] == chances and len(set(chances)) > 5
    # Same weights and settings: no note on either.
    assert 'may be off' not in capsys.readouterr().err
    threshold = sorted(chances)[5]
    held = list(atlas.answer_examples(examples, index, abstain_below=threshold))
    assert [answer.abstained for answer in held] == [chance < threshold for chance in chances]
    assert sum(answer.abstained for answer in held) == 5
    for answer, before in zip(held, answers, strict=True):
        assert answer.generated == before.text and answer.text == (api.WITHHELD if answer.abstained else before.text)
    assert cli.main([*asking, '--abstain_below', '0.999']) == 0
    [shown] = json.loads(capsys.readouterr().out)
    assert (shown['text'], shown['abstained'], shown['guess']) == (api.WITHHELD, True, None)
    assert 0 < shown['confidence'] < 0.999 and shown['signals']
    assert cli.main([*explain, '--json']) == 0
    [shown] = json.loads(capsys.readouterr().out)
    for passage in shown['passages']:
        assert passage['carried'] and ' '.join(word for word, _ in passage['words']) == passage['text']
        assert 0 < sum(share for _, share in passage['words']) < passage['attention']


def test_weights_that_were_not_calibrated_have_no_confidence(known, tmp_path, capsys):
    _, atlas, *_ = known
    atlas.save(tmp_path)
    found = calibration.Calibration((), Logistic((), (), (), 0.0), calibration.CalibrationSettings(), 'exact_match', 30, 15, 'of another '
                                                                                                                             'run')
    calibration.write(tmp_path, found)
    assert api.Atlas.load(tmp_path).calibration is None
    assert 'it was made for other weights than the newest, so it is not used' in capsys.readouterr().err
    calibration.write(tmp_path, dataclasses.replace(found, weights=calibration.weights_of(tmp_path)))
    assert api.Atlas.load(tmp_path).calibration is not None


def test_questions_are_asked_again_without_the_passages_that_answer_them(known):
    folder, atlas, index, examples = known
    word = answer_metrics.normalize(index.store[3].text).split()[-1]
    examples = [dataclasses.replace(example, answers=[word if number < 6 else 'never said'], gold_docids=['d1'] if number == 8 else [])
                for number, example in enumerate(examples)]
    asked = calibrate.answer_questions(atlas, examples, index, calibrate.CalibrationOptions(n_context=2))
    # Every second question that a passage answers; the eighth only by its gold passage.
    assert [each.example_id for each in asked.hidden] == [0, 2, 4, 8] and asked.hidden[-1].hidden_docids == ('d1',)
    passages = [index.store[row] for row in range(len(index.store))]
    holding = {passage.docid for passage in passages if word in answer_metrics.normalize(passage.text).split()}
    assert holding and all(set(each.hidden_docids) == holding for each in asked.hidden[:3])
    for example, guess in zip(asked.hidden, asked.guesses, strict=True):
        assert guess.passages and not {passage.docid for passage in guess.passages} & set(example.hidden_docids)
    figures = calibrate.fit_confidence(atlas, asked, calibration.CalibrationSettings(), folder / 'run', few=True).figures
    assert figures['hidden'] == 4 and figures['hidden_right'] == 0 and 0 < figures['hidden_confidence'] < 1


def test_beams_and_a_closed_book_have_signals_of_their_own(known):
    folder, atlas, _, examples = known
    from atlas_jax.decoding import DecodingConfig
    options = calibrate.CalibrationOptions(decoding=DecodingConfig(num_beams=2), few=True)
    found = calibrate.calibrate(atlas, examples[:5], None, folder / 'run', options)
    assert found.signals == ('log_likelihood', 'log_likelihood_per_token', 'beam_agreement')
    assert (found.settings.num_beams, found.settings.n_context, found.questions) == (2, 0, 5)


@pytest.mark.parametrize(('task', 'count', 'changes', 'says'), [
    (None, 29, {}, '29 questions are too few to fit a confidence to, at least 30 are needed; give more, or --few'),
    (None, 0, {}, '0 questions are too few'), (None, 40, {'answers': []}, '40 of 40 questions have no answers'),
    (None, 40, {'choices': ('A', 'B')}, 'a multiple choice has probabilities of its own'),
    (types.SimpleNamespace(metrics=('rouge_1',)), 40, {}, 'are neither right nor wrong (its metrics are rouge_1)')])
def test_questions_that_no_confidence_can_be_fitted_to(known, task, count, changes, says):
    _, atlas, *_ = known
    atlas = atlas if task is None else dataclasses.replace(atlas, task=task)
    examples = [dataclasses.replace(TaskExample('q', 'q', ['a'], number), **changes) for number in range(count)]
    with pytest.raises(errors.ConfigError, match=re.escape(says)):
        calibrate.check_questions(atlas, examples)
    if count == 29:
        assert calibrate.check_questions(atlas, examples, few=True) == 'exact_match'
