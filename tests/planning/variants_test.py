"""Arithmetic picks the meshes and accumulations; only the finalists are compiled, smallest slice first."""

import dataclasses

import pytest

from atlas_jax import errors
from atlas_jax.planning import compiled as compiled_lib
from atlas_jax.planning import plan as plan_lib
from atlas_jax.planning import slices, variants
from atlas_jax.planning import workload as workload_lib
from atlas_jax.steps import spec as spec_lib
from tests.testing import tiny

WORKLOAD = workload_lib.Workload(tiny.config(), batch_size=16, n_context=3, index_rows=1000,
                                 step=spec_lib.StepConfig(accumulation_steps=2, remat='none'))


def _plan(workload, topology, gib):
    slice_ = slices.parse(topology)
    return plan_lib.Plan(
        workload.kind, topology, slice_.chips, workload.mesh_shape, workload.step.accumulation_steps, workload.step.remat,
        workload.batch_size,
        gib <= slice_.generation.hbm_gib, gib, slice_.generation.hbm_gib, dict.fromkeys(plan_lib.PARTS, gib / 6), 1e12, 2e12, 0.5, 0.6, 0.5,
        0.5, 0.0, 0.1, 0.1, 0.0, 0.1, 0.0, 0.2, 64.0, 0.8, 0.7, dict.fromkeys(compiled_lib.KINDS, 1e9),
        dict.fromkeys(compiled_lib.KINDS, 0.0), 3.0)


@pytest.fixture
def compiled(monkeypatch):
    """Plans without a compiler: only 16 chips and more fit; gives the list of what was asked for."""
    asked = []

    def fake(workload, topology, cache_dir):
        asked.append((topology, workload.mesh_shape, workload.step.accumulation_steps, workload.step.remat))
        return _plan(workload, topology, 20.0 if slices.parse(topology).chips >= 16 else 40.0)

    monkeypatch.setattr(plan_lib, 'plan', fake)
    return asked


def test_candidates_keep_the_examples_of_an_update():
    found = variants.candidates(WORKLOAD, slices.parse('v4:2x2x2'))
    assert {candidate.workload.examples_a_step for candidate in found} == {32}
    assert {candidate.workload.step.accumulation_steps for candidate in found} == {1, 2, 4}
    assert {candidate.workload.step.remat for candidate in found} == {'encoder_dots', 'encoder_mlp', 'full'}
    assert {candidate.workload.mesh_shape for candidate in found} == {(1, 8, 1), (1, 4, 2), (1, 2, 4), (1, 1, 8)}
    assert found == sorted(found, key=lambda each: (round(each.seconds, 3), round(each.hbm_gib, 3), each.link_seconds))
    assert found[0].workload.mesh_shape[2] > 1  # of equal ones that which gathers in two stages


def test_the_smallest_slice_that_fits_is_found_and_few_are_compiled(compiled):
    planned, workload = variants.first_that_fits(WORKLOAD, ('v4:2x2x2', 'v4:2x2x4', 'v4:4x4x4'), None)
    assert planned.topology == 'v4:2x2x4' and workload.examples_a_step == 32
    assert [topology for topology, *_ in compiled] == ['v4:2x2x2'] * variants.FINALISTS + ['v4:2x2x4']


def test_where_nothing_fits_the_nearest_is_named(compiled):
    with pytest.raises(errors.ConfigError, match=r'no mesh and accumulation fits on v4:2x2x2; the nearest needs 40.0 GiB'):
        variants.first_that_fits(WORKLOAD, ('v4:2x2x2',), None)


def test_a_plan_that_fits_is_a_table():
    workload = dataclasses.replace(WORKLOAD, mesh_shape=(1, 4, 4))
    text = '\n'.join(plan_lib.lines(_plan(workload, 'v4:2x2x4', 18.0), workload))
    assert 'v4:2x2x4, 16 chips, data 1 x fsdp 4 x model 4: fits' in text
    assert 'real lengths take 50%' in text and 'all-gather 1.0' in text and 'to make it fit' not in text


def test_a_plan_that_does_not_fit_says_what_to_change():
    workload = dataclasses.replace(WORKLOAD, mesh_shape=(1, 8, 1))
    remedies = plan_lib.remedies(_plan(workload, 'v4:2x2x2', 36.0), workload)
    assert 'accumulation_steps=4 with batch_size 8' in remedies[0]
    assert [word for word in ('bfloat16', 'encoder_mlp', 'int8', 'adafactor', 'larger slice') if word in ' '.join(remedies)] == [
        'bfloat16', 'encoder_mlp', 'int8', 'adafactor', 'larger slice']
    tight = dataclasses.replace(workload, batch_size=8, index_dtype='int8', step=spec_lib.StepConfig(
        remat='full', compute_dtype='bfloat16', param_dtype='bfloat16'))
    assert 'accumulat' not in ' '.join(plan_lib.remedies(_plan(tight, 'v4:2x2x2', 36.0), tight))
    plain = dataclasses.replace(tight, step=dataclasses.replace(tight.step, attention='plain'))
    assert "attention='auto'" in ' '.join(plan_lib.remedies(_plan(plain, 'v4:2x2x2', 36.0), plain))
    assert "attention='auto'" not in ' '.join(plan_lib.remedies(_plan(tight, 'v4:2x2x2', 36.0), tight))


def test_slices_lie_on_data_and_hold_all_weights():
    one = variants.candidates(WORKLOAD, slices.parse('v4:2x2x2'))
    two = variants.candidates(dataclasses.replace(WORKLOAD, batch_size=32), slices.parse('2xv4:2x2x2'))
    assert {candidate.workload.mesh_shape for candidate in two} == {(2, 8, 1), (2, 4, 2), (2, 2, 4), (2, 1, 8)}

    def held(candidates):
        return {(*each.workload.mesh_shape[1:], each.workload.step.accumulation_steps): each.hbm_gib for each in candidates}

    # Twice the examples on twice the chips: a chip holds half as much of the index, and the same of all else.
    ones, twos, less = held(one), held(two), variants._index_bytes(WORKLOAD) / 16 / plan_lib.GIB
    assert ones.keys() == twos.keys() and all(twos[key] == pytest.approx(gib - less) for key, gib in ones.items())


def test_a_search_alone_weighs_the_retriever_and_the_index():
    workload = dataclasses.replace(WORKLOAD, kind='search', index_rows=10**6)
    answering, searching = (variants.candidates(dataclasses.replace(workload, kind=kind), slices.parse('v4:2x2x1'))[0]
                            for kind in ('answer', 'search'))
    assert searching.seconds < answering.seconds and searching.hbm_gib < answering.hbm_gib
    # Embeddings and the reader's table, over 4 chips: what is left is the retriever.
    index = 10**6 * (2 * tiny.RETRIEVER.emb_dim + 2 * workload.table_tokens) / 4 / plan_lib.GIB
    assert index < searching.hbm_gib < 1.01 * index
    text = '\n'.join(plan_lib.lines(dataclasses.replace(_plan(answering.workload, 'v4:2x2x1', 3.0), kind='search', reading_seconds=0.25),
                                    workload))
    assert 'reading the index 0.25' in text and 'questions a second' in text
