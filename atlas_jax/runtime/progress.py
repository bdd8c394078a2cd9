"""Progress bars with rate and ETA, on process 0 only."""

import sys

import jax
import tqdm


def bar(total: int, description: str, unit: str) -> tqdm.tqdm:
    """A progress bar on standard error; silent on every process but the first, and sparse where it is no terminal."""
    interval_seconds = 0.1 if sys.stderr.isatty() else 10
    return tqdm.tqdm(total=total, desc=description, unit=unit, mininterval=interval_seconds, maxinterval=max(10, interval_seconds),
                     disable=jax.process_index() != 0, dynamic_ncols=True, smoothing=0.05)


def skip(bar: tqdm.tqdm, done: int) -> None:
    """Counts what an earlier run had done already; it stays out of the rate."""
    if done and not bar.disable:  # a silent one counts nothing
        bar.initial += done
        bar.n += done
        bar.refresh()
