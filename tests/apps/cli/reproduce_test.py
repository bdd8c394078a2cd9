"""`atlas-jax reproduce`: whole runs on a tiny model and miniature published files."""

import dataclasses
import json

import pytest

from atlas_jax.apps.cli import main as cli
from atlas_jax.apps.cli import reproduce as cli_reproduce
from atlas_jax.apps.reproduce import recipes
from tests.testing import paper_files, tiny_run

# Trained and evaluated; evaluated alone. The others compile steps of other shapes.
KINDS = ('nq_64_shot', 'nq_zero_shot')
OTHERS = [run for run in recipes.RECIPES if run not in KINDS]
# The paper's steps in the sizes of other tests, so that their compiled programs serve here too.
SHARED = ['--gin.INPUTS=None', '--gin.N_CONTEXT=2']
TRAINING = ['--gin.TOTAL_STEPS=1', '--gin.RETRIEVER_N_CONTEXT=5', '--gin.WARMUP_STEPS=4', '--gin.LEARNING_RATE=5e-4',
            '--gin.RETRIEVER_LEARNING_RATE=5e-5', '--gin.TEMPERATURE=0.1', '--gin.OptimizerConfig.weight_decay=0.0',
            '--gin.RunConfig.dropout_rate=0.0', '--gin.StepConfig.compute_dtype="float32"', '--gin.REMAT="auto"']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = paper_files.write(tmp_path_factory.mktemp('reproduce'))
    atlas = tiny_run.atlas(dropout_rate=0.0, mesh=None)
    # Wide enough for the options of a multiple choice.
    wide = dataclasses.replace(atlas.config.inputs, text_max_tokens=60, retriever_max_tokens=60)
    for name, inputs in (('wide', wide), ('.', atlas.config.inputs)):
        atlas.config = dataclasses.replace(atlas.config, inputs=inputs)
        atlas.save(path / name / 'model')
        paper_files.index(atlas, path / name)
    return path


@pytest.fixture(autouse=True)
def small(monkeypatch):
    paper_files.make_small(monkeypatch)


def command(folder, out, run, *more) -> list[str]:
    recipe = recipes.RECIPES[run]
    place = folder / 'wide' if recipe.source == 'mmlu' else folder
    indexes = [f'{year}={place / "index"}' for year in recipes.YEARS] if recipe.kind == 'years' else [f'{place / "index"}']
    return ['reproduce', run, *(['--from', str(folder / recipe.source)] if recipe.source else []), '--model', str(place / 'model'),
            *(part for index in indexes for part in ('--index', index)), '--out', str(out), '--batch_size', '2', *SHARED,
            *(TRAINING if recipe.train else []), *more]


def check_report(out, run, questions=None):
    report = json.loads((out / 'report.json').read_text(encoding='utf-8'))
    assert report['run'] == run and report['figures'] and (out / 'report.html').is_file()
    for line in report['figures']:
        assert line['ours'] is not None and (line['ours'] >= 0) and line['questions'] > 0
        assert questions is None or line['questions'] == questions


def test_a_run_that_is_stopped_and_goes_on(folder, tmp_path, capsys, monkeypatch):
    arguments, out = command(folder, tmp_path / 'out', 'nq_64_shot', '--size', 'xxl', '--questions', '3'), tmp_path / 'out'
    assert cli.main([*arguments, '--dry-run']) == 0
    printed = capsys.readouterr().out
    assert printed.count('to do   atlas-jax ') == 4 and not out.exists()
    ran, run = [], cli_reproduce._run

    def until_evaluation(options, step):
        ran.append(step[0])
        if step[0] == 'evaluate' and len(ran) == 4:
            raise KeyboardInterrupt
        run(options, step)

    monkeypatch.setattr(cli_reproduce, '_run', until_evaluation)
    assert cli.main(arguments) == 130 and ran == ['data', 'data', 'train', 'evaluate']
    capsys.readouterr()
    assert cli.main([*arguments, '--dry-run']) == 0
    assert [line[:5] for line in capsys.readouterr().out.splitlines()] == ['done ', 'done ', 'done ', 'to do']
    assert cli.main(arguments) == 0 and ran[4:] == ['evaluate']
    printed = capsys.readouterr().out
    assert '[3/4] train: done before' in printed and 'exact_match  xxl 45.1  ' in printed
    check_report(out, 'nq_64_shot', 3)
    record = json.loads((out / 'run' / 'record.json').read_text(encoding='utf-8'))
    assert record['settings']['train_file'].startswith('64 examples')
    assert cli.main([*arguments, '--seed', '1']) == 2
    assert 'begun with other settings: seed was 0, now 1' in capsys.readouterr().err


def test_a_run_without_training(folder, tmp_path, capsys):
    assert cli.main(command(folder, tmp_path / 'out', 'nq_zero_shot', '--questions', '3')) == 0
    check_report(tmp_path / 'out', 'nq_zero_shot', 3)
    assert not (tmp_path / 'out' / 'run').exists() and 'exact_match' in capsys.readouterr().out


@pytest.mark.exhaustive  # 150 CPU seconds; the two kinds of run are tested above
@pytest.mark.parametrize('run', OTHERS)
def test_every_other_run(folder, tmp_path, run):
    # Steps of one size need a rate that Adam takes; the losses of the ablations are the gin files'.
    assert cli.main(command(folder, tmp_path / 'out', run)) == 0
    check_report(tmp_path / 'out', run)


@pytest.mark.parametrize(('change', 'said'), [
    (['--index', 'elsewhere'], 'elsewhere'), (['--model', 'nowhere'], 'nowhere'), (['--ids', 'none.ids'], 'none.ids: no such file'),
    (['--gin.NCONTEXT=2'], 'no step of nq_64_shot reads it'), (['--gin.N_CONTEXT="two'], '--gin.N_CONTEXT="two'),
    (['--gin.N_CONTEXT="two"'], 'must be'),
    (['--from', 'nothing.jsonl'], 'nothing.jsonl: no such file')])
def test_mistakes_are_told_before_anything_is_done(folder, tmp_path, capsys, change, said):
    arguments = command(folder, tmp_path / 'out', 'nq_64_shot')
    for name, value in zip(change[::2], change[1::2], strict=False):
        arguments[arguments.index(name) + 1 if name in arguments else slice(len(arguments), None)] = value if name in arguments else [
            name, value]
    assert cli.main(arguments if len(change) > 1 else [*arguments, *change]) == 2
    printed = capsys.readouterr().err
    assert said in printed and printed.count('\n') == 1 and not (tmp_path / 'out').exists()


def test_the_wrong_release_is_told(folder, tmp_path, capsys):
    (tmp_path / 'NQ-open.train.jsonl').write_text('{"query": "X is _X_.", "answer": [], "date": "2017"}\n', encoding='utf-8')
    (tmp_path / 'NQ-open.dev.jsonl').write_text('{"question": "q", "answer": ["a"]}\n', encoding='utf-8')
    arguments = command(folder, tmp_path / 'out', 'nq_64_shot')
    arguments[arguments.index('--from') + 1] = str(tmp_path)
    assert cli.main(arguments) == 2
    assert 'it seems to be TempLAMA' in capsys.readouterr().err and not (tmp_path / 'out').exists()


def test_what_is_no_experiment(capsys, tmp_path):
    assert cli.main(['reproduce', 'plan', '--model', 'm', '--index', 'i', '--out', str(tmp_path / 'out')]) == 2
    assert 'run `atlas-jax plan --gin_file runs/plan.gin`' in capsys.readouterr().err
