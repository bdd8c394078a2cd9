"""The printed plan: every kind of step has its lines, and a plan that does not fit its remedies."""

import dataclasses

import pytest

from atlas_jax.apps.planning import plan_table, slices
from atlas_jax.apps.planning import workload as workload_lib
from atlas_jax.apps.planning.plan import TpuPlan
from atlas_jax.steps import spec as spec_lib
from tests.apps.planning.option_search_test import WORKLOAD as TRAINING
from tests.apps.planning.option_search_test import _plan
from tests.testing import tiny

WORKLOAD = workload_lib.Workload(tiny.config(), kind='answer', batch_size=5, n_context=3, index_rows=56)


def made_up_plan(kind, **changes):
    """A plan of a step of 3 s that fits."""
    slice_ = slices.parse('v4:2x2x1')
    planned = TpuPlan(
        kind=kind, topology=slice_.name, chips=4, mesh_shape=(1, 4, 1), accumulation_steps=2, remat='full', batch_size=8, fits=True,
        hbm_gib_per_chip=3.0, hbm_limit_gib=30.75, hbm_parts={'parameters': 3.0}, flops=1e12, flops_at_limit=2e12,
        step_seconds_roofline=2.0, step_seconds_expected=3.0, compute_seconds=2.0, compiler_seconds=1.5, kernel_seconds=0.5,
        collective_seconds=0.5, link_seconds=1.5, network_seconds=1.25, exposed_seconds=1.0, reading_seconds=0.25, memory_seconds=0.75,
        items_per_second=4.0, mfu_bound=0.5, mfu=0.4, collective_bytes={'all-gather': 1e9}, asynchronous_bytes={'all-gather': 5e8},
        compile_seconds=7.0)
    return dataclasses.replace(planned, **changes)


@pytest.mark.parametrize('kind, words', [('train', 'chip-hours'), ('index', 'the whole index'), ('score', 'orders of a question a second'),
                                         ('search', 'reading the index')])
def test_every_kind_has_its_lines(kind, words):
    shown = '\n'.join(plan_table.lines(made_up_plan(kind), dataclasses.replace(WORKLOAD, kind=kind)))
    if kind == 'index':  # 4 a second at the roofline of 2 s, in an expected 3 s, on 4 chips
        assert '0.0233 chip-hours, as expected: 56 passages, 2.67 a second' in shown
    assert words in shown and 'fits' in shown and 'all-gather 1.0, 50% of it asynchronous' in shown
    assert 'expected               3 s' in shown and 'links 1.5, network 1.25, not covered 1)' in shown
    assert ('40% on real tokens' in shown) == (kind == 'train') and 'real lengths take 50%' in shown


def test_a_plan_that_fits_is_a_table():
    workload = dataclasses.replace(TRAINING, mesh_shape=(1, 4, 4))
    text = '\n'.join(plan_table.lines(_plan(workload, 'v4:2x2x4', 18.0), workload))
    assert 'v4:2x2x4, 16 chips, data 1 x fsdp 4 x model 4: fits' in text
    assert 'real lengths take 50%' in text and 'all-gather 1.0' in text and 'to make it fit' not in text


def test_a_plan_that_does_not_fit_says_what_to_change():
    workload = dataclasses.replace(TRAINING, mesh_shape=(1, 8, 1))
    remedies = plan_table.remedies(_plan(workload, 'v4:2x2x2', 36.0), workload)
    assert 'accumulation_steps=4 with batch_size 8' in remedies[0]
    assert [word for word in ('bfloat16', 'encoder_mlp', 'int8', 'adafactor', 'larger slice') if word in ' '.join(remedies)] == [
        'bfloat16', 'encoder_mlp', 'int8', 'adafactor', 'larger slice']
    tight = dataclasses.replace(workload, batch_size=8, index_dtype='int8', step=spec_lib.StepConfig(
        remat='full', compute_dtype='bfloat16', param_dtype='bfloat16'))
    assert 'accumulat' not in ' '.join(plan_table.remedies(_plan(tight, 'v4:2x2x2', 36.0), tight))
    plain = dataclasses.replace(tight, step=dataclasses.replace(tight.step, attention='plain'))
    assert "attention='auto'" in ' '.join(plan_table.remedies(_plan(plain, 'v4:2x2x2', 36.0), plain))
    assert "attention='auto'" not in ' '.join(plan_table.remedies(_plan(tight, 'v4:2x2x2', 36.0), tight))
