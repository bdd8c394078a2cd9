"""Counts of a call: shares and copies weigh its programs, and the first branch of a switch is typical."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from atlas_jax import partitioning
from atlas_jax.apps.planning import counts, planned_steps, slices
from atlas_jax.apps.planning import workload as workload_lib
from tests.testing import tiny

WORKLOAD = workload_lib.Workload(tiny.config(), kind='answer', batch_size=4, n_context=3, index_rows=56)
PRODUCT = 2 * 7 * 7 * 11  # FLOPs


def _step(**options):
    mesh = partitioning.make_mesh(devices=jax.devices()[:1])
    weights = jax.ShapeDtypeStruct((7, 11), jnp.float32, sharding=partitioning.replicated(mesh))
    return planned_steps.PlannedStep(jax.jit(lambda w: w @ w.T), (weights,), weights, **options)


def test_shares_and_copies_weigh_the_programs_of_a_call():
    steps = [_step(share=0.25, items=8.0, copies=3), _step(share=0.75, items=4.0, copies=3)]
    counted = counts.count(WORKLOAD, None, 3, steps, slices.parse('v4:2x2x1'))
    assert counted.flops == pytest.approx(3 * PRODUCT) and counted.items == 0.25 * 8 + 0.75 * 4
    assert counted.parts['parameters'] == 7 * 11 * 4 and counted.parts['codes'] == counted.scan_flops == 0
    assert counted.model_flops == counted.flops_at_limit == counted.flops and counted.real_flops == counted.kernel_flops == 0


def test_programs_of_every_call_are_read_too():
    steps = [_step(read_bytes=5.0, every_call=True), _step(read_bytes=3.0), _step(read_bytes=2.0)]
    assert counts.count(WORKLOAD, None, 1, steps, slices.parse('v4:2x2x1')).read_bytes == 7.0


def test_gradients_are_no_activations():
    step = dataclasses.replace(_step(), gradients={'w': jax.ShapeDtypeStruct((7, 11), jnp.float32)})
    assert counts.gradient_shapes(step) == {(7, 11)} and counts.gradient_shapes(_step()) == set()
