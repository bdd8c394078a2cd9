"""`atlas-jax train` and `evaluate`: gin files to runs, on a tiny model."""

import gzip
import json
import os
import signal
import subprocess
import sys

import jax
import pytest

from atlas_jax.apps.cli import main as cli
from atlas_jax.io import lock
from atlas_jax.io.folder import Folder
from tests.testing import bucket, tiny_run


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('runs-command')
    atlas = tiny_run.atlas(dropout_rate=0.0, mesh=None)
    atlas.save(path / 'model')
    tiny_run.index(atlas, path)
    lines = [json.dumps(row) for row in tiny_run.rows(5)]
    (path / 'train.jsonl').write_text('\n'.join(lines))
    (path / 'parts').mkdir()
    (path / 'parts' / 'a.jsonl').write_text('\n'.join(lines[:3]))
    (path / 'parts' / 'b.jsonl.gz').write_bytes(gzip.compress('\n'.join(lines[3:]).encode()))
    return path


def training(folder, run, *more) -> list[str]:
    return ['train', '--gin_file', 'runs/few_shot.gin', f"--gin.RUN_DIR='{run}'", f"--gin.TRAIN_FILE='{folder / 'train.jsonl'}'",
            f"--gin.INDEX_DIR='{folder / 'index'}'", '--gin.READER_DIR=None', '--gin.RETRIEVER_DIR=None', '--gin.INPUTS=None',
            '--gin.TASK=None', f"--gin.MODEL_DIR='{folder / 'model'}'", '--gin.TOTAL_STEPS=1', '--gin.train.RunConfig.batch_size=2', *more]


def test_a_run_and_its_evaluation(folder, tmp_path, capsys):
    assert cli.main(training(folder, tmp_path / 'run', f"--gin.TRAIN_FILE=['{folder}/parts/a.jsonl', '{folder}/parts/b*']")) == 0
    record = json.loads((tmp_path / 'run' / 'record.json').read_text())
    assert record['settings']['train_file'].startswith('5 examples')
    assert 'run: 1 steps, reader_loss' in capsys.readouterr().out
    kept = (tmp_path / 'run' / 'config.gin').read_text()
    assert 'train.TrainData.max_examples = %EXAMPLES' in kept and 'model.ModelSource.model_dir = %MODEL_DIR' in kept
    arguments = ['evaluate', '--gin_file', 'runs/evaluate.gin', f"--gin.MODEL_DIR='{tmp_path / 'run'}'",
                 f"--gin.INDEX_DIR='{folder / 'index'}'", f"--gin.EXAMPLES_FILE='{folder / 'parts'}'", '--gin.BATCH_SIZE=5',
                 f"--gin.RESULTS_FILE='{tmp_path / 'results.jsonl'}'", '--json', str(tmp_path / 'figures.json')]
    assert cli.main(arguments) == 0, 'trained on the query side, so the index stays valid'
    figures = json.loads((tmp_path / 'figures.json').read_text())
    assert figures['questions'] == 5 and 0 <= figures['exact_match'] <= 1 and 'exact_match' in capsys.readouterr().out
    assert len((tmp_path / 'results.jsonl').read_text().splitlines()) == 5


def test_an_index_of_another_model_is_refused_with_a_way_out_that_both_commands_have(folder, tmp_path, capsys):
    other = tiny_run.atlas(dropout_rate=0.0, mesh=None)
    # Other weights and not another setting: the programs are those of the other tests.
    other.params = other.params | {'retriever': jax.tree.map(lambda leaf: 1.01 * leaf, other.params['retriever'])}
    other.save(tmp_path / 'other')
    evaluation = ['evaluate', '--gin_file', 'runs/evaluate.gin', f"--gin.MODEL_DIR='{tmp_path / 'other'}'", '--gin.BATCH_SIZE=5',
                  f"--gin.INDEX_DIR='{folder / 'index'}'", f"--gin.EXAMPLES_FILE='{folder / 'train.jsonl'}'"]
    for arguments in (evaluation, training(folder, tmp_path / 'run', f"--gin.MODEL_DIR='{tmp_path / 'other'}'")):
        assert cli.main(arguments) == 2
        assert 'differs in weights (index ' in (message := capsys.readouterr().err) and '--force' in message
        assert cli.main([*arguments, '--force']) == 0


