"""Processor time and memory of this process."""

import numpy as np

from atlas_jax.io import resources


def test_peak_grows_with_what_is_used():
    before = resources.peak_bytes()
    assert before > 2**20
    size = before + 64 * 2**20  # more than was ever used
    np.ones(size, np.uint8)
    assert resources.peak_bytes() >= size


def test_timed_runs_once_and_counts_processor_time():
    calls = []

    def work():
        calls.append(sum(i * i for i in range(200_000)))

    found = resources.timed(work)
    assert len(calls) == 1 and found['seconds'] > 0 and found['cpu_seconds'] > 0
