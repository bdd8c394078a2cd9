"""`atlas-jax train` and `evaluate`: gin files to runs, on a tiny model."""

import dataclasses
import json

import pytest

from atlas_jax.cli import main as cli
from tests.testing import tiny_run


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('runs-command')
    atlas = tiny_run.atlas(dropout_rate=0.0, mesh=None)
    atlas.save(path / 'model')
    tiny_run.index(atlas, path)
    (path / 'train.jsonl').write_text('\n'.join(json.dumps(row) for row in tiny_run.rows(5)))
    return path


def training(folder, run, *more) -> list[str]:
    return ['train', '--gin_file', 'runs/few_shot.gin', f"--gin.RUN_DIR='{run}'", f"--gin.TRAIN_FILE='{folder / 'train.jsonl'}'",
            f"--gin.INDEX_DIR='{folder / 'index'}'", '--gin.READER_DIR=None', '--gin.RETRIEVER_DIR=None', '--gin.INPUTS=None',
            '--gin.TASK=None', f"--gin.MODEL_DIR='{folder / 'model'}'", '--gin.TOTAL_STEPS=1', '--gin.train.RunConfig.batch_size=2', *more]


def test_a_run_and_its_evaluation(folder, tmp_path, capsys):
    assert cli.main(training(folder, tmp_path / 'run')) == 0
    assert 'run: 1 steps, reader_loss' in capsys.readouterr().out
    kept = (tmp_path / 'run' / 'config.gin').read_text()
    assert 'train.TrainData.max_examples = %EXAMPLES' in kept and 'model.ModelSource.model_dir = %MODEL_DIR' in kept
    arguments = ['evaluate', '--gin_file', 'runs/evaluate.gin', f"--gin.MODEL_DIR='{tmp_path / 'run'}'",
                 f"--gin.INDEX_DIR='{folder / 'index'}'", f"--gin.EXAMPLES_FILE='{folder / 'train.jsonl'}'", '--gin.BATCH_SIZE=5',
                 f"--gin.RESULTS_FILE='{tmp_path / 'results.jsonl'}'", '--json', str(tmp_path / 'figures.json')]
    assert cli.main(arguments) == 0, 'trained on the query side, so the index stays valid'
    figures = json.loads((tmp_path / 'figures.json').read_text())
    assert figures['questions'] == 5 and 0 <= figures['exact_match'] <= 1 and 'exact_match' in capsys.readouterr().out
    assert len((tmp_path / 'results.jsonl').read_text().splitlines()) == 5


def test_an_index_of_another_model_is_refused_with_a_way_out_that_both_commands_have(folder, tmp_path, capsys):
    other = tiny_run.atlas(dropout_rate=0.0, mesh=None)
    other.config = dataclasses.replace(other.config, retriever=dataclasses.replace(other.config.retriever, pooling='sqrt'))
    other.save(tmp_path / 'other')
    evaluation = ['evaluate', '--gin_file', 'runs/evaluate.gin', f"--gin.MODEL_DIR='{tmp_path / 'other'}'", '--gin.BATCH_SIZE=5',
                  f"--gin.INDEX_DIR='{folder / 'index'}'", f"--gin.EXAMPLES_FILE='{folder / 'train.jsonl'}'"]
    for arguments in (evaluation, training(folder, tmp_path / 'run', f"--gin.MODEL_DIR='{tmp_path / 'other'}'")):
        assert cli.main(arguments) == 2
        assert 'differs in pooling (index average, this model sqrt)' in (message := capsys.readouterr().err) and '--force' in message
        assert cli.main([*arguments, '--force']) == 0


@pytest.mark.parametrize(('change', 'message'), [
    ('--gin.N_CONTEXT=0', 'training needs an index and n_context >= 1, or neither'),
    ("--gin.train.RunConfig.run_dir='gs://bucket/run'", 'run folders lie on a disk'),
    ('--gin.train.RunConfig.batch_size=0', 'RunConfig.batch_size is 0; it must be at least 1'),
    ('--gin.train.RunConfig.evaluate_every_steps=2', 'needs both eval_file and RunConfig.evaluate_every_steps')])
def test_mistakes_get_one_line_before_anything_is_loaded(folder, tmp_path, capsys, change, message):
    assert cli.main(training(folder, tmp_path / 'run', change)) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count('\n') == 1
