"""Arithmetic picks the meshes and accumulations; only the finalists are compiled, smallest slice first."""

import dataclasses

import pytest

from atlas_jax import errors
from atlas_jax.apps.planning import compiled as compiled_lib
from atlas_jax.apps.planning import option_search, plan_table, slices, tpu_plan
from atlas_jax.apps.planning import workload as workload_lib
from atlas_jax.apps.planning.plan import GIB, PARTS, TpuPlan
from atlas_jax.steps import spec as spec_lib
from tests.testing import tiny

WORKLOAD = workload_lib.Workload(tiny.config(), batch_size=16, n_context=3, index_rows=1000,
                                 step=spec_lib.StepConfig(accumulation_steps=2, remat='none'))


def _plan(workload, topology, gib):
    slice_ = slices.parse(topology)
    return TpuPlan(
        kind=workload.kind, topology=topology, chips=slice_.chips, mesh_shape=workload.mesh_shape,
        accumulation_steps=workload.step.accumulation_steps, remat=workload.step.remat, batch_size=workload.batch_size,
        fits=gib <= slice_.generation.hbm_gib, hbm_gib_per_chip=gib, hbm_limit_gib=slice_.generation.hbm_gib,
        hbm_parts=dict.fromkeys(PARTS, gib / 6), flops=1e12, flops_at_limit=2e12, step_seconds_roofline=0.5, step_seconds_expected=0.6,
        compute_seconds=0.5, compiler_seconds=0.5, kernel_seconds=0.0, collective_seconds=0.1, link_seconds=0.1, network_seconds=0.0,
        exposed_seconds=0.1, reading_seconds=0.0, memory_seconds=0.2, items_per_second=64.0, mfu_bound=0.8, mfu=0.7,
        collective_bytes=dict.fromkeys(compiled_lib.KINDS, 1e9), asynchronous_bytes=dict.fromkeys(compiled_lib.KINDS, 0.0),
        compile_seconds=3.0)


@pytest.fixture
def compiled(monkeypatch):
    """Plans without a compiler: only 16 chips and more fit. Returns the list of requested plans."""
    asked = []

    def fake(workload, topology, cache_dir):
        asked.append((topology, workload.mesh_shape, workload.step.accumulation_steps, workload.step.remat))
        return _plan(workload, topology, 20.0 if slices.parse(topology).chips >= 16 else 40.0)

    monkeypatch.setattr(tpu_plan, 'plan', fake)
    return asked


def test_candidates_keep_the_examples_of_an_update():
    found = option_search.candidates(WORKLOAD, slices.parse('v4:2x2x2'))
    assert {candidate.workload.examples_a_step for candidate in found} == {32}
    assert {candidate.workload.step.accumulation_steps for candidate in found} == {1, 2, 4}
    assert {candidate.workload.step.remat for candidate in found} == {'encoder_dots', 'encoder_mlp', 'full'}
    assert {candidate.workload.mesh_shape for candidate in found} == {(1, 8, 1), (1, 4, 2), (1, 2, 4), (1, 1, 8)}
    assert found == sorted(found, key=lambda each: (round(each.seconds, 3), round(each.hbm_gib, 3), each.link_seconds))
    assert found[0].workload.mesh_shape[2] > 1  # among equal ones, the one that gathers in two stages comes first


def test_the_smallest_slice_that_fits_is_found_and_few_are_compiled(compiled):
    planned, workload = option_search.first_that_fits(WORKLOAD, ('v4:2x2x2', 'v4:2x2x4', 'v4:4x4x4'), None)
    assert planned.topology == 'v4:2x2x4' and workload.examples_a_step == 32
    assert [topology for topology, *_ in compiled] == ['v4:2x2x2'] * option_search.FINALISTS + ['v4:2x2x4']


def test_where_nothing_fits_the_nearest_is_named(compiled):
    with pytest.raises(errors.ConfigError, match=r'no mesh and accumulation fits on v4:2x2x2; the nearest needs 40.0 GiB'):
        option_search.first_that_fits(WORKLOAD, ('v4:2x2x2',), None)


def test_slices_lie_on_data_and_hold_all_weights():
    one = option_search.candidates(WORKLOAD, slices.parse('v4:2x2x2'))
    two = option_search.candidates(dataclasses.replace(WORKLOAD, batch_size=32), slices.parse('2xv4:2x2x2'))
    assert {candidate.workload.mesh_shape for candidate in two} == {(2, 8, 1), (2, 4, 2), (2, 2, 4), (2, 1, 8)}

    def held(candidates):
        return {(*each.workload.mesh_shape[1:], each.workload.step.accumulation_steps): each.hbm_gib for each in candidates}

    # Twice the examples on twice the chips: a chip holds half as much of the index, and as much of everything else.
    ones, twos, less = held(one), held(two), option_search._index_bytes(WORKLOAD) / 16 / GIB
    assert ones.keys() == twos.keys() and all(twos[key] == pytest.approx(gib - less) for key, gib in ones.items())


def test_a_search_alone_weighs_the_retriever_and_the_index():
    workload = dataclasses.replace(WORKLOAD, kind='search', index_rows=10**6)
    answering, searching = (option_search.candidates(dataclasses.replace(workload, kind=kind), slices.parse('v4:2x2x1'))[0]
                            for kind in ('answer', 'search'))
    assert searching.seconds < answering.seconds and searching.hbm_gib < answering.hbm_gib
    # Embeddings and the reader's table, over 4 chips; the rest is the retriever.
    index = 10**6 * (2 * tiny.RETRIEVER.emb_dim + 2 * workload.table_tokens) / 4 / GIB
    assert index < searching.hbm_gib < 1.01 * index
    text = '\n'.join(plan_table.lines(dataclasses.replace(_plan(answering.workload, 'v4:2x2x1', 3.0), kind='search', reading_seconds=0.25),
                                    workload))
    assert 'reading the index 0.25' in text and 'questions a second' in text
