"""The steps of a run that are on the devices, and whose metrics are not read yet."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator

import jax

from atlas_jax import errors, types
from atlas_jax.runtime import hosts

_TOKENS = ('reader_tokens', 'retriever_tokens')  # counts that also get a rate per second


@dataclasses.dataclass(frozen=True)
class _Dispatched:
    """A step that was handed to the devices.

    step         number of the step, from 1
    metrics      scalars on the devices
    example_ids  [batch] int32
    known        metrics that the host knew when it handed the step over
    """

    step: int
    metrics: dict[str, jax.Array]
    example_ids: types.Array
    known: dict[str, float]


class WaitingSteps:
    """The steps on the devices, oldest first, with the time at which the devices began them."""

    def __init__(self) -> None:
        self._steps: list[_Dispatched] = []
        self._since = 0.0

    def add(self, step: int, metrics: dict[str, jax.Array], example_ids: types.Array,
            known: dict[str, float]) -> None:
        """Adds a step that was just handed to the devices; `example_ids` [batch] int32."""
        self._steps.append(_Dispatched(step, metrics, example_ids, known))

    def restart_clock(self) -> None:
        """Counts the seconds of the next step from now."""
        self._since = time.perf_counter()

    def wait(self) -> None:
        """Waits for everything that was handed to the devices."""
        hosts.fetch([waiting.metrics for waiting in self._steps])

    def read(self, last: int, left: Callable[[int], str]) -> Iterator[dict[str, float]]:
        """Waits for the steps up to `last` and yields their rows of metrics.

        `left(step)` names the checkpoint to continue from if the parameters of `step` diverged.

        Raises DivergedError at the first step that is not finite.
        """
        steps = [waiting for waiting in self._steps if waiting.step <= last]
        if not steps:
            return
        self._steps = self._steps[len(steps):]
        # All at once, and nowhere else: this is where the host waits.
        fetched = hosts.fetch([waiting.metrics for waiting in steps])
        now = time.perf_counter()
        seconds, self._since = (now - self._since) / len(steps), now
        for waiting, scalars in zip(steps, fetched, strict=True):
            metrics = {name: float(value) for name, value in scalars.items()}
            _stop_if_diverged(waiting.step, metrics, waiting.example_ids, left)
            yield {'step': waiting.step, **metrics, **waiting.known, 'seconds': seconds,
                   **{f'{name}_per_second': round(metrics[name] / seconds, 1)
                      for name in _TOKENS if name in metrics}}


def _stop_if_diverged(step: int, metrics: dict[str, float], example_ids: types.Array,
                      left: Callable[[int], str]) -> None:
    """Raises DivergedError if loss or gradients are not finite. It names learning rates, examples,
    and the checkpoint that `left` returns.
    """
    for name, what in (('loss', 'the loss'), ('gradient_norm', 'the norm of the gradients')):
        if not math.isfinite(metrics[name]):
            rates = ' and '.join(
                f'{metrics[rate]:.3g}' for rate in ('learning_rate', 'retriever_learning_rate')
                if rate in metrics)
            # First: it waits until nothing runs, since processes exchange the example ids.
            remaining = left(step - 1)
            examples = hosts.to_host(example_ids).tolist()
            raise errors.DivergedError(f'step {step}: {what} is {metrics[name]} (learning rates '
                                       f'of reader and retriever {rates}, examples {examples}); '
                                       f'{remaining}; lower the learning rates or look at these '
                                       'examples')
