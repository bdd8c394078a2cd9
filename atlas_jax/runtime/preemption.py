"""Stops a run in good order when the machine is to be taken away: SIGTERM asks for a checkpoint and an end."""

import signal
import threading

import jax
from jax.experimental import multihost_utils

from atlas_jax import errors
from atlas_jax.runtime import watch


class PreemptedError(errors.UserError):
    """The run was asked to stop, and has saved its state; the same command goes on."""

    exit_code = watch.RESUMABLE


class StopRequest:
    """Notes a SIGTERM while the block runs. With several processes, one that is told tells the others, and all stop at the same step."""

    def __init__(self):
        self._asked = False
        self._before = None

    def __enter__(self) -> 'StopRequest':
        # With several processes jax listens for the signal; and only a main thread may.
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def now(self, step: int) -> bool:
        """Whether to save and stop after `step`; every process asks after every step."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked

    def _note(self, *_) -> None:
        self._asked = True
