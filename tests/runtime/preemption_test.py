"""A SIGTERM is noted, and the handler of before comes back."""

import os
import signal

from atlas_jax.runtime import preemption, watch


def test_the_signal_is_noted_and_the_old_handler_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with preemption.StopRequest() as stop:
        assert not stop.now(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.now(2)
    assert signal.getsignal(signal.SIGTERM) is before
    assert preemption.PreemptedError('saved').exit_code == watch.RESUMABLE == 75