@pytest.mark.parametrize(('change', 'message'), [
    ('--gin.N_CONTEXT=0', 'training needs an index and n_context >= 1, or neither'),
    ("--gin.train.RunConfig.run_dir='s3://bucket/run'", 'give a folder or gs://bucket/folder'),
    ('--gin.train.RunConfig.batch_size=0', 'RunConfig.batch_size is 0; it must be at least 1'),
    ('--gin.train.RunConfig.evaluate_every_steps=2', 'needs both eval_file and RunConfig.evaluate_every_steps'),
    ("--gin.train.RunConfig.best_by='recall'", 'RunConfig.best_by is "recall"; give an eval_file, and an index_dir to retrieve from'),
    ("--gin.train.RunConfig.best_by='f1'", 'RunConfig.best_by is "f1"; choose one of score, recall')])
def test_mistakes_get_one_line_before_anything_is_loaded(folder, tmp_path, capsys, change, message):
    assert cli.main(training(folder, tmp_path / 'run', change)) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count('\n') == 1


def test_a_run_in_a_bucket(folder, capsys, monkeypatch):
    """Trained, gone on with after a kill, answered from, verified and converted, all by its gs:// path."""
    run = Folder('gs://some-bucket/runs/x')
    with bucket.serving(monkeypatch):
        Folder('gs://some-bucket').write('train.jsonl', '\n'.join(json.dumps(row) for row in tiny_run.rows(5)).encode())
        arguments = training(folder, run, '--gin.OptimizerConfig.schedule="fixed"', "--gin.TRAIN_FILE='gs://some-bucket/train.jsonl'")
        assert cli.main(arguments) == 0
        first = run.read('metrics.jsonl')
        assert f'{run}: 1 steps, reader_loss' in capsys.readouterr().out and first.count(b'\n') == 1 and run.exists('config.gin')
        # A killed run leaves its lease, rows beyond its checkpoint, and the beginning of a checkpoint.
        monkeypatch.setattr(lock, 'LEASE_SECONDS', 1)
        run.write_json(lock.FILE, {'writer': 'process 7 elsewhere', 'until': 1e12})
        run.write('metrics.jsonl', first + first.replace(b'"step": 1', b'"step": 2') + b'{"step": 3')
        run.write('checkpoints/2/params/d/half', b'x')
        assert cli.main([*arguments, '--gin.TOTAL_STEPS=2']) == 0
        assert 'process 7 elsewhere has not ended' in (shown := capsys.readouterr().out) and 'going on from step 1 of this run' in shown
        rows = run.read('metrics.jsonl').splitlines(keepends=True)
        assert rows[0] == first and [json.loads(row)['step'] for row in rows] == [1, 2]
        assert set(run.children()) == {'checkpoints', 'checksums.json', 'config.gin', 'metrics.jsonl', 'model.json', 'record.json',
                                       'report.html', 'tensorboard', 'tokenizers'}
        assert cli.main(['answer', 'what is thing 3 ?', '--model', str(run), '--index', str(folder / 'index')]) == 0
        assert cli.main(['verify', 'gs://some-bucket']) == 0
        assert capsys.readouterr().out.endswith(f'{run}: run, every file is as it was written\n')
        assert cli.main(['convert', str(run), '--to', 'hf', '--out', 'gs://some-bucket/hf']) == 2
        assert 'a conversion is written to a disk' in capsys.readouterr().err
        name = 'tokenizers/reader/spiece.model'
        run.write(name, run.read(name)[:-1])
        for command in (['verify', 'gs://some-bucket'], ['answer', 'what?', '--model', str(run), '--index', str(folder / 'index')]):
            assert cli.main(command) == 2
            printed = capsys.readouterr()
            assert f'{run}/{name}: damaged' in printed.out + printed.err and printed.err.count('\n') == 1


