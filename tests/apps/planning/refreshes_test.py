"""A plan counts the refreshes that its run makes, with the program that it runs."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from atlas_jax import partitioning
from atlas_jax.apps.planning import planned_steps, refreshes, step_arguments
from atlas_jax.apps.planning import workload as workload_lib
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training import refresh
from atlas_jax.training.optimizer import OptimizerConfig
from tests.testing import tiny

ROWS = 56
WORKLOAD = workload_lib.Workload(
    tiny.config(), batch_size=4, n_context=3, index_rows=ROWS, index_dtype='float32', optimizer=OptimizerConfig(total_steps=9),
    distill=spec_lib.DistillConfig(retriever_n_context=3), refresh=refresh.RefreshConfig(schedule='2', block_passages=9))


@pytest.fixture(scope='module')
def mesh():
    return partitioning.make_mesh(devices=jax.devices()[:1])


def _made(config, updates, frozen, mesh):
    """Returns the number of refreshes of a run, by its own Refresher, without embedding anything."""
    workload = dataclasses.replace(WORKLOAD, distill=dataclasses.replace(WORKLOAD.distill, freeze_retriever_steps=frozen))
    refresher = refresh.Refresher(planned_steps.make_planned_spec(workload, mesh), config, ROWS, workload_lib.token_lengths(workload))
    blocks = []
    refresher._refresh = lambda knowledge, params, block, step: blocks.append(block) or knowledge
    for step in range(1, updates + 1):
        refresher.after_update('knowledge', {}, step)
    return len(blocks) / len(refresher.generations)


@pytest.mark.parametrize('frozen', [0, 1, 4])
@pytest.mark.parametrize('options, expected', [({'schedule': '1000'}, 0), ({'schedule': '3'}, 3), ({'schedule': '0-4:2,4-90:5'}, 3),
                                               ({'schedule': '-1', 'rolling_fraction': 2 / 7}, 20 / 7),
                                               ({'schedule': '5', 'rolling_fraction': 1.0}, 10), ({'schedule': '-1'}, 0)])
def test_the_index_is_embedded_as_often_as_a_run_does_it(options, expected, frozen, mesh):
    config = refresh.RefreshConfig(block_passages=8, **options)
    workload = dataclasses.replace(WORKLOAD, refresh=config, optimizer=OptimizerConfig(total_steps=10),
                                   distill=dataclasses.replace(WORKLOAD.distill, freeze_retriever_steps=frozen))
    found = refreshes.times(workload)
    assert found == pytest.approx(_made(config, 10, frozen, mesh)) and refreshes.a_update(workload) == found / 10
    assert frozen == 4 or found == pytest.approx(expected)
    assert refreshes.times(dataclasses.replace(workload, kind='answer')) == 0


@pytest.mark.parametrize('search, columns', [(SearchConfig(), 1), (SearchConfig(searcher='int8'), 2), (SearchConfig(tokens='host'), 1)])
@pytest.mark.parametrize('training', ['joint', 'untied'])
def test_the_program_is_that_of_a_run(search, columns, training, mesh):
    distill = dataclasses.replace(WORKLOAD.distill, retriever_training=training)
    found = refreshes.block(dataclasses.replace(WORKLOAD, search=search, distill=distill), mesh)
    assert found.calls == 7  # 56 rows, 9 at a time
    out = found.step.trace().out_info
    assert len(out) == columns and (out[0][0].shape, out[0][0].dtype) == ((ROWS, tiny.RETRIEVER.emb_dim), jnp.float32)
    assert found.step.arguments[2].tokens.shape == (9 if search.tokens == 'host' else ROWS, 256)
    # Beside it lie the reader, all moments, and the unused parts of the index.
    assert found.step.beside_bytes > 2 * step_arguments.chip_bytes(found.step.parameters)


@pytest.mark.parametrize('changes', [{'refresh': refresh.RefreshConfig()}, {'kind': 'answer'}, {'n_context': 0},
                                     {'distill': spec_lib.DistillConfig(retriever_training='query_side')},
                                     {'search': SearchConfig(searcher='scann')}])
def test_a_run_without_refreshes_has_no_program(changes, mesh):
    assert refreshes.block(dataclasses.replace(WORKLOAD, **changes), mesh) is None
