"""Two processes that are one run: arrays go over, and none waits for ever for another."""

import json
import pathlib

import jax
import pytest

from atlas_jax import errors, partitioning
from atlas_jax.runtime import hosts, watch
from atlas_jax.searchers import codes_building
from tests.multihost import searching
from tests.testing import processes, tiny_run

ROOT = str(pathlib.Path(__file__).parents[2])
PROGRAM = str(pathlib.Path(__file__).with_name('hosts_program.py'))


def test_arrays_go_over():
    results = processes.finish(processes.start([PROGRAM, 'arrays'], devices=2, PYTHONPATH=ROOT))
    assert [code for code, _ in results] == [0, 0], results
    assert all('equal 2 4' in output for _, output in results)


def test_processes_search_their_rows_and_read_their_examples(tmp_path):
    for package in ('bm25s', 'scann'):
        pytest.importorskip(package)
    index = tiny_run.index(tiny_run.atlas(dropout_rate=0.0), tmp_path)
    codes_building.compress(index.index, codes_building.CodesSettings(bytes_a_row=8, accept_recall=True), show_progress=False)
    index.delete(['d7'])
    expected = searching.found(tmp_path, partitioning.make_mesh(devices=jax.devices()[:1]))
    assert expected['codes'] == expected['exact']  # all passages are candidates
    results = processes.finish(processes.start([PROGRAM, 'found', str(tmp_path)], devices=2, PYTHONPATH=ROOT))
    for code, output in results:
        assert code == 0, output[-3000:]
        [line] = [line for line in output.splitlines() if line.startswith('FOUND ')]
        assert json.loads(line.removeprefix('FOUND ')) == expected
    names = {f'{name}-{number}-of-2' for name in ('bm25', 'scann') for number in (1, 2)}
    assert names <= {path.name for path in (tmp_path / 'index').iterdir()}


@pytest.mark.parametrize('how', ['dies', 'hangs'])
def test_a_process_that_dies_or_hangs_ends_the_run(how):
    results = processes.finish(processes.start([PROGRAM, how], devices=1, PYTHONPATH=ROOT), timeout=60)
    code, output = results[0]
    assert code == watch.RESUMABLE and 'process 1 (' in output, output
    assert ('dead' if how == 'dies' else 'hangs: at 8') in output


@pytest.mark.parametrize(('address', 'count', 'number'), [('', '2', ''), ('a:1', '2', '2'), ('a:1', 'two', '0')])
def test_half_a_description_of_the_processes_is_refused(monkeypatch, address, count, number):
    for name, value in (('COORDINATOR_ADDRESS', address), ('NUM_PROCESSES', count), ('PROCESS_ID', number)):
        monkeypatch.setenv(f'JAX_{name}', value)
    with pytest.raises(errors.ConfigError, match='JAX_PROCESS_ID='):
        hosts.initialize()


def test_one_process_has_every_row():
    assert hosts.local_rows(partitioning.replicated(partitioning.make_mesh()), 6).tolist() == list(range(6))