def test_a_run_goes_on_with_its_own_settings_alone(folder, tmp_path, capsys):
    """As a user who edits a command: other data, seed, batch size or optimizer, then the same with --accept_changes."""
    assert cli.main(training(folder, tmp_path / 'run')) == 0
    kept = (tmp_path / 'run' / 'config.gin').read_text()
    (tmp_path / 'shorter.jsonl').write_text('\n'.join(json.dumps(row) for row in tiny_run.rows(4)))
    changes = [f"--gin.TRAIN_FILE='{tmp_path / 'shorter.jsonl'}'", '--gin.train.RunConfig.seed=5', '--gin.train.RunConfig.batch_size=3',
               '--gin.OptimizerConfig.learning_rate=0.5', '--gin.TOTAL_STEPS=2']
    capsys.readouterr()
    assert cli.main(training(folder, tmp_path / 'run', *changes)) == 2
    printed = capsys.readouterr().err
    assert printed.count('\n') == 1 and '--accept_changes' in printed
    for part in ('train_file was 5 examples', 'now 4 examples', 'seed was 0, now 5', 'batch_size was 2, now 3',
                 'OptimizerConfig.learning_rate was', 'OptimizerConfig.total_steps was 1, now 2'):
        assert part in printed, part
    assert (tmp_path / 'run' / 'config.gin').read_text() == kept
    assert cli.main(training(folder, tmp_path / 'run', "--gin.OptimizerConfig.optimizer='adafactor'", '--accept_changes')) == 2
    printed = capsys.readouterr().err
    assert 'OptimizerConfig.optimizer was adamw, now adafactor: a run cannot go on with this' in printed and printed.count('\n') == 1
    # In the middle of an epoch of other data.
    assert cli.main(training(folder, tmp_path / 'run', *changes, '--accept_changes')) == 0
    assert 'seed was 0, now 5, from step 1 on' in capsys.readouterr().out
    assert 'train.RunConfig.seed = 5' in (tmp_path / 'run' / 'config.gin').read_text()
    assert cli.main(training(folder, tmp_path / 'run', *changes, '--gin.train.RunConfig.keep_checkpoints=1')) == 0
    (tmp_path / 'run' / 'metrics.jsonl').unlink()
    assert cli.main(training(folder, tmp_path / 'run', *changes)) == 0 and 'nothing left to train' in capsys.readouterr().out


def test_a_signal_before_the_first_step_ends_the_run_as_a_preemption(tmp_path):
    """While modules are imported and models loaded, which takes minutes for large ones."""
    (tmp_path / 'slow.py').write_text('import time\nprint("importing", flush=True)\ntime.sleep(600)\n')
    (tmp_path / 'train.jsonl').write_text(json.dumps(tiny_run.rows(1)[0]))
    (tmp_path / 'run.gin').write_text('from __gin__ import dynamic_registration\nimport slow\n')
    environment = os.environ | {'PYTHONPATH': f'{os.environ.get("PYTHONPATH", "")}:{tmp_path}', 'ATLAS_JAX_KEEP_ALLOCATOR': '1'}
    started = subprocess.Popen([sys.executable, '-m', 'atlas_jax', 'train', '--gin_file', f'{tmp_path}/run.gin', '--gin_import', 'slow'],
                               env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert started.stdout.readline() == 'importing\n'
        started.send_signal(signal.SIGTERM)
        _, printed = started.communicate(timeout=120)
    finally:
        started.kill()
    assert started.returncode == 75
    assert printed == 'atlas-jax: asked to stop while no step was under way; the same command goes on\n'


def test_the_handler_of_before_comes_back(tmp_path, capsys):
    before = signal.getsignal(signal.SIGTERM)
    assert cli.main(training(tmp_path, tmp_path / 'run')) == 2 and 'no such file or folder' in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before
