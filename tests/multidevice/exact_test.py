"""Exact search and the index's device arrays on 8 devices: the same as on one."""

import jax
import numpy as np
import pytest

from atlas_jax import errors, partitioning, types
from atlas_jax.index.embedding_index import EmbeddingIndex
from atlas_jax.searchers import exact
from tests.testing.fake_store import FakeEmbedder, FakeStore, passages

MESHES = [(2, (1, 2, 1)), (8, (1, 8, 1)), (8, (2, 2, 2))]


@pytest.fixture(autouse=True)
def eight_devices():
    assert len(jax.devices()) == 8


def place(embeddings, valid, mesh):
    return types.IndexArrays(jax.device_put(embeddings, partitioning.sharding(mesh, 'passages', None)),
                             jax.device_put(valid, partitioning.sharding(mesh, 'passages')))


@pytest.mark.parametrize('devices, shape', MESHES)
@pytest.mark.parametrize('top_k, chunk_rows', [(20, None), (200, 7)])
def test_ids_and_ties_do_not_depend_on_the_devices(devices, shape, top_k, chunk_rows):
    generator = np.random.default_rng(0)
    embeddings = generator.integers(-2, 3, (8 * 23, 13)).astype(np.float32)  # whole numbers: exact products, many ties
    valid, queries = generator.random(8 * 23) < 0.7, generator.integers(-2, 3, (5, 13)).astype(np.float32)
    one, many = partitioning.make_mesh(devices=jax.devices()[:1]), partitioning.make_mesh(shape, jax.devices()[:devices])
    alone = exact.search(place(embeddings, valid, one), queries, top_k, one)
    spread = jax.jit(exact.search, static_argnums=(2, 3, 4))(place(embeddings, valid, many), queries, top_k, many, chunk_rows)
    np.testing.assert_array_equal(alone.scores, spread.scores)
    np.testing.assert_array_equal(alone.passage_ids, spread.passage_ids)


def test_queries_sharded_over_the_devices():
    mesh, generator = partitioning.make_mesh(), np.random.default_rng(1)
    embeddings, queries = generator.standard_normal((8 * 23, 13)).astype(np.float32), generator.standard_normal((16, 13)).astype(np.float32)
    sharded = jax.device_put(queries, partitioning.batch_sharding(mesh, len(queries)))
    found = jax.jit(exact.search, static_argnums=(2, 3))(place(embeddings, np.ones(8 * 23, bool), mesh), sharded, 4, mesh)
    order = np.argsort(-(queries @ embeddings.T), axis=1)[:, :4]
    np.testing.assert_array_equal(found.passage_ids, order)
    np.testing.assert_allclose(found.scores, np.take_along_axis(queries @ embeddings.T, order, axis=1), rtol=1e-5)


def test_rows_that_do_not_divide_are_refused():
    arrays = types.IndexArrays(np.zeros((9, 3), np.float32), np.ones(9, bool))
    with pytest.raises(errors.ConfigError, match='9 index rows'):
        exact.search(arrays, np.zeros((1, 3), np.float32), 1, partitioning.make_mesh())


@pytest.mark.parametrize('rows, devices, shape', [(0, 8, (1, 8, 1)), (5, 8, (2, 2, 2)), (29, 8, (4, 1, 2)), (29, 2, (1, 2, 1))])
def test_device_arrays_hold_each_row_once(tmp_path, rows, devices, shape):
    store, embedder, mesh = FakeStore(passages(rows)), FakeEmbedder(), partitioning.make_mesh(shape, jax.devices()[:devices])
    index = EmbeddingIndex.build(store, embedder, tmp_path / 'index', progress=False)
    arrays = index.device_arrays(mesh)
    padded = max(1, -(-rows // devices)) * devices
    assert arrays.embeddings.shape == (padded, 7)
    assert {shard.data.shape for shard in arrays.embeddings.addressable_shards} == {(padded // devices, 7)}
    np.testing.assert_array_equal(np.asarray(arrays.embeddings)[:rows], index.embeddings(np.arange(rows)))
    np.testing.assert_array_equal(arrays.valid, np.arange(padded) < rows)
