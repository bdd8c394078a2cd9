"""Progress bars with rate and remaining time, on process 0 only."""

import sys

import tqdm

from atlas_jax.runtime import notes


def bar(total: int | None, description: str, unit: str, *, show: bool = True) -> tqdm.tqdm:
    """Returns a progress bar on standard error. It is silent without `show`, and on all processes
    but the first.

    `total` None is an unknown number. Use the bar as a context manager.
    """
    # A log file gets a line every ten seconds.
    interval_seconds = 0.1 if sys.stderr.isatty() else 10
    # Little smoothing: steps and shards take equal times, and one slow step should not move the
    # estimate.
    return tqdm.tqdm(total=total, desc=description, unit=unit, mininterval=interval_seconds,
                     maxinterval=max(10, interval_seconds), dynamic_ncols=True, smoothing=0.05,
                     disable=not show or not notes.is_first())


def skip(bar: tqdm.tqdm, done: int) -> None:
    """Counts items that an earlier run has done; they do not count in the rate."""
    if done and not bar.disable:  # a silent bar counts nothing
        bar.initial += done
        bar.n += done
        bar.refresh()
