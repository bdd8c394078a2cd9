"""Timing in turn: warmed up until steady, first runs of a turn left out."""

import itertools

import pytest

from atlas_jax.compare import timing as compare_timing


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
    ([2.0**-i for i in range(20)], 9),  # no end in sight
])
def test_warming_up_ends_when_runs_are_steady(seconds, runs):
    log = []
    first = compare_timing.warm_up(runner([*seconds, *itertools.repeat(1.0, 20)], log))
    assert first['seconds'] == seconds[0] and len(log) == runs


def test_sides_take_turns_and_a_turns_first_run_is_not_timed():
    log = []
    sides = {'a': runner([9, 2, 2, 50, 3, 60, 5, 70, 4], log, 'a'), 'b': runner([9, 1, 1, 50, 6, 50, 6, 50, 6], log, 'b')}
    found = compare_timing.alternate(sides, 3)
    assert [name for name, _ in log] == ['a'] * 3 + ['b'] * 3 + ['a', 'a', 'b', 'b'] * 3
    assert [number for name, number in log if name == 'a'] == [0, 0, 0, 0, 0, 1, 1, 2, 2]
    assert found['a'] == {'seconds': 4, 'least_seconds': 3, 'greatest_seconds': 5, 'cpu_seconds': 1.0, 'first_seconds': 9,
                          'first': {'reader_loss': 0.5}, 'reader_loss': 0.5, 'tokens': 7, 'seconds_after_pause': 60}
    assert found['b']['seconds'] == 6
