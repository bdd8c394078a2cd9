"""Two processes that are one run: arrays go over, and none waits for ever for another."""

import pathlib

import pytest

from atlas_jax import errors, partitioning
from atlas_jax.runtime import hosts, watch
from tests.testing import processes

PROGRAM = str(pathlib.Path(__file__).with_name('hosts_program.py'))


def test_arrays_go_over():
    results = processes.finish(processes.start([PROGRAM, 'arrays'], devices=2))
    assert [code for code, _ in results] == [0, 0], results
    assert all('equal 2 4' in output for _, output in results)


@pytest.mark.parametrize('how', ['dies', 'hangs'])
def test_a_process_that_dies_or_hangs_ends_the_run(how):
    results = processes.finish(processes.start([PROGRAM, how], devices=1), timeout=60)
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
