"""Preemption: on SIGTERM, before the machine is taken away, a run saves its state and stops."""

import signal
import threading
import types
from typing import Any

import jax
from jax.experimental import multihost_utils


class StopRequest:
    """Records a SIGTERM that arrives inside the block.

    If one of several processes receives it, all stop after the same step.
    """

    def __init__(self) -> None:
        self._asked = False
        self._before: Any = None  # the handler before ours

    def __enter__(self) -> 'StopRequest':
        # With several processes jax handles the signal. Python can set handlers in the main thread
        # only.
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def now(self, step: int) -> bool:
        """Returns whether to save and stop after `step`; every process must call it after every
        step.
        """
        if jax.process_count() > 1:
            # All processes get the same answer, at the same step.
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        self._asked = True
