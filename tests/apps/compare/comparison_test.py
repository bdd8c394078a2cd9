"""`atlas-jax compare`: with PyTorch, with recorded arrays, its messages, and timing in turn."""

import itertools
import json
import shutil

import jax
import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.apps.cli import main as cli
from atlas_jax.apps.compare import comparison as compare
from atlas_jax.apps.compare import differences as compare_differences
from atlas_jax.conversion import hf
from tests.testing import loaded, streams

PARITY = streams.FIXTURES / 'parity'
MODELS = ['--reader', PARITY / 'reader_v11', '--retriever', PARITY / 'contriever', '--layer_norm', 'second_moment']


def run(capsys, *arguments) -> tuple[int, str, str]:
    """(exit code, output, errors) of `atlas-jax compare`."""
    try:
        code = cli.main(['compare', *map(str, arguments)])
    except SystemExit as stop:
        code = stop.code
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@pytest.fixture(scope='module')
def untied(tmp_path_factory):
    """A model folder whose passage encoder is another one than its query encoder."""
    pair = tmp_path_factory.mktemp('untied')
    for name, source in (('reader', 'reader_v11'), ('retriever', 'contriever'), ('passage_encoder', 'contriever')):
        shutil.copytree(PARITY / source, pair / name)
    config, params = loaded.contriever(pair / 'passage_encoder')
    hf.write_params(pair / 'passage_encoder', config, jax.tree.map(lambda leaf: 1.25 * leaf, params))
    return pair


@pytest.mark.torch
@pytest.mark.slow  # our step and that of PyTorch are both compiled and run, gradients included
@pytest.mark.parametrize('is_tied', [False, pytest.param(True, marks=pytest.mark.exhaustive)])
def test_against_torch(capsys, tmp_path, untied, is_tied):
    pytest.importorskip('torch')
    pytest.importorskip('transformers')
    out, page, figures = tmp_path / 'ours.npz', tmp_path / 'page.html', tmp_path / 'figures.json'
    arguments = [*(MODELS if is_tied else ['--model', untied]), '--random', '2x3x11', '--temperature_gold', '0.1', '--temperature_score',
                 '0.1', '--max_length', '5']
    code, text, _ = run(capsys, *arguments, '--rounds', '1', '--grads', '--out', out, '--report', page, '--json', figures)
    assert code == 0 and 'all agree' in text and 'grads/retriever (53 parameters)' in text and 'PyTorch, tuned' in text, text
    assert ('grads/passage_encoder (53 parameters)' in text) != is_tied, text
    found = json.loads(figures.read_text())
    assert found['agrees'] and found['ratio']['step_seconds'] > 0 and found['theirs']['peak_bytes'] > 0
    assert 'encoder.block.0.layer.0.SelfAttention.q.weight' in page.read_text()
    with np.load(out) as file:
        recorded = dict(file)
    assert recorded['0/generated'].shape == (2, 5)


def test_what_differs_is_said_and_exit_code_1(capsys):
    ours = {'0/logits': np.array([1.0, 2.0]), '0/reader_loss': np.array(3.0)}
    rows = compare_differences.differences(ours, ours | {'0/logits': np.array([1.0, 2.002])}, against='recorded.npz')
    figures = compare._finish(rows, {'ours': {'device': 'cpu'}}, 'recorded.npz', compare.ComparisonOptions(), None)
    assert not figures['agrees'] and 'THEY DIFFER' in capsys.readouterr().out
    with pytest.raises(errors.DifferenceError, match='^logits differ by more than is allowed') as caught:
        compare.raise_unless_agrees(figures)
    assert caught.value.exit_code == 1
    compare.raise_unless_agrees(figures | {'differences': [row for row in figures['differences'] if row['agrees']]})


@pytest.mark.parametrize(('arguments', 'parts'), [
    (['--reader', 'x'], ['--out']),
    (['--reader', 'x', '--out', 'o.npz'], ['--inputs', '--data', '--random']),
    (['--reader', 'x', '--model', 'y', '--random', '1x1x4', '--out', 'o.npz'], ['--model DIR, or --reader DIR']),
    (['--reader', 'x', '--random', '1x4', '--out', 'o.npz'], ['"1x4" is not a size']),
    (['--reader', 'x', '--random', '1x1x4', '--out', 'o.npz', '--variant', 'fast'], ['"fast" is unknown', 'tuned']),
    (['--reader', 'x', '--data', 'd.jsonl', '--out', 'o.npz'], ['--index DIR']),
    (['--reader', 'x', '--inputs', 'nowhere.npz', '--out', 'o.npz'], ['nowhere.npz']),
    (['--reader', 'x', '--random', '1x1x4', '--out', 'o.npz', '--against', 'recorded.npz'], ['recorded.npz']),
    (['--reader', 'y', '--random', '1x1x4', '--out', 'o.npz'], ['y: no such file or folder']),
])
def test_mistakes(arguments, parts, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'x').mkdir()
    code, _, message = run(capsys, *arguments)
    assert code == 2 and message.startswith('atlas-jax: ') and message.count('\n') == 1, message
    assert all(part in message for part in parts), message


def test_states_on_padding_do_not_count():
    inputs = {'reader_mask': np.array([[[[1, 0], [1, 1]]]])}
    side = compare._real_states({'0/encoder_states': np.ones((1, 4, 3)), '0/logits': np.ones(2)}, inputs)
    assert side['0/encoder_states'][0, :, 0].tolist() == [1, 0, 1, 1] and side['0/logits'].sum() == 2


def test_missing_torch_names_the_extra(capsys, monkeypatch, tmp_path):
    import importlib.util
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, package=None: None)
    code, _, message = run(capsys, *MODELS, '--inputs', PARITY / 'inputs.npz', '--out', tmp_path / 'o.npz')
    assert code == 2 and 'atlas-jax[torch]' in message and message.count('\n') == 1


def runner(seconds, log=None, name=''):
    times = iter(seconds)

    def run(number):
        if log is not None:
            log.append((name, number))
        return {'seconds': next(times), 'cpu_seconds': 1.0, 'reader_loss': 0.5, 'tokens': 7}
    return run


@pytest.mark.parametrize('seconds, runs', [
    ([38, 9.7, 9.6], 3),  # steady at once
    ([14.3, 13.5, 10.0, 9.0, 8.8], 5),  # PyTorch's first steps
    ([9.0, 9.5, 9.6], 3),
    ([2.0**-i for i in range(20)], 9),  # never steady
])
def test_warming_up_ends_when_runs_are_steady(seconds, runs):
    log = []
    first = compare.warm_up(runner([*seconds, *itertools.repeat(1.0, 20)], log))
    assert first['seconds'] == seconds[0] and len(log) == runs


def test_sides_take_turns_and_a_turns_first_run_is_not_timed():
    log = []
    sides = {'a': runner([9, 2, 2, 50, 3, 60, 5, 70, 4], log, 'a'), 'b': runner([9, 1, 1, 50, 6, 50, 6, 50, 6], log, 'b')}
    found = compare.alternate(sides, 3)
    assert [name for name, _ in log] == ['a'] * 3 + ['b'] * 3 + ['a', 'a', 'b', 'b'] * 3
    assert [number for name, number in log if name == 'a'] == [0, 0, 0, 0, 0, 1, 1, 2, 2]
    assert found['a'] == {'seconds': 4, 'least_seconds': 3, 'greatest_seconds': 5, 'cpu_seconds': 1.0, 'first_seconds': 9,
                          'first': {'reader_loss': 0.5}, 'reader_loss': 0.5, 'tokens': 7, 'seconds_after_pause': 60}
    assert found['b']['seconds'] == 6
