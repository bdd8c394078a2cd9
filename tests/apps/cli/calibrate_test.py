"""Mistakes in the options of `atlas-jax calibrate`, told before a model is loaded; tests/evaluation/calibrate_test.py runs the command."""

import dataclasses

import pytest

from atlas_jax.apps.cli import calibrate as cli_calibrate
from atlas_jax.apps.cli import main as cli
from tests.checkpoints.calibration_test import MADE


@pytest.mark.parametrize(('arguments', 'says'), [
    (['--model', 'nowhere'], 'nowhere: no such file or folder'), (['--model', 'index'], 'index: no model.json in it'),
    (['--model', 'run', '--examples', 'none.jsonl'], 'none.jsonl'), (['--model', 'run', '--index', 'none'], 'none'),
    (['--model', 'run', '--num_beams', '0'], 'num_beams is 0'), (['--model', 'run', '--examples', 'broken.jsonl'], 'broken.jsonl:1')])
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)
    for name in ('run', 'index'):
        (tmp_path / name).mkdir()
    (tmp_path / 'run' / 'model.json').write_text('{}')
    (tmp_path / 'held-out.jsonl').write_text('{"question": "q", "answers": ["a"]}')
    (tmp_path / 'broken.jsonl').write_text('{"question')
    given = ['calibrate', *arguments, *([] if '--examples' in arguments else ['--examples', 'held-out.jsonl'])]
    assert cli.main(given) == 2
    error = capsys.readouterr().err
    assert says in error and error.count('\n') == 1


def test_what_a_calibration_is_worth():
    figures = {'right': 0.75, 'right_low': 0.6, 'right_high': 0.86}
    few = dataclasses.replace(MADE, figures=figures)
    assert cli_calibrate.lines_of(few) == ['40 questions, 30 right (exact_match 0.750, 95 % interval 0.600 to 0.860)']
    known = dataclasses.replace(MADE, figures=figures | {'ece': 0.04, 'aurc': 0.1, 'coverage_at_95': 0.5})
    assert cli_calibrate.lines_of(known)[1:] == ['on questions left out of the fit: calibration error 0.040, area under risk–coverage '
                                                 '0.100, coverage at 95 % precision 0.500']
