"""Two processes of four devices each build an index, train, save, resume and evaluate as one process of eight does."""

import json
import os
import pathlib
import sys

import numpy as np
import pytest

from tests.testing import processes, streams

PROGRAM = str(pathlib.Path(__file__).with_name('train_program.py'))
PATHS = os.pathsep.join([str(pathlib.Path(__file__).parents[2]), os.environ.get('PYTHONPATH', '')])


def _result(output):
    lines = [line for line in output.splitlines() if line.startswith('RESULT ')]
    assert len(lines) == 1, output[-3000:]
    return json.loads(lines[0].removeprefix('RESULT '))


def _two(*arguments):
    results = processes.run_together([PROGRAM, *arguments, 'several'], PYTHONPATH=PATHS)
    assert [code for code, _ in results] == [0, 0], results[0][1][-3000:] + results[1][1][-3000:]
    assert 'RESULT' not in results[1][1] and 'training:' not in results[1][1]  # process 0 alone talks
    return _result(results[0][1])


def _one(*arguments):
    environment = os.environ | {'PYTHONPATH': PATHS, 'JAX_PLATFORMS': 'cpu',
                                'XLA_FLAGS': f'{streams.QUICK_FLAGS} --xla_force_host_platform_device_count=8'}
    return _result(processes.run([sys.executable, PROGRAM, *arguments], env=environment).stdout)


def _check_equal(one, two):
    for name in ('reader_loss', 'retriever_loss', 'gradient_norm', 'index_age_max'):
        np.testing.assert_allclose([row[name] for row in two['rows']], [row[name] for row in one['rows']], rtol=2e-4)
    assert two['answers'] == one['answers'] and len(two['docids']) == 11 and two['docids'] == one['docids']
    np.testing.assert_allclose(two['norm'], one['norm'], rtol=1e-5)


@pytest.mark.timeout(600)
@pytest.mark.slow  # three processes, each compiles a run: only processes show that they agree on what they write
def test_two_processes_compute_what_one_does(tmp_path):
    one, two = (train(tmp_path / name, tmp_path / name / 'run', 2, 'evaluate') for name, train in (('one', _one), ('two', _two)))
    _check_equal(one, two)
    assert (tmp_path / 'two' / 'index' / 'manifest.json').read_text() != ''


@pytest.mark.timeout(600)
@pytest.mark.exhaustive  # six processes: train_test.py has a run that goes on bit by bit in one
def test_runs_go_on_in_two_processes_and_in_one(tmp_path):
    one = _one(tmp_path / 'one', tmp_path / 'one' / 'run', 4, 'evaluate')
    first = _two(tmp_path / 'two', tmp_path / 'two' / 'run', 2)
    two = _two(tmp_path / 'two', tmp_path / 'two' / 'run', 4, 'evaluate')  # goes on from step 2
    assert first['rows'] == two['rows'][:2]
    _check_equal(one, two)
    # What two processes saved goes on in one.
    longer = _one(tmp_path / 'two', tmp_path / 'two' / 'run', 5)
    assert [row['step'] for row in longer['rows']] == [1, 2, 3, 4, 5] and longer['rows'][:4] == two['rows']
