"""Worker processes that are asked in JSON lines."""

import os
import signal
import time

import pytest

from atlas_jax import errors
from atlas_jax.runtime import line_process

MODULE = 'tests.testing.echo_worker'
LONG = b'{"action": "sleep", "seconds": 600}\n'


def test_answers_errors_and_death(capfd):
    with line_process.Worker(MODULE, os.environ | {'COLOUR': 'green'}) as worker:
        assert worker.ask('echo', value={'numbers': [1, 2.5], 'text': 'ü'}) == {'numbers': [1, 2.5], 'text': 'ü'}
        assert worker.ask('environment', name='COLOUR') == 'green'
        assert worker.ask('chatter', text='loud') == 'LOUD'
        with pytest.raises(errors.UserError, match='^no such thing$'):
            worker.ask('fail')
        assert worker.ask('echo', value=None) is None  # it goes on after an error
        assert not {'jax', 'torch', 'numpy'} & set(worker.ask('modules'))
        with pytest.raises(RuntimeError, match=f'{MODULE} ended with code 3 during "die"'):
            worker.ask('die')
    assert 'chatter' in capfd.readouterr().err


def test_two_workers_at_once():
    with line_process.Worker(MODULE) as one, line_process.Worker(MODULE) as other:
        assert [worker.ask('echo', value=i) for i in range(3) for worker in (one, other)] == [0, 0, 1, 1, 2, 2]


def test_a_death_is_noticed_though_another_process_holds_the_pipe():
    with line_process.Worker(MODULE) as worker:
        holder = os.open(f'/proc/self/fd/{worker._answers.fileno()}', os.O_WRONLY)  # as a child of the worker does
        try:
            with pytest.raises(RuntimeError, match='ended with code 3 during "die"'):
                worker.ask('die')
        finally:
            os.close(holder)


def test_a_worker_that_does_not_end_is_killed(monkeypatch):
    monkeypatch.setattr(line_process, 'CLOSE_SECONDS', 0.1)
    worker = line_process.Worker(MODULE)
    worker.ask('stay')
    assert os.getpgid(worker._process.pid) == worker._process.pid  # what it starts is killed with it
    worker.close(0.1)
    assert worker._process.returncode == -signal.SIGKILL


def test_after_an_error_nobody_waits_for_what_is_computed():
    with pytest.raises(KeyboardInterrupt), line_process.Worker(MODULE) as worker:
        assert worker.ask('echo', value=1) == 1
        worker._requests.write(LONG)
        worker._requests.flush()
        began = time.monotonic()
        raise KeyboardInterrupt
    assert worker._process.returncode == -signal.SIGTERM and time.monotonic() - began < line_process.CLOSE_SECONDS / 2


def test_a_worker_whose_parent_was_killed_ends_whatever_it_computes():
    worker = line_process.Worker(MODULE, os.environ | {'CLOSE_SECONDS': '0.1'})
    worker._requests.write(LONG)
    worker._requests.close()  # as the system does for a process that ends
    assert worker._process.wait(20) == 1
    worker.close()
