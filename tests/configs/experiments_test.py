"""The page of experiments says what the gin files and the plans say, and the plans are of the shapes that the files have now."""

import dataclasses
import importlib.util
import pathlib
import sys
import types

import pytest

from atlas_jax.apps.planning import plan as plan_lib
from atlas_jax.apps.planning import workload as workload_lib
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training import refresh
from atlas_jax.training.optimizer import OptimizerConfig
from tests.testing import tiny

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope='module')
def experiments():
    found = importlib.util.spec_from_file_location('experiments', ROOT / 'benchmarks' / 'experiments.py')
    module = sys.modules['experiments'] = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    yield module
    del sys.modules['experiments']


def test_the_page_is_up_to_date(experiments):
    page = experiments.page()
    assert (ROOT / 'docs' / 'experiments.md').read_text(encoding='utf-8') == page, 'run benchmarks/experiments.py'
    assert page.count('| `runs/') >= 27


def test_every_shape_has_an_entry_and_every_entry_a_shape(experiments):
    keys = [key for shape in experiments.shapes() for key in shape.keys.values()]
    plans = experiments.read_plans()
    assert len(keys) == len(set(keys)) and set(plans) == set(keys), 'run benchmarks/experiments.py --plan'
    assert all(shape.runs and 'xxl' in shape.keys for shape in experiments.shapes())


def test_plans_fit_and_are_of_the_batch_of_their_runs(experiments):
    plans = experiments.read_plans()
    compiled = 0
    for shape in experiments.shapes():
        for size, key in shape.keys.items():
            if (values := plans[key]['plan']) is None:
                continue
            compiled += 1
            plan = types.SimpleNamespace(**values)  # made before plans read the schedule: no seconds of it
            assert values.keys() <= {field.name for field in dataclasses.fields(plan_lib.TpuPlan)}
            assert plans[key]['size'] == size and plan.fits and plan.hbm_gib_per_chip <= plan.hbm_limit_gib
            assert plan.kind == ('train' if shape.runs[0].updates else plan.kind)
            # Hours that are shown for a run have its refreshes in them; plans of an earlier program are not shown.
            if experiments.FIELDS <= values.keys():
                assert values.get('refresh_seconds', 0) > 0 or not any(run.refreshes for run in shape.runs)
            if plan.kind == 'train':
                assert f'Batch {plan.batch_size * plan.accumulation_steps},' in shape.title
    assert compiled


def test_chip_hours_are_those_of_updates_and_refreshes(experiments):
    plan = {'step_seconds_expected': 3.0, 'refresh_seconds': 900.0, 'chips': 4}
    run = experiments.Run('runs/x.gin', '', '', updates=1200, refreshes=2.0)
    assert experiments._chip_hours(plan, run) == '6 (2)'
    assert experiments._chip_hours(plan, dataclasses.replace(run, refreshes=0.0)) == '4'
    assert experiments._chip_hours(plan, dataclasses.replace(run, updates=600_000)) == '2,002 (2)'
    found = {run.name: run.refreshes for shape in experiments.shapes() for run in shape.runs}
    assert found['runs/pretrain_mlm.gin'] == 10 and found['runs/nq_full.gin'] == 4 and found['runs/nq_64_shot.gin'] == 0


def test_a_key_is_of_what_is_compiled_and_not_of_how(experiments):
    workload = workload_lib.Workload(tiny.config(), batch_size=8)
    key = experiments.key(workload)
    same = [{'optimizer': OptimizerConfig(learning_rate=0.5, total_steps=7, warmup_steps=3)}, {'mesh_shape': (1, 2, 1)},
            {'batch_size': 4, 'step': spec_lib.StepConfig(accumulation_steps=2)},
            {'distill': spec_lib.DistillConfig(temperature_gold=0.3, temperature_score=0.2)},
            {'refresh': refresh.RefreshConfig(schedule='7')}]
    assert {experiments.key(dataclasses.replace(workload, **changes)) for changes in same} == {key}
    others = [{'batch_size': 16}, {'n_context': 7}, {'query_tokens': 32}, {'index_rows': 9}, {'index_dtype': 'int8'}, {'kind': 'answer'},
              {'inputs': dataclasses.replace(tiny.INPUTS, target_max_tokens=9)}, {'optimizer': OptimizerConfig(optimizer='adafactor')},
              {'distill': spec_lib.DistillConfig(gold_score_mode='loop')}, {'step': spec_lib.StepConfig(remat='full')},
              {'model': dataclasses.replace(tiny.config(), reader=dataclasses.replace(tiny.READER, mlp_dim=37))}]
    assert len({key, *(experiments.key(dataclasses.replace(workload, **changes)) for changes in others)}) == len(others) + 1
