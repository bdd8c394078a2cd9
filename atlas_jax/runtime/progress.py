"""Progress bars with rate and remaining time, on process 0 only."""

import sys

import tqdm


def bar(total: int | None, description: str, unit: str, *, show: bool = True) -> tqdm.tqdm:
    """Returns a progress bar on standard error; it is silent on all processes but the first, and without `show`.

    `total` None is an unknown number. Use the bar as a context manager.
    """
    interval_seconds = 0.1 if sys.stderr.isatty() else 10  # a log file gets a line every ten seconds
    # Little smoothing: steps and shards take equal times, and a single slow one should not move the estimate.
    return tqdm.tqdm(total=total, desc=description, unit=unit, mininterval=interval_seconds, maxinterval=max(10, interval_seconds),
                     disable=not show or not _is_first(), dynamic_ncols=True, smoothing=0.05)


def skip(bar: tqdm.tqdm, done: int) -> None:
    """Counts items that an earlier run has done; they stay out of the rate."""
    if done and not bar.disable:  # a silent bar counts nothing
        bar.initial += done
        bar.n += done
        bar.refresh()


def _is_first() -> bool:
    # Who has not imported jax is no process of several, and must not wait for it, or take a TPU from the one that trains.
    jax = sys.modules.get('jax')
    return jax is None or jax.process_index() == 0
