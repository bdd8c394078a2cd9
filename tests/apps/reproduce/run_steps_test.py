"""Every run up to what its training and evaluation receive: data is converted, examples chosen, gin read, and tasks read the examples.

Whole runs are in tests/apps/cli/reproduce_test.py.
"""

import contextlib
import io
import json
import pathlib
import re

import pytest

from atlas_jax import errors, train
from atlas_jax.apps.cli import main as cli
from atlas_jax.apps.gin_files import parse as gin_parse
from atlas_jax.apps.reproduce import recipes
from atlas_jax.apps.reproduce import run_steps as plan_lib
from atlas_jax.apps.reproduce.run_steps import Reproduction, ReproductionSettings
from atlas_jax.evaluation import evaluate
from atlas_jax.tasks import task as task_lib
from tests.testing import paper_files, tiny_run


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = paper_files.write(tmp_path_factory.mktemp('downloads'))
    atlas = tiny_run.atlas(dropout_rate=0.0, mesh=None)
    atlas.save(path / 'model')
    paper_files.index(atlas, path)
    return path


@pytest.fixture(autouse=True)
def small(monkeypatch):
    paper_files.make_small(monkeypatch)


def plan_of(folder, out, run, **changes) -> Reproduction:
    recipe = recipes.RECIPES[run]
    names = recipes.YEARS if recipe.kind == 'years' else ('',)
    files = (str(folder / recipe.source),) if recipe.source else ()
    model = {'MODEL_DIR': str(folder / 'model'), 'READER_DIR': None, 'RETRIEVER_DIR': None}
    return Reproduction(
        ReproductionSettings(
            **{'run': run, 'files': files, 'out': out, 'model': model, 'indexes': dict.fromkeys(names, str(folder / 'index')), **changes}))


def received(step) -> dict:
    """The arguments that the gin files and bindings of a step give to train or evaluate."""
    options = cli.parse(step.command)
    gin_parse.parse(options.gin_file, options.gin_bindings)
    return gin_parse.arguments_of(train.train if step.command[0] == 'train' else evaluate.evaluate)


@pytest.mark.parametrize('run', recipes.RECIPES)
def test_what_training_and_evaluation_receive(folder, tmp_path, run):
    plan, asked, trained = plan_of(folder, tmp_path / 'out', run, seed=3, batch_size=2), 0, {}
    plan.check_bindings()
    said = io.StringIO()
    for step in plan.steps[:1] + [step for step in plan.steps[1:] if step.name == 'choice']:
        with contextlib.redirect_stdout(said):
            assert cli.main(step.command) == 0
        assert all(path.exists() for path in step.writes)
    header = gin_parse.find_file(f'runs/{run}.gin').read_text(encoding='utf-8')
    for step in plan.steps:
        if step.command[0] not in ('train', 'evaluate'):
            continue
        arguments = received(step)
        with contextlib.redirect_stdout(said):
            if step.command[0] == 'train':
                found = task_lib.read_examples(arguments['data'].train_file, arguments['model'].task, training=True)
                trained[arguments['run'].run_dir] = arguments
                assert len({example.example_id for example in found}) == {64: 64, 15: 15}.get(arguments['data'].max_examples, len(
                    {example.example_id for example in found}))
                assert arguments['run'].seed == 3 and arguments['run'].batch_size == 2
                # The gin file decides; the steps change no other setting of it.
                steps = re.search(r'^TOTAL_STEPS = (\d+)', header, re.MULTILINE)
                assert arguments['optimizer'].total_steps == int(steps[1])
            else:
                source = trained.get(arguments['model'].model_dir)
                assert (source is None) == (plan.recipe.train == '')
                task = (source or arguments)['model'].task
                found = task_lib.read_examples(arguments['data'].examples_file, task, training=False)
                asked += len({example.example_id for example in found})
                assert pathlib.Path(arguments['data'].results_file).parent == plan.results
        assert found and all(example.answers for example in found)
    # Passages have titles, which not every pre-training reads.
    assert ('not read' not in said.getvalue() or not plan.recipe.source) and asked
    assert bool(trained) == bool(plan.recipe.train) == ('zero_shot' not in run)


def test_training_examples_are_those_of_the_recipe(folder, tmp_path):
    for run, expected in (('fever_15_shot', 15), ('nq_64_shot', 64)):
        plan = plan_of(folder, tmp_path / run, run)
        for step in plan.steps[:2]:
            assert cli.main(step.command) == 0
        rows = [json.loads(line) for line in plan.steps[1].writes[0].read_text(encoding='utf-8').splitlines()]
        assert len(rows) == expected
        if run == 'fever_15_shot':
            assert all(sum(row['label'] == label for row in rows) == 5 for label in ('SUPPORTS', 'REFUTES', 'NOT ENOUGH INFO'))
    listed = plan_of(folder, tmp_path / 'listed', 'nq_64_shot', ids=str(plan.steps[1].writes[0].with_suffix('.ids')))
    for step in listed.steps[:2]:
        assert cli.main(step.command) == 0
    assert listed.steps[1].writes[0].read_bytes() == plan.steps[1].writes[0].read_bytes()


