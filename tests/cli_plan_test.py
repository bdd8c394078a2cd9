"""`atlas-jax plan`: mistakes are one line before anything is compiled; a tiny step is compiled for four chips."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from atlas_jax import cli

needs_compiler = pytest.mark.skipif(importlib.util.find_spec('libtpu') is None, reason='libtpu, the TPU compiler, is not installed')
FILES = ['plan', '--gin_file', 'models/tiny.gin', '--gin_file', 'runs/plan.gin']


def _run(*arguments):
    environment = os.environ | {'ATLAS_JAX_KEEP_ALLOCATOR': '1'}
    return subprocess.run([sys.executable, '-m', 'atlas_jax', *FILES, *arguments], capture_output=True, text=True, env=environment,
                          timeout=900, check=False)


@pytest.mark.parametrize('arguments, words', [(['--topology', 'v9:2x2x2'], 'topology "v9:2x2x2" is unknown; write v4:AxBxC'),
                                              (['--topology', 'v4:2x3x1'], 'side B is 3, not a multiple of the 2 chips'),
                                              ([], 'give a slice, such as --topology v4:4x4x4, or --search')])
def test_unknown_slices_are_one_line(arguments, words, capsys):
    assert cli.main([*FILES, *arguments]) == 2
    shown = capsys.readouterr().err
    assert words in shown and shown.count('\n') == 1


@needs_compiler
def test_a_batch_that_does_not_divide_is_one_line():
    run = _run('--topology', 'v4:2x2x1', '--gin.BATCH_SIZE=6')
    assert run.returncode == 2, run.stderr
    assert run.stderr == ('atlas-jax: batch_size 6 (of a micro-batch) does not divide over the 4 chips of v4:2x2x1; choose a multiple of '
                          '4\n')


@needs_compiler
@pytest.mark.slow
def test_a_tiny_step_is_compiled_and_found_again(tmp_path):
    options = ['--topology', 'v4:2x2x1', '--gin.BATCH_SIZE=4', '--gin.N_CONTEXT=1', '--gin.TEXT_TOKENS=128', '--gin.INDEX_ROWS=4000',
               '--gin.MESH_SHAPE=(1,2,2)', '--cache', str(tmp_path / 'cache'), '--json', str(tmp_path / 'plan.json')]
    first, again = _run(*options), _run(*options)
    assert first.returncode == 0 and 'v4:2x2x1, 4 chips, data 1 x fsdp 2 x model 2: fits' in first.stdout, first.stderr
    assert again.stdout == first.stdout and len(list((tmp_path / 'cache').iterdir())) == 1
    figures = json.loads((tmp_path / 'plan.json').read_text())
    assert figures['fits'] and figures['hbm_gib_per_chip'] == pytest.approx(sum(figures['hbm_parts'].values()), rel=1e-6)
    assert figures['flops'] > 1e7 and 0 < figures['mfu_bound'] < 1 and figures['step_seconds_roofline'] > 0
    assert figures['collective_bytes']['all-gather'] > 0
