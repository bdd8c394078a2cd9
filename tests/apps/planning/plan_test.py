"""The fields of a plan, which are the keys of its JSON."""

import dataclasses

from atlas_jax.apps.planning.plan import GpuPlan, Plan, TpuPlan

SHARED = {
    'kind', 'topology', 'chips', 'mesh_shape', 'accumulation_steps', 'batch_size', 'fits', 'hbm_gib_per_chip', 'hbm_limit_gib',
    'hbm_parts', 'flops', 'flops_at_limit', 'compute_seconds', 'link_seconds', 'memory_seconds', 'step_seconds_roofline',
    'items_per_second', 'mfu_bound'}
TPU = {
    'remat', 'step_seconds_expected', 'compiler_seconds', 'kernel_seconds', 'collective_seconds', 'network_seconds', 'exposed_seconds',
    'reading_seconds', 'mfu', 'collective_bytes', 'asynchronous_bytes', 'compile_seconds', 'host_gib', 'scan_seconds', 'refresh_seconds'}
GPU = {'attention', 'step_seconds_apart', 'moved_bytes', 'by', 'not_counted'}


def _names(plan):
    return {field.name for field in dataclasses.fields(plan)}


def test_the_keys_of_the_json_stay():
    assert _names(Plan) == SHARED and _names(TpuPlan) == SHARED | TPU and _names(GpuPlan) == SHARED | GPU


def test_real_lengths_are_a_share_of_the_limit():
    plan = Plan('answer', 'h100:1', 1, (1, 1, 1), 1, 5, True, 1.0, 2.0, {}, 3.0, 12.0, 1.0, 1.0, 1.0, 1.0, 5.0, 0.5)
    assert plan.typical_fraction == 0.25
