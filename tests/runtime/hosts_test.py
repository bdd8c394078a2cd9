"""The functions for several processes with one process; tests/multihost starts several."""

import jax
import numpy as np
import pytest

from atlas_jax import errors, partitioning
from atlas_jax.runtime import hosts

TREE = {'a': np.arange(35, dtype=np.float32).reshape(7, 5), 'b': [np.arange(3, dtype=np.int32)]}


@pytest.fixture
def whole():
    """The sharding of a replicated array."""
    return partitioning.replicated(partitioning.make_mesh())


def same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    return True


def test_arrays_come_back(whole):
    placed = hosts.place(TREE, whole)
    assert all(isinstance(leaf, jax.Array) and leaf.sharding == whole for leaf in jax.tree.leaves(placed))
    assert same(hosts.to_host(placed), TREE) and same(hosts.to_host(hosts.place(placed, whole)), TREE)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(hosts.to_host(placed)))
    assert same(hosts.place(TREE, {'a': whole, 'b': [whole]}), TREE)
    assert same(hosts.from_local(TREE, whole, 7), TREE)
    assert hosts.place({}, whole) == {} == hosts.to_host({})


def test_one_process_has_every_row(whole):
    assert hosts.local_rows(whole, 6).tolist() == list(range(6)) and hosts.local_rows(whole, 0).tolist() == []


def test_one_process_has_its_own_values():
    assert hosts.same_everywhere(values := np.array([True, False])) is values


def test_one_process_is_the_first_and_raises_its_own_error():
    assert hosts.is_first()
    with hosts.together():
        pass
    with pytest.raises(errors.StoreError, match='^mine$'), hosts.together():
        raise errors.StoreError('mine')


@pytest.mark.parametrize('values, shown', [
    (('', '2', ''), 'JAX_COORDINATOR_ADDRESS=, JAX_NUM_PROCESSES=2, JAX_PROCESS_ID=:'),
    (('a:1', '2', '2'), 'JAX_COORDINATOR_ADDRESS=a:1, JAX_NUM_PROCESSES=2, JAX_PROCESS_ID=2: give all three'),
    (('a:1', 'two', '0'), 'JAX_NUM_PROCESSES=two'), (('a:1', '2', '-1'), 'JAX_PROCESS_ID=-1'), (('', '', '0'), 'JAX_PROCESS_ID=0')])
def test_half_a_description_of_the_processes_is_refused(monkeypatch, values, shown):
    for name, value in zip(('COORDINATOR_ADDRESS', 'NUM_PROCESSES', 'PROCESS_ID'), values, strict=True):
        monkeypatch.setenv(f'JAX_{name}', value)
    with pytest.raises(errors.ConfigError) as caught:
        hosts.initialize()
    assert shown in str(caught.value) and '\n' not in str(caught.value)


def test_processes_that_do_not_come_are_one_line(monkeypatch):
    given = {}

    def initialize(**arguments):
        given.update(arguments)
        raise RuntimeError('DEADLINE_EXCEEDED:\n  barrier timed out')

    for name, value in (('COORDINATOR_ADDRESS', 'a:1'), ('NUM_PROCESSES', '3'), ('PROCESS_ID', '2')):
        monkeypatch.setenv(f'JAX_{name}', value)
    monkeypatch.setattr(jax.distributed, 'initialize', initialize)
    monkeypatch.delenv('JAX_PLATFORMS', raising=False)  # 'cpu' would change how this process's own backend starts
    with pytest.raises(errors.ConfigError, match='did not come together: DEADLINE_EXCEEDED: barrier timed out; start the same command'):
        hosts.initialize(7)
    assert given == {'coordinator_address': 'a:1', 'num_processes': 3, 'process_id': 2, 'initialization_timeout': 7}
