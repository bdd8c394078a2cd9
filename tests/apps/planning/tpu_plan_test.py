"""Plans from a fake compiler: parts add up, the cache, too little memory, and the printed table."""

import dataclasses
import importlib.util
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import errors, partitioning
from atlas_jax.apps.planning import (
    plan_table,
    planned_steps,
    refreshes,
    slices,
    tpu_plan,
)
from atlas_jax.apps.planning import workload as workload_lib
from atlas_jax.apps.planning.plan import GIB
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training import refresh
from atlas_jax.training.optimizer import OptimizerConfig
from tests.apps.planning.plan_table_test import made_up_plan
from tests.testing import tiny

WORKLOAD = workload_lib.Workload(tiny.config(), kind='answer', batch_size=5, n_context=3, index_rows=56)
CHIPS = 4
COMPILED = 'ENTRY %main (x: f32[10]) -> f32[10] {\n  %y = f32[10]{0} all-reduce(%x), to_apply=%add\n}'


class _Lowered:
    """A lowered program whose compilation needs `gib`, or does not fit."""

    def __init__(self, gib: float, limit: float = 30.75):
        self.gib, self.limit, self.compiled = gib, limit, 0

    def as_text(self) -> str:
        return 'not compiled' if not self.compiled else COMPILED

    def compile(self):
        self.compiled += 1
        if self.gib > self.limit:
            raise jax.errors.JaxRuntimeError(f'RESOURCE_EXHAUSTED: Used {self.gib}G of {self.limit}G hbm. Exceeded hbm capacity')
        return self

    def memory_analysis(self):
        return types.SimpleNamespace(argument_size_in_bytes=self.gib * GIB, output_size_in_bytes=0, alias_size_in_bytes=0,
                                     temp_size_in_bytes=0, generated_code_size_in_bytes=0)


