"""Processor time and memory of this process."""

import os
import platform
import subprocess
import sys

import jax
import numpy as np
import pytest

from atlas_jax.runtime import allocator, resources

_FREES = """
import pathlib
import numpy as np
from atlas_jax.runtime import resources

def resident():
    return int(pathlib.Path('/proc/self/statm').read_text().split()[1]) * 4096

kept = [np.ones(2**16, np.uint8) for _ in range(4000)][::100]  # what is left lies among what is freed
before = resident()
resources.release_freed()
print(before - resident(), all(part.all() for part in kept))
"""


def test_peak_grows_with_what_is_used():
    before = resources.peak_bytes()
    assert before > 2**20
    size = before + 64 * 2**20  # more than the process ever used
    np.ones(size, np.uint8)
    assert resources.peak_bytes() >= size


def test_timed_runs_once_and_counts_processor_time():
    calls = []

    def work():
        calls.append(sum(i * i for i in range(200_000)))

    found = resources.timed(work)
    assert len(calls) == 1 and found['seconds'] > 0 and found['cpu_seconds'] > 0


@pytest.mark.skipif(not sys.platform.startswith('linux') or platform.libc_ver()[0] != 'glibc', reason='glibc keeps what is freed')
def test_freed_memory_is_given_back():
    environment = allocator.tuned_environment(allocator.plain_environment(os.environ))
    done = subprocess.run([sys.executable, '-c', _FREES], env=environment, capture_output=True, text=True, check=True)
    given_back, intact = done.stdout.split()
    assert int(given_back) > 100 * 2**20 and intact == 'True'


def test_what_compiling_took_is_given_back_only_within(monkeypatch):
    calls = []
    monkeypatch.setattr(resources, 'release_freed', lambda: calls.append(1))
    compiled = jax.jit(lambda x: x * 3 + 1)
    with resources.releasing_freed(least_seconds=0):
        assert len(calls) == 1
        compiled(np.ones(7, np.float32)).block_until_ready()
        within = len(calls)
        compiled(np.ones(7, np.float32)).block_until_ready()  # compiled already
        assert within > 1 and len(calls) == within
    compiled(np.ones(8, np.float32)).block_until_ready()
    with resources.releasing_freed(least_seconds=1e6):
        compiled(np.ones(9, np.float32)).block_until_ready()
    assert len(calls) == within + 1
