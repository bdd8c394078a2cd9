"""`atlas-jax plan`: mistakes are one line before anything is compiled; tiny steps are compiled for a few chips."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import types

import pytest

from atlas_jax import errors
from atlas_jax.answering.api import PassageStore
from atlas_jax.apps.cli import main as cli
from atlas_jax.apps.cli import plan as cli_plan
from atlas_jax.apps.planning import slices
from atlas_jax.corpus import documents as documents_lib
from atlas_jax.runtime import line_process
from tests.testing import word_tokenizers

needs_compiler = pytest.mark.skipif(importlib.util.find_spec('libtpu') is None, reason='libtpu, the TPU compiler, is not installed')
FILES = ['plan', '--gin_file', 'models/tiny.gin', '--gin_file', 'runs/plan.gin']


@pytest.fixture(scope='module')
def planner():
    """Runs `atlas-jax` commands in one process for all of this module; what only a process of its own shows goes through `_run`."""
    root = str(pathlib.Path(__file__).parents[3])
    # All that either kind of plan sets before jax starts, so that tests may come in any order.
    environment = os.environ | slices.ENVIRONMENT | {
        'PYTHONPATH': os.pathsep.join([root, os.environ.get('PYTHONPATH', '')]),
        'XLA_FLAGS': '--xla_force_host_platform_device_count=16'}
    with line_process.Worker('tests.apps.cli.plan_worker', environment) as worker:
        yield lambda *arguments: types.SimpleNamespace(**worker.ask('run', arguments=arguments))


def _run(*arguments):
    environment = os.environ | {'ATLAS_JAX_KEEP_ALLOCATOR': '1'}
    return subprocess.run([sys.executable, '-m', 'atlas_jax', *FILES, *arguments], capture_output=True, text=True, env=environment,
                          timeout=900, check=False)


@pytest.mark.parametrize('arguments, words', [(['--topology', 'v9:2x2x2'], 'topology "v9:2x2x2" is unknown; write a generation'),
                                              (['--topology', 'v4:2x3x1'], 'side B is 3, not a multiple of the 2 chips'),
                                              (['--topology', 'v4:2x2x1', '--json', 'nowhere/plan.json'], 'there is no folder'),
                                              (['--topology', 'h100:3'], '1, 2, 4 or a multiple of 8, such as h100:8'),
                                              (['--topology', 'h100:8', '--search'], 'which ranks no meshes; leave --search out'),
                                              ([], 'give a slice, such as --topology v4:4x4x4, or --search')])
def test_unknown_slices_are_one_line(arguments, words, capsys):
    assert cli.main([*FILES, *arguments]) == 2
    shown = capsys.readouterr().err
    assert words in shown and shown.count('\n') == 1


@needs_compiler
@pytest.mark.parametrize('arguments, words', [
    (['--gin.MESH_SHAPE=(1, 3, 1)'], 'axis fsdp is 3, which does not divide the 4 chips'),
    (['--topology', '2xv4:2x2x1', '--gin.BATCH_SIZE=8', '--gin.MESH_SHAPE=(1, 8, 1)'], 'axis data is 1, not a multiple of the 2 slices'),
    (['--gin.MESH_SHAPE=(4, 1)'], 'mesh_shape must be tuple[int, int, int] | None, got (4, 1)'),
    (['--gin.MESH_SHAPE=(1, 8, 1)'], 'axis fsdp is 8, which does not divide the 4 chips that are left of v4:2x2x1'),
    (['--gin.BATCHSIZE=4'], 'did you mean "BATCH_SIZE"?'),
    (['--gin.Workload.n_contxt=4'], 'did you mean "n_context"?'),
    (['--gin_file', 'runs/evaluat.gin'], 'did you mean "runs/evaluate.gin"?'),
    (['--store', 'nowhere'], 'nowhere: no such folder; build a passage store'),
    (['--step', 'index', '--search'], 'there is no mesh to search for'),
])
def test_mistakes_are_one_line(planner, arguments, words):
    run = planner(*FILES, '--topology', 'v4:2x2x1', *arguments)
    assert run.returncode == 2 and words in run.stderr and run.stderr.count('\n') == 1, run.stderr


@needs_compiler
@pytest.mark.parametrize('arguments, words', [(['--topology', 'v4:2x2x1', '--search'], '--search ranks meshes of joint training'),
                                              (['--topology', 'v4:2x2x1', '--gin.QUEUE_SIZE=300'], 'queue_size 300 is not a multiple of'),
                                              (['--topology', 'h100:8'], 'a contrastive step is planned for TPUs')])
def test_plans_of_a_retriever_alone_are_refused_in_one_line(planner, arguments, words):
    run = planner('plan', '--gin_file', 'models/tiny.gin', '--gin_file', 'runs/contrastive.gin', *arguments)
    assert run.returncode == 2 and words in run.stderr and run.stderr.count('\n') == 1, run.stderr


@needs_compiler
def test_nothing_else_is_printed_by_the_command():
    run = _run('--topology', 'v4:2x2x1', '--gin.BATCH_SIZE=6')
    assert run.returncode == 2 and 'batch_size 6 does not divide over 4 devices; choose a multiple of 4' in run.stderr, run.stderr
    assert run.stderr.count('\n') == 1 and run.stdout == ''  # libraries are silent too


@needs_compiler
def test_a_missing_model_is_named(planner):
    run = planner('plan', '--gin_file', 'runs/plan.gin', '--topology', 'v4:2x2x1')
    assert run.returncode == 2 and 'runs/plan.gin' in run.stderr and 'macro %MODEL is not set' in run.stderr


@pytest.mark.parametrize('file, kind', [('plan', 'train'), ('nq_full', 'train'), ('nq_zero_shot', 'answer'), ('mmlu_zero_shot', 'score'),
                                        ('build_index', 'index'), ('contrastive', 'contrastive')])
def test_the_step_is_that_of_the_command(file, kind):
    options = cli.parse(['plan', '--gin_file', 'models/tiny.gin', '--gin_file', f'runs/{file}.gin', '--topology', 'v4:2x2x1'])
    assert cli_plan.workload_of(options).kind == kind


@pytest.mark.parametrize('file, step', [('nq_zero_shot', 'train'), ('build_index', 'answer')])
def test_a_step_that_the_gin_file_does_not_describe_is_refused(file, step):
    options = ['plan', '--gin_file', 'models/tiny.gin', '--gin_file', f'runs/{file}.gin', '--topology', 'v4:2x2x1', '--step', step]
    with pytest.raises(errors.ConfigError, match=f'--step {step}: the gin files describe no such step'):
        cli_plan.workload_of(cli.parse(options))


def test_a_store_says_how_many_passages_and_how_long(tmp_path):
    documents = [documents_lib.Document(f'd{i}', f'thing {i}', '', 'The thing is red . ' * (1 + i % 3)) for i in range(11)]
    store = PassageStore.build(documents, tmp_path / 'store', progress=False)
    store.tokenize(word_tokenizers.t5(), word_tokenizers.bert(), progress=False)
    options = ['plan', '--gin_file', 'models/tiny.gin', '--gin_file', 'runs/plan.gin', '--store', str(tmp_path / 'store')]
    workload = cli_plan.workload_of(cli.parse(options))
    assert workload.index_rows == 11 and workload.table_tokens == 128
    assert list(workload.passage_lengths[0]) == sorted(store.reader_lengths) and len(set(workload.passage_lengths[0])) > 1
    chosen = cli_plan.workload_of(cli.parse([*options, '--index_rows', '40', '--index_dtype', 'int8', '--step', 'answer']))
    assert (chosen.index_rows, chosen.index_dtype, chosen.kind) == (40, 'int8', 'answer')


@pytest.mark.slow  # a process with eight devices, which traces the train step four times
def test_gpus_are_planned_by_formula_without_a_compiler(planner, tmp_path):
    options = ['--topology', 'a100-40gb:16', '--gin.BATCH_SIZE=16', '--gin.N_CONTEXT=1', '--gin.TEXT_TOKENS=128', '--gin.INDEX_ROWS=4000',
               '--gin.MESH_SHAPE=(1,2,8)', '--json', str(tmp_path / 'plan.json')]
    run = _run(*options)
    assert run.returncode == 0 and 'a100-40gb:16, 16 GPUs, data 1 x fsdp 2 x model 8: fits, by formula' in run.stdout, run.stderr
    assert 'nothing was compiled and nothing has run' in run.stdout and run.stdout.count('not counted') == 2
    figures = json.loads((tmp_path / 'plan.json').read_text())
    assert figures['by'] == 'formula' and figures['attention'] == 'cuDNN' and figures['hbm_limit_gib'] == pytest.approx(40e9 / 2**30)
    assert figures['hbm_gib_per_chip'] == pytest.approx(sum(figures['hbm_parts'].values())) and figures['moved_bytes'] > 0
    refused = planner(*FILES, *options, '--gin.BATCH_SIZE=6')
    assert refused.returncode == 2 and 'batch_size 6 does not divide over 16 devices' in refused.stderr and refused.stderr.count('\n') == 1


@needs_compiler
@pytest.mark.slow  # each step goes through the TPU compiler, as `plan` does for its user
@pytest.mark.parametrize('step, line', [('answer', 'questions a second'), ('score', 'orders of a question a second'),
                                        ('search', 'reading the index'), ('index', 'the whole index')])
def test_other_steps_are_compiled(planner, step, line, tmp_path):
    run = planner(*FILES, '--step', step, '--topology', 'v4:2x2x2', '--gin.BATCH_SIZE=3', '--gin.N_CONTEXT=1', '--gin.TEXT_TOKENS=256',
                  '--gin.INDEX_ROWS=4000', '--gin.PASSAGE_TOKENS=(40, 9)', '--cache', str(tmp_path / 'cache'),
                  '--json', str(tmp_path / 'plan.json'))
    assert run.returncode == 0 and 'v4:2x2x2, 8 chips' in run.stdout and line in run.stdout, run.stderr
    figures = json.loads((tmp_path / 'plan.json').read_text())
    assert figures['fits'] and figures['kind'] == step and figures['items_per_second'] > 0
    assert figures['hbm_parts']['optimizer'] == figures['hbm_parts']['gradients'] == 0
    # A search reads queries alone, which are at their limit always.
    assert figures['flops'] < figures['flops_at_limit'] or (step == 'search' and figures['flops'] == figures['flops_at_limit'])
    # Every host embeds an index by itself; answers come in whole chips.
    assert (sum(figures['collective_bytes'].values()) == 0) == (step == 'index') and (step == 'index' or figures['batch_size'] == 8)


@needs_compiler
@pytest.mark.slow  # the TPU compiler makes the transfers between slices
def test_several_slices_are_compiled(planner, tmp_path):
    run = planner(*FILES, '--step', 'search', '--topology', '2xv4:2x2x1', '--gin.BATCH_SIZE=8', '--gin.N_CONTEXT=3',
                  '--gin.INDEX_ROWS=4000', '--cache', str(tmp_path / 'cache'), '--json', str(tmp_path / 'plan.json'))
    assert run.returncode == 0 and '2xv4:2x2x1, 8 chips, data 2 x fsdp 4 x model 1: fits' in run.stdout, run.stderr
    # Candidates of a search are few: every chip of the other slice gets 8 queries' scores and rows.
    assert 0 < json.loads((tmp_path / 'plan.json').read_text())['network_seconds'] < 1e-5 and ', network ' in run.stdout


@needs_compiler
@pytest.mark.slow  # the TPU compiler: only a second process shows that the first has kept what it compiled
def test_a_tiny_step_is_compiled_and_found_again(planner, tmp_path):
    options = ['--topology', 'v4:2x2x1', '--gin.BATCH_SIZE=4', '--gin.N_CONTEXT=1', '--gin.TEXT_TOKENS=128', '--gin.INDEX_ROWS=4000',
               '--gin.MESH_SHAPE=(1,2,2)', '--cache', str(tmp_path / 'cache'), '--json', str(tmp_path / 'plan.json')]
    first, again = planner(*FILES, *options), _run(*options)
    assert first.returncode == 0 and 'v4:2x2x1, 4 chips, data 1 x fsdp 2 x model 2: fits' in first.stdout, first.stderr
    assert again.stdout == first.stdout and len(list((tmp_path / 'cache').iterdir())) == 1
    figures = json.loads((tmp_path / 'plan.json').read_text())
    assert figures['fits'] and figures['hbm_gib_per_chip'] == pytest.approx(sum(figures['hbm_parts'].values()), rel=1e-6)
    assert figures['flops'] > 1e7 and 0 < figures['mfu'] <= figures['mfu_bound'] < 1
    assert 0 < figures['step_seconds_roofline'] <= figures['step_seconds_expected']
    assert figures['collective_bytes']['all-gather'] > 0
