"""Tokens on the host over a mesh of three axes: every device gets the passages that its part of the table on the devices would give."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from atlas_jax import partitioning
from atlas_jax.answering import prepare
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.steps import retrieve
from atlas_jax.steps import spec as spec_lib
from tests.testing import tiny_run

# A batch that lies over all devices, and one that is smaller than the mesh, so that devices share an example.
CASES = [(8, spec_lib.DistillConfig(retriever_n_context=3)), (4, spec_lib.DistillConfig(retriever_n_context=4))]


@pytest.mark.parametrize('size, distill', CASES, ids=lambda each: str(each) if isinstance(each, int) else '')
def test_the_host_reads_what_lies_on_the_devices(tmp_path, size, distill):
    atlas = tiny_run.atlas(dropout_rate=0.0, mesh=partitioning.make_mesh((2, 2, 2)))
    index, params, found = tiny_run.index(atlas, tmp_path), atlas.device_params(), []
    # A batch that is smaller than the mesh needs a decoder that divides over `model`; nothing is decoded here.
    reader = dataclasses.replace(atlas.config.reader, mlp_dim=32)
    atlas = dataclasses.replace(atlas, config=dataclasses.replace(atlas.config, reader=reader))
    examples = tiny_run.examples(atlas, size - 1)
    for where in ('device', 'host'):
        prepared = prepare.prepare_examples(atlas, examples, index, 2, size, distill=distill, search=SearchConfig(tokens=where))
        batch, retrieved = prepared.batch(examples, size, params)
        run = jax.jit(functools.partial(retrieve.retrieve_and_assemble, spec=prepared.spec))
        with partitioning.on_mesh(atlas.mesh):
            found.append(jax.device_get(run(params['retriever'], batch, prepared.knowledge, retrieved=retrieved)))
    assert retrieved.reader_rows.tokens.sharding == prepared.sharding(size)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-6), *found)
    assert found[1].retriever_lengths.min() > 0 and found[1].reader_tokens.shape[:2] == (size, distill.retriever_n_context)
