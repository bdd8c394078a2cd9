"""Two processes of four devices each build an index, train, save, resume and evaluate as one process of eight does."""

import json
import os
import pathlib
import subprocess
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
    results = processes.finish(processes.start([PROGRAM, *map(str, arguments), 'several'], PYTHONPATH=PATHS), timeout=600)
    assert [code for code, _ in results] == [0, 0], results[0][1][-3000:] + results[1][1][-3000:]
    assert 'RESULT' not in results[1][1] and 'training:' not in results[1][1]  # process 0 alone talks
    return _result(results[0][1])


def _one(*arguments):
    environment = os.environ | {'PYTHONPATH': PATHS, 'JAX_PLATFORMS': 'cpu',
                                'XLA_FLAGS': f'{streams.QUICK_FLAGS} --xla_force_host_platform_device_count=8'}
    run = subprocess.run([sys.executable, PROGRAM, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=600,
                         check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    return _result(run.stdout)


def _check(one, first, two, longer, folder):
    """Of the rows of one process, of two until step 2 and then until 4, and of one that goes on from there."""
    assert first == two['rows'][-1][:2]
    for name in ('reader_loss', 'retriever_loss', 'gradient_norm', 'index_age_max'):
        np.testing.assert_allclose([row[name] for row in two['rows'][-1]], [row[name] for row in one['rows'][0]], rtol=2e-4)
    assert two['answers'] == one['answers'] and len(two['docids']) == 11 and two['docids'] == one['docids']
    np.testing.assert_allclose(two['norm'], one['norm'], rtol=1e-5)
    assert (folder / 'index' / 'manifest.json').read_text() != ''
    assert [row['step'] for row in longer] == [1, 2, 3, 4, 5] and longer[:4] == two['rows'][-1]


@pytest.mark.slow  # three processes, each compiles a run: only processes show that they agree on what they write
def test_two_processes_compute_what_one_does(tmp_path):
    two = _two(tmp_path / 'two', '2,4', 'evaluate')
    one = _one(tmp_path / 'one', 4, 'evaluate', 'then', tmp_path / 'two', 5)  # what two processes saved goes on in one
    _check(one, two['rows'][0], two, one['rows'][1], tmp_path / 'two')


@pytest.mark.exhaustive  # as above, and nothing stays in memory from one run to the next: six processes, two minutes
@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_in_others(tmp_path):
    one = _one(tmp_path / 'one', 4, 'evaluate')
    first = _two(tmp_path / 'two', 2)
    two = _two(tmp_path / 'two', 4, 'evaluate')
    longer = _one(tmp_path / 'two', 5)
    _check(one, first['rows'][0], two, longer['rows'][0], tmp_path / 'two')
