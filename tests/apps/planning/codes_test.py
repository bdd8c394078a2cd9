"""Plans of searches by codes: planned shapes equal loaded ones, and memory beside each program counts."""

import dataclasses

import jax
import numpy as np

from atlas_jax import partitioning
from atlas_jax.apps.planning import planned_steps, slices, step_arguments
from atlas_jax.apps.planning import workload as workload_lib
from atlas_jax.searchers import codes as codes_lib
from atlas_jax.searchers import codes_building, codes_files
from atlas_jax.searchers.config import SearchConfig
from tests.testing import codes as given
from tests.testing import tiny

MESH = partitioning.make_mesh(devices=jax.devices()[:1])
CODES = SearchConfig('codes', rescore_candidates=30)
WORKLOAD = workload_lib.Workload(tiny.config(), kind='answer', batch_size=3, n_context=2, index_rows=70, index_dtype='int8', code_bytes=8,
                                 search=CODES)


def test_the_planned_codes_are_those_that_are_loaded(tmp_path):
    index, _ = given.build(tmp_path / 'index', 70)
    codes_building.compress(index, codes_building.CodesSettings(8, accept_recall=True), show_progress=False)
    planned = step_arguments.knowledge(WORKLOAD, planned_steps.make_planned_spec(WORKLOAD, MESH)).codes
    loaded = codes_files.open_for(index, 'max_inner_product').device_arrays(MESH, planned.rows, index.deleted)
    for name in ('words', 'factors'):
        assert (getattr(planned, name).shape, getattr(planned, name).dtype) == (getattr(loaded, name).shape, getattr(loaded, name).dtype)
    assert sum(planned.planes) == sum(loaded.planes) == 64 and list(planned.planes) == sorted(planned.planes, reverse=True)
    assert planned.turn.shape == (WORKLOAD.config.retriever.embedding_dim, planned.planes[0])


def test_codes_in_the_step_are_arguments_of_one_program():
    (step,) = planned_steps.steps_of(WORKLOAD, MESH)
    assert step.index.codes is not None and step.index.index is not None and step.beside_bytes == 0
    search = planned_steps.steps_of(dataclasses.replace(WORKLOAD, kind='search'), MESH)[-1]
    assert search.read_bytes == step_arguments.chip_bytes((step.index.codes.words, step.index.codes.factors)) > 0


def test_codes_of_the_host_lie_beside_the_step_and_are_scanned_before_it():
    on_host = dataclasses.replace(WORKLOAD, search=dataclasses.replace(CODES, rescore='host'))
    embed, scan, step = planned_steps.steps_of(on_host, MESH)
    codes = step_arguments.chip_bytes(scan.codes)
    assert embed.every_call and scan.every_call and not step.every_call and step.index.codes is None and step.index.index is None
    assert step.beside_bytes == codes and scan.beside_bytes == step_arguments.chip_bytes((step.parameters, step.index))
    assert embed.beside_bytes == scan.beside_bytes + codes - step_arguments.chip_bytes(embed.parameters)
    assert scan.items == embed.items == 0 and step.items == 3 and scan.static['candidates'] == 30
    found, program = jax.eval_shape(lambda codes, queries: scan.run(codes, queries, **scan.static), *scan.arguments), scan.trace()
    assert found.passage_ids.shape == (3, 30) and program.jaxpr is not None
    embed, scan = planned_steps.steps_of(dataclasses.replace(on_host, kind='search'), MESH)
    assert (embed.items, scan.items) == (0, 3) and scan.read_bytes < codes
    trained = dataclasses.replace(on_host, kind='train')
    assert [step.every_call for step in planned_steps.steps_of(trained, MESH)] == [True, True, False]


def test_the_scan_is_counted_for_the_queries_that_the_kernel_computes():
    codes = step_arguments.knowledge(WORKLOAD, planned_steps.make_planned_spec(WORKLOAD, MESH)).codes
    rows = 32 * codes.words.shape[0]
    for batch, computed in ((1, 16), (16, 16), (17, 32), (128, 128), (129, 256)):
        assert codes_lib.scan_flops(codes, batch, MESH) == 2 * computed * rows * 64


def test_one_chip_is_a_slice():
    for name in ('v4:1x1x1', 'v5e:1x1'):
        found = slices.parse(name)
        assert found.chips == 1 and found.host == found and slices.check_mesh(None, found) == (1, 1, 1)
    assert np.prod(slices.parse('v4:2x2x2').host.sides) == 4
