"""A look at a run's time and memory: a profile of a few steps, and what lies on a device."""

import contextlib
from collections.abc import Iterator

import jax

FIRST_STEP, STEPS = 3, 3  # counted from where this process began: the first ones compile


class Profile:
    """Writes a profile (xprof reads it) of some steps into a folder; without one it does nothing. A context manager."""

    def __init__(self, folder: str | None):
        self.folder, self._seen, self._running = folder, 0, False

    def __enter__(self) -> 'Profile':
        return self

    def __exit__(self, *_) -> None:
        self._stop()

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Goes around each step."""
        self._seen += 1
        if self.folder is None or self._seen >= FIRST_STEP + STEPS:
            self._stop()
            yield
            return
        if self._seen == FIRST_STEP:
            jax.profiler.start_trace(self.folder)
            self._running = True
        with jax.profiler.StepTraceAnnotation('train', step_num=number):
            yield

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            if jax.process_index() == 0:
                print(f'{self.folder}: a profile of {STEPS} steps; look at it with xprof --logdir {self.folder}', flush=True)


def memory() -> dict[str, float]:
    """GiB in use, and at most so far, on the first device of this process; nothing where the device does not say."""
    stats = jax.local_devices()[0].memory_stats() or {}
    names = {'hbm_gib': 'bytes_in_use', 'hbm_peak_gib': 'peak_bytes_in_use'}
    return {name: round(stats[key] / 2**30, 3) for name, key in names.items() if key in stats}
