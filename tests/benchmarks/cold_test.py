"""The benchmark of a cold start runs through: every side is timed, and the filled cache saves what the empty one costs."""

import importlib
import json
import os
import sys

import pytest

from tests.testing import processes, streams, tiny_run

cold = importlib.import_module('cold')


@pytest.mark.exhaustive  # smoke_test.py runs a benchmark, tests/runtime/compilation_cache_test.py what this one times
def test_it_times_every_side(tmp_path):
    tiny_run.atlas(dropout_rate=0.0).save(tmp_path / 'model')
    processes.run([sys.executable, cold.__file__, '--rounds', '1', '--model', tmp_path / 'model', '--json', tmp_path / 'cold.json'],
                  cwd=tmp_path, env=os.environ | {'XLA_FLAGS': streams.QUICK_FLAGS})
    figures = json.loads((tmp_path / 'cold.json').read_text())
    answers = figures['first answer']
    assert tuple(answers) == cold.SIDES and all(0 < found['cpu_seconds'] for found in answers.values())
    # Processor seconds: what compiles nothing needs less of them, however busy the machine.
    assert answers['filled cache']['cpu_seconds'] < answers['empty cache']['cpu_seconds']
    assert 0 < figures['help']['seconds'] and 0 < figures['second answer']['seconds'] < answers['filled cache']['seconds']
