"""Worker processes that answer JSON lines."""

import os

import pytest

from atlas_jax import errors
from atlas_jax.runtime import line_process

MODULE = 'tests.testing.echo_worker'


def test_answers_errors_and_death(capfd):
    with line_process.Worker(MODULE, os.environ | {'COLOUR': 'green'}) as worker:
        assert worker.ask('echo', value={'numbers': [1, 2.5], 'text': 'ü'}) == {'numbers': [1, 2.5], 'text': 'ü'}
        assert worker.ask('environment', name='COLOUR') == 'green'
        assert worker.ask('chatter', text='loud') == 'LOUD'
        with pytest.raises(errors.UserError, match='^no such thing$'):
            worker.ask('fail')
        assert worker.ask('echo', value=None) is None  # the worker continues after an error
        assert not {'jax', 'torch', 'numpy'} & set(worker.ask('modules'))
        with pytest.raises(RuntimeError, match=f'{MODULE} ended with code 3 during "die"'):
            worker.ask('die')
    assert 'chatter' in capfd.readouterr().err


def test_two_workers_at_once():
    with line_process.Worker(MODULE) as one, line_process.Worker(MODULE) as other:
        assert [worker.ask('echo', value=i) for i in range(3) for worker in (one, other)] == [0, 0, 1, 1, 2, 2]
