"""A SIGTERM is recorded, and the earlier handler is restored."""

import os
import signal
import threading

from atlas_jax import errors
from atlas_jax.runtime import preemption, watch


def test_the_signal_is_noted_and_the_old_handler_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with preemption.StopRequest() as stop:
        assert not stop.now(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.now(2)
    assert signal.getsignal(signal.SIGTERM) is before
    assert errors.PreemptedError('saved').exit_code == watch.RESUMABLE == 75


def test_nothing_is_asked_outside_the_main_thread():
    before, found = signal.getsignal(signal.SIGTERM), []

    def run():
        with preemption.StopRequest() as stop:
            found.append((stop.now(1), signal.getsignal(signal.SIGTERM) is before))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [(False, True)]