@pytest.fixture
def compiler(monkeypatch):
    """A step of one matrix product on this machine's device, with a fake compiler. Returns the list of compiled programs."""
    lowered = []
    mesh = partitioning.make_mesh(devices=jax.devices()[:1])
    weights = jax.ShapeDtypeStruct((7, 11), jnp.float32, sharding=partitioning.replicated(mesh))

    class Step(planned_steps.PlannedStep):
        def trace(self):
            traced = jax.jit(lambda w: w @ w.T).trace(weights)
            lowered.append(_Lowered(compiler.gib))
            return types.SimpleNamespace(jaxpr=traced.jaxpr, lower=lambda step=lowered[-1]: step)

    def compiler():
        return [each for each in lowered if each.compiled]

    compiler.gib = 2.0
    places = types.SimpleNamespace(size=CHIPS, devices=np.array([types.SimpleNamespace(coords=(n % 2, n // 2, 0)) for n in range(CHIPS)]))
    monkeypatch.setattr(planned_steps, 'mesh_of', lambda workload, slice_: (places, 1))
    monkeypatch.setattr(planned_steps, 'steps_of', lambda workload, mesh, hosts: [
        Step(None, (), weights, items=workload.examples_a_step, keys_values_bytes=0.5 * GIB, read_bytes=2.4e12)])
    return compiler


def test_a_plan_adds_up(compiler):
    planned = tpu_plan.plan(WORKLOAD, 'v4:2x2x1')
    assert planned.fits and planned.batch_size == 8 and planned.chips == CHIPS and planned.accumulation_steps == 1  # whole chips
    assert planned.hbm_gib_per_chip == pytest.approx(sum(planned.hbm_parts.values())) == 2
    assert planned.hbm_parts['activations'] == 0.5 and planned.hbm_parts['parameters'] == 7 * 11 * 4 / GIB
    assert planned.flops == planned.flops_at_limit == 2 * 7 * 7 * 11 and planned.collective_bytes['all-reduce'] == 2 * 3 / 4 * 40
    assert planned.step_seconds_roofline == planned.step_seconds_expected == planned.reading_seconds == 2.0
    assert planned.items_per_second == 4.0 and planned.exposed_seconds == planned.link_seconds > planned.collective_seconds > 0


def test_a_plan_is_found_again(compiler, tmp_path):
    first = tpu_plan.plan(WORKLOAD, 'v4:2x2x1', tmp_path)
    assert tpu_plan.plan(WORKLOAD, 'v4:2x2x1', tmp_path) == first and len(compiler()) == 1
    tpu_plan.plan(WORKLOAD, 'v4:2x2x2', tmp_path)
    assert len(compiler()) == 2 and len(list(tmp_path.iterdir())) == 2


def test_what_does_not_fit_says_how_much_it_needs(compiler):
    compiler.gib = 40.5
    planned = tpu_plan.plan(WORKLOAD, 'v4:2x2x1')
    assert not planned.fits and planned.hbm_gib_per_chip == 40.5 and sum(planned.collective_bytes.values()) == 0
    shown = plan_table.lines(planned, WORKLOAD)
    assert 'DOES NOT FIT' in shown[0] and any('fewer questions at a time: batch_size 4' in line for line in shown)
    assert not any('roofline' in line for line in shown)


@pytest.mark.parametrize('text, needed', [('RESOURCE_EXHAUSTED: Used 40.5G of 30.75G hbm', 40.5 * 2**30),
                                          ('RESOURCE_EXHAUSTED: the total (512.0M) exceeds available HBM', 2**29)])
def test_the_compilers_messages(text, needed):
    assert tpu_plan._out_of_memory(ValueError(text)) == needed
    with pytest.raises(ValueError, match='INTERNAL'):
        tpu_plan._out_of_memory(ValueError(text.replace('RESOURCE_EXHAUSTED', 'INTERNAL')))


def test_a_search_before_the_step_is_compiled_too(compiler, monkeypatch):
    step, = planned_steps.steps_of(WORKLOAD, None, 1)
    before = dataclasses.replace(step, items=0.0, read_bytes=1.2e12, beside_bytes=GIB, every_call=True)
    monkeypatch.setattr(planned_steps, 'steps_of', lambda workload, mesh, hosts: [before, step])
    workload = dataclasses.replace(WORKLOAD, search=workload_lib.search_config.SearchConfig(tokens='host'), passage_tokens=(16, 0))
    planned = tpu_plan.plan(workload, 'v4:2x2x1')
    assert len(compiler()) == 2 and planned.hbm_gib_per_chip == 3 and planned.reading_seconds == 3.0  # at 1.2 TB/s
    assert planned.collective_bytes['all-reduce'] == 2 * 2 * 3 / 4 * 40
    assert planned.host_gib['their places in its memory'] * GIB == 56 * 2 * 16
    assert planned.host_gib['token ids on its disk'] * GIB == pytest.approx(56 * 2 * 2 * 16, rel=0.1)
    assert any(line.startswith('on every host          0.00 GiB of token ids') for line in plan_table.lines(planned, workload))


# The slice's own compiler describes it, before anything is compiled.
@pytest.mark.skipif(importlib.util.find_spec('libtpu') is None, reason='libtpu is not installed: pip install "atlas-jax[plan]"')
def test_mistakes_come_before_the_compiler(monkeypatch):
    monkeypatch.setattr(tpu_plan, '_compiled', lambda *_: pytest.fail('compiled'))
    with pytest.raises(errors.ConfigError, match='batch_size 6 does not divide over 4 devices; choose a multiple of 4'):
        tpu_plan.plan(dataclasses.replace(WORKLOAD, kind='train', batch_size=6), 'v4:2x2x1')
    with pytest.raises(errors.ConfigError, match='axis fsdp is 3'):
        tpu_plan.plan(dataclasses.replace(WORKLOAD, mesh_shape=(1, 3, 1)), 'v4:2x2x1')


def test_counts_give_way_to_the_compilers_total():
    counted = {'parameters': 3.0, 'optimizer': 2.0, 'index': 0.5, 'codes': 0.5, 'gradients': 5.0, 'activations': 7.0}
    parts = tpu_plan._parts(counted, 13.0)
    assert (parts['gradients'], parts['activations'], parts['temporaries']) == (5.0, 2.0, 0.0) and sum(parts.values()) == 13.0
    assert tpu_plan._parts(counted, 20.0)['temporaries'] == 2.0


def _refreshing(calls=7, beside=0.0):
    """A run of 10 updates that embeds its index again after the 4th and the 8th, and the block for it."""
    mesh = partitioning.make_mesh(devices=jax.devices()[:1])
    weights = jax.ShapeDtypeStruct((7, 11), jnp.float32, sharding=partitioning.replicated(mesh))
    block = refreshes.Block(planned_steps.PlannedStep(jax.jit(lambda w: w @ w.T), (weights,), weights, beside_bytes=beside), calls)
    workload = dataclasses.replace(WORKLOAD, kind='train', batch_size=8, refresh=refresh.RefreshConfig(schedule='4'),
                                   optimizer=OptimizerConfig(total_steps=10), step=spec_lib.StepConfig(remat='full'))
    return workload, block


def _plan_with_refresh(lowered, beside=0.0):
    workload, block = _refreshing(beside=beside)
    places = types.SimpleNamespace(size=CHIPS, devices=np.array([types.SimpleNamespace(coords=(n % 2, n // 2, 0)) for n in range(CHIPS)]))
    planned = made_up_plan('train', hbm_parts={'parameters': 2.0, 'temporaries': 1.0})
    found = tpu_plan._with_refresh(planned, block, lowered, places, slices.parse('v4:2x2x1'))
    return planned, found, workload


def test_refreshes_count_among_the_chip_hours():
    lowered = _Lowered(2.0)
    planned, found, workload = _plan_with_refresh(lowered)
    chip = slices.parse('v4:2x2x1').generation
    assert lowered.compiled and found.refresh_seconds > 7 * 2 * 7 * 7 * 11 / 4 / chip.flops  # compute alone; its collective is added
    assert (found.hbm_gib_per_chip, found.fits) == (planned.hbm_gib_per_chip, True)  # the update needs more
    shown = plan_table.lines(dataclasses.replace(found, refresh_seconds=900.0), workload)
    # 1000 updates of 3 s and 200 refreshes of 900 s, on 4 chips.
    assert any(line.endswith('203 a 1000 updates, as expected: 3.33 of updates, 200 of embedding the index again, 900 s each time')
               for line in shown)
    assert any(line.endswith('3.33 a 1000 updates, as expected') for line in plan_table.lines(planned, workload))


@pytest.mark.parametrize('gib, beside, total', [(2.0, 5.0, 7.0), (40.5, 0.0, 40.5)])
def test_a_refresh_that_needs_more_memory_than_an_update_shows(gib, beside, total):
    _, found, _ = _plan_with_refresh(_Lowered(gib), beside * GIB)
    assert found.hbm_gib_per_chip == total == sum(found.hbm_parts.values()) and found.fits == (total < 30)
    assert (found.refresh_seconds > 0) == (gib < 30)


def test_plans_of_runs_with_and_without_refreshes_are_kept_apart(compiler, monkeypatch, tmp_path):
    workload, block = _refreshing()
    monkeypatch.setattr(planned_steps, 'model_flops', lambda *_: 0.0)
    monkeypatch.setattr(refreshes, 'block', lambda *_: None)
    assert tpu_plan.plan(workload, 'v4:2x2x1', tmp_path).refresh_seconds == 0
    again = dataclasses.replace(block, step=planned_steps.steps_of(workload, None, 1)[0])
    monkeypatch.setattr(refreshes, 'block', lambda *_: again)
    first = tpu_plan.plan(workload, 'v4:2x2x1', tmp_path)
    assert first.refresh_seconds > 0 and first.step_seconds_expected == tpu_plan.plan(workload, 'v4:2x2x1', tmp_path).step_seconds_expected
    monkeypatch.setattr(refreshes, 'block', lambda *_: dataclasses.replace(again, calls=21))
    assert tpu_plan.plan(workload, 'v4:2x2x1', tmp_path).refresh_seconds == pytest.approx(3 * first.refresh_seconds)
