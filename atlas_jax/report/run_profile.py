"""A look at a run's time and memory: a profile of a few steps, how well devices are used, and what lies on one."""

import contextlib
import pathlib
from collections.abc import Iterator

import jax

from atlas_jax.report import device_time
from atlas_jax.runtime import accelerators
from atlas_jax.training import train_step

FIRST_STEP, STEPS = 3, 3  # counted from where this process began: the first ones compile


class Profile:
    """Writes a profile (xprof reads it) of some steps into a folder, and beside it where their time went; without a folder it does nothing.

    A context manager.
    """

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
                print(f'{self.folder}: a profile of {STEPS} steps; look at it with xprof --logdir {self.folder}\n'
                      + '\n'.join(_where_time_went(self.folder)), flush=True)


def _where_time_went(folder: str) -> list[str]:
    try:
        found = device_time.of_profile(pathlib.Path(folder), train_step.PARTS, 'train_step', jax.local_device_count())
    except (ValueError, OSError) as error:  # a run is not lost for its profile
        return [f'{folder}: where the time went is not known: {error}']
    found.write(pathlib.Path(folder))
    return found.lines()


def utilisation(flops: float, seconds: float) -> dict[str, float]:
    """What all devices did of the models' own FLOPs a second; and MFU, the share of their bfloat16 peak, where that is known."""
    found, peak = {'tflops_per_second': round(flops / seconds / 1e12, 4)}, accelerators.peak_flops(jax.devices()[0].device_kind)
    return found if peak is None else found | {'mfu': round(flops / seconds / peak / jax.device_count(), 4)}


def memory() -> dict[str, float]:
    """GiB in use, and at most so far, on the first device of this process; nothing where the device does not say."""
    stats = jax.local_devices()[0].memory_stats() or {}
    names = {'hbm_gib': 'bytes_in_use', 'hbm_peak_gib': 'peak_bytes_in_use'}
    return {name: round(stats[key] / 2**30, 3) for name, key in names.items() if key in stats}
