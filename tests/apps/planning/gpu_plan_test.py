"""Plans for GPUs: counts add up, seconds equal those computed by hand, and the table says that it is a formula."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from atlas_jax import errors
from atlas_jax.apps.planning import gpu_plan, gpus, plan_table, planned_steps
from atlas_jax.apps.planning import workload as workload_lib
from atlas_jax.steps import spec as spec_lib
from tests.testing import tiny

GIB = 2**30
WORKLOAD = workload_lib.Workload(tiny.config(), batch_size=5, n_context=3, index_rows=56, passage_tokens=(11, 3),
                                 step=spec_lib.StepConfig(remat='full', compute_dtype='bfloat16'),
                                 distill=spec_lib.DistillConfig(retriever_n_context=3))


@pytest.fixture(scope='module')
def planned():
    return gpu_plan.plan(WORKLOAD, 'h100:1')


def test_a_plan_adds_up(planned):
    parts = planned.hbm_parts
    assert planned.hbm_gib_per_chip == pytest.approx(sum(parts.values())) and planned.fits and planned.by == 'formula'
    # float32 weights and their gradients, and two moments of each
    assert parts['parameters'] == parts['gradients'] and parts['optimizer'] == pytest.approx(2 * parts['parameters'], rel=1e-3)
    assert min(parts['activations'], parts['working set'], parts['index']) > 0
    assert planned.compute_seconds == planned.flops / 989e12 and planned.flops < planned.flops_at_limit and planned.moved_bytes == 0
    # an update reads and writes weights, gradients and moments
    updated = 2 * GIB * (parts['parameters'] + parts['gradients'] + parts['optimizer'])
    assert planned.memory_seconds == pytest.approx(updated / 3.35e12)
    assert planned.step_seconds_roofline == max(planned.compute_seconds, planned.memory_seconds)
    assert planned.step_seconds_apart == planned.compute_seconds + planned.memory_seconds
    assert planned.items_per_second == pytest.approx(5 / planned.step_seconds_roofline) and 0 < planned.mfu_bound < 1


def test_the_table_says_that_it_is_by_formula(planned):
    shown = plan_table.lines(planned, WORKLOAD)
    assert shown[0] == 'h100:1, 1 GPUs, data 1 x fsdp 1 x model 1: fits, by formula'
    assert shown[1] == 'nothing was compiled and nothing has run: all figures are counted on the traced program'
    assert sum('not counted' in line for line in shown) == 2 and any('scratch of XLA' in line for line in shown)
    crowded = dataclasses.replace(planned, fits=False)
    assert 'DOES NOT FIT, by formula' in plan_table.lines(crowded, WORKLOAD)[0]
    assert any(line.startswith('to make it fit: ') for line in plan_table.lines(crowded, WORKLOAD))


def test_answers_read_the_decoder_for_every_token():
    answer = gpu_plan.plan(dataclasses.replace(WORKLOAD, kind='answer'), 'a100-40gb:1')
    assert answer.hbm_parts['optimizer'] == answer.hbm_parts['gradients'] == 0
    # keys and values twice, and a layer's weights
    assert answer.hbm_parts['working set'] > answer.hbm_parts['activations'] > 0
    assert answer.memory_seconds > 0 and answer.accumulation_steps == 1 and 'questions a batch      5' in plan_table.lines(answer, WORKLOAD)


def test_an_index_build_is_planned_for_a_host():
    built = gpu_plan.plan(dataclasses.replace(WORKLOAD, kind='index'), 'a100:1')
    assert built.attention == 'plain' and built.moved_bytes == 0 and 'every host alone' in plan_table.lines(built, WORKLOAD)[0]
    # Logits and probabilities of two heads. A pack of 16,384 tokens has places for passages half as long as its rows are wide.
    longest = tiny.INPUTS.text_max_tokens
    assert built.hbm_parts['working set'] * GIB == pytest.approx(2 * 4 * 2 * longest**2 * (16384 // (longest // 2)))


def _attention(**changes):
    mesh = gpu_plan.partitioning.make_mesh(devices=jax.devices()[:1])
    step = dataclasses.replace(WORKLOAD.step, **{name: changes.pop(name) for name in ('attention', 'compute_dtype') if name in changes})
    reader = dataclasses.replace(tiny.READER, head_dim=8)
    model = dataclasses.replace(WORKLOAD.model, reader=reader)
    return gpu_plan._attention(dataclasses.replace(WORKLOAD, model=model, step=step, **changes), mesh)


def test_the_kernel_counts_where_a_run_takes_it():
    assert _attention() == _attention(attention='flash') == _attention(kind='answer', dropout_rate=0.1) == 'auto'
    assert _attention(dropout_rate=0.1) == _attention(compute_dtype='float32') == _attention(attention='plain') == 'plain'
    with pytest.raises(errors.ConfigError, match='cuDNN takes bfloat16 without dropout'):
        _attention(attention='flash', dropout_rate=0.1)


def _with_heads(number):
    reader = dataclasses.replace(WORKLOAD.config.reader, num_heads=number, mlp_dim=16)
    return dataclasses.replace(WORKLOAD, model=dataclasses.replace(WORKLOAD.model, reader=reader))


def _moved(workload, mesh_shape):
    params = {'reader': {'encoder': jax.ShapeDtypeStruct((600,), jnp.float32), 'decoder': jax.ShapeDtypeStruct((400,), jnp.float32)}}
    return gpu_plan._moved(workload, (params, None) if workload.trains else params, mesh_shape)


def test_weights_are_gathered_over_model_and_then_over_fsdp():
    # three moves of two bytes: a part of `fsdp` within the host, the whole over the network
    whole = _with_heads(7)  # which 8 does not divide
    assert _moved(whole, (1, 4, 8)) == [(3 * 2000 / 4 * 7 / 8, 8), (3 * 2000 * 3 / 4, 32), (0, 32)]
    # The decoder stays split over `model`.
    assert _moved(_with_heads(8), (1, 4, 8)) == [(3 * 1200 / 4 * 7 / 8, 8), (3 * (1200 + 800 / 8) * 3 / 4, 32), (0, 32)]
    hosts = gpus.parse('h100:32')
    assert [hosts.rate(span) for _, span in _moved(whole, (1, 4, 8))] == [450e9, 50e9, 50e9]
    # Replicas add up float32 gradients, a shard each.
    assert _moved(WORKLOAD, (2, 4, 1))[2] == (2 * 4000 / 4 / 2, 8)
    # target_limit tokens are decoded
    answer = dataclasses.replace(WORKLOAD, kind='answer')
    tokens = answer.config.inputs.target_limit
    assert _moved(answer, (1, 2, 1))[1] == (2 * (600 + 400 * tokens) / 2, 2)
    assert _moved(dataclasses.replace(WORKLOAD, kind='index'), (1, 8, 1)) == []


def test_mistakes_come_before_anything_is_traced(monkeypatch):
    monkeypatch.setattr(planned_steps, 'steps_of', lambda *_: pytest.fail('traced'))
    with pytest.raises(errors.ConfigError, match='topology "h100:7"'):
        gpu_plan.plan(WORKLOAD, 'h100:7')
    with pytest.raises(errors.ConfigError, match='axis fsdp is 3, which does not divide the 8 chips that are left of h100:8'):
        gpu_plan.plan(dataclasses.replace(WORKLOAD, mesh_shape=(1, 3, 1)), 'h100:8')