def test_a_moved_encoder_embeds_its_passages_again(folder, tmp_path):
    def names(run, **changes):
        return [step.name for step in plan_of(folder, tmp_path, run, **changes).steps]

    assert names('nq_full') == ['data', 'train', 'index test', 'evaluate test'] and names('kilt_wow') == names('nq_full')
    assert names('nq_64_shot') == ['data', 'choice', 'train', 'evaluate test']
    assert names('nq_64_shot', bindings=('RETRIEVER_TRAINING="joint"',))[3:] == ['index test', 'evaluate test']
    evaluation = plan_of(folder, tmp_path, 'nq_full').steps[-1]
    assert f'--gin.INDEX_DIR="{tmp_path / "index" / "test"}"' in evaluation.command
    with pytest.raises(errors.ConfigError, match='exchanges indexes'):
        names('templama', bindings=('RETRIEVER_TRAINING="joint"',))


def test_size_and_splits(folder, tmp_path):
    def plan(**changes):
        return plan_of(folder, tmp_path, 'nq_full', **changes)

    assert '--gin.TOTAL_STEPS=10000' in plan(size='base').steps[1].command
    assert not [part for part in plan(size='xl').steps[1].command if 'TOTAL_STEPS' in part]
    assert plan().split == 'test' and plan(split='dev').split == 'dev'
    files = tuple(str(folder / 'nq_open' / f'NQ-open.{split}.jsonl') for split in ('train', 'dev'))
    assert plan(files=files).split == 'dev'
    with pytest.raises(errors.ConfigError, match=r'has no dev questions in the files given; give NQ.dev.idx.json, too'):
        plan(files=files, split='dev')


def test_subjects_are_those_of_the_data(folder, tmp_path):
    plan = plan_of(folder, tmp_path, 'mmlu_5_shot')
    assert plan.subjects() == sorted(paper_files.SUBJECTS) and len(plan.steps) == 5
    assert cli.main(plan.steps[0].command) == 0
    (tmp_path / 'data' / 'mmlu' / 'test.anatomy.jsonl').unlink()
    assert [step.name for step in plan.steps] == ['data', 'train virology', 'evaluate virology']


@pytest.mark.parametrize(('run', 'changes', 'said'), [
    ('nq_full', {'ids': 'x.ids'}, '--ids: nq_full trains on all examples'), ('templama', {'indexes': {'': 'index'}}, '--index 2017=DIR'),
    ('nq_full', {'indexes': {'2017': 'index'}}, 'nq_full takes one --index DIR; found 2017'),
    ('nq_full', {'bindings': ('SEED=3',)}, '--gin.SEED=3: this command sets SEED itself; use --seed'),
    ('nq_full', {'bindings': ('STEPS=3',)}, '--gin.STEPS=3: no step of nq_full reads it (runs/nq_full.gin, runs/evaluate.gin)'),
    ('fever_full', {'files': ('missing',)}, 'no such file'), ('few_shot', {}, 'is not an experiment')])
def test_mistakes_are_told(folder, tmp_path, run, changes, said):
    with pytest.raises(errors.UserError) as raised:
        if run in recipes.RECIPES:
            plan_of(folder, tmp_path, run, **changes).check_bindings()
        plan_lib.Reproduction(ReproductionSettings(run, (), tmp_path, {}, {'': 'index'}))
    assert said in str(raised.value)


def test_bindings_go_where_they_are_known(folder, tmp_path):
    bindings = ('N_CONTEXT=2', 'WARMUP_STEPS=1', 'OptimizerConfig.clip=0.5', 'PERPLEXITY=True')
    plan = plan_of(folder, tmp_path, 'nq_64_shot', bindings=bindings)
    plan.check_bindings()
    training, evaluation = plan.steps[2], plan.steps[3]
    assert {'--gin.N_CONTEXT=2', '--gin.WARMUP_STEPS=1', '--gin.OptimizerConfig.clip=0.5'} <= {*training.command}
    assert {'--gin.N_CONTEXT=2', '--gin.PERPLEXITY=True'} <= {*evaluation.command} and '--gin.WARMUP_STEPS=1' not in evaluation.command
    assert received(training)['optimizer'].clip == 0.5 and received(evaluation)['options'].perplexity is True
    assert training.shown.startswith("atlas-jax train --gin_file runs/nq_64_shot.gin '--gin.RUN_DIR=\"")
