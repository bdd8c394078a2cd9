"""The benchmark of starts runs through: starts with a cold and a warm cache, and every kind of loop, are timed."""

import importlib
import json
import os
import sys

import pytest

from tests.testing import processes, streams

restart = importlib.import_module('restart')


# tests/runtime/compilation_cache_test.py starts a run twice, tests/train_loop_test.py has the loops, smoke_test.py runs a benchmark.
@pytest.mark.exhaustive
def test_it_times_starts_and_loops(tmp_path):
    sizes = ('--rounds', '1', '--steps', '12', '--n_context', '0')
    processes.run([sys.executable, restart.__file__, *sizes, '--json', tmp_path / 'restart.json'], cwd=tmp_path,
                  env=os.environ | {'XLA_FLAGS': streams.QUICK_FLAGS})
    figures = json.loads((tmp_path / 'restart.json').read_text())
    cold, warm = figures['start']['cold'], figures['start']['warm']
    assert all(0 < start['first_step_seconds'] <= start['seconds'] for start in (cold, warm))
    assert set(figures['loop']) == set(restart.LOOPS) and all(seconds > 0 for seconds in figures['loop'].values())
