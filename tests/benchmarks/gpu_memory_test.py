"""The compiler for GPUs, where it is installed; without it the benchmark ends with one line."""

import importlib.util
import os
import pathlib
import sys

import pytest

from tests.testing import processes

ROOT = pathlib.Path(__file__).resolve().parents[2]
OPTIONS = ['--topology', 'h100:2', '--gin_file', 'models/tiny.gin', '--gin_file', 'runs/plan.gin', '--gin.BATCH_SIZE=2',
           '--gin.N_CONTEXT=1', '--gin.TEXT_TOKENS=64', '--gin.INDEX_ROWS=400', '--step', 'answer']
INSTALLED = importlib.util.find_spec('jax_cuda12_plugin') is not None


def _run():
    return processes.run([sys.executable, ROOT / 'benchmarks' / 'gpu_memory.py', *OPTIONS], check=False,
                         env=os.environ | {'PYTHONPATH': f'{ROOT}:{os.environ.get("PYTHONPATH", "")}'})


@pytest.mark.skipif(INSTALLED, reason='the compiler for GPUs is installed')
def test_without_the_compiler_it_is_one_line():
    run = _run()
    assert run.returncode == 1 and run.stderr == 'the compiler for GPUs is missing: pip install "atlas-jax[cuda]"\n'


@pytest.mark.slow  # a compilation for two GPUs
@pytest.mark.skipif(not INSTALLED, reason='the compiler for GPUs is not installed: pip install "atlas-jax[cuda]"')
def test_a_step_is_compiled_for_gpus_with_cudnns_kernels():
    run = _run()
    assert run.returncode == 0 and 'compiled' in run.stdout and '__cudnn$fmhaScaleBiasSoftmax' in run.stdout, run.stderr[-3000:]
