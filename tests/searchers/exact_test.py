"""Exact search on one device against a sort in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import errors, partitioning, types
from atlas_jax.searchers import exact


@pytest.fixture
def mesh():
    return partitioning.make_mesh(devices=jax.devices()[:1])


def made(rows, batch, dim=13, seed=0, whole_numbers=True):
    """Embeddings and queries of small whole numbers, so that products are exact and many tie."""
    generator = np.random.default_rng(seed)
    draw = (lambda shape: generator.integers(-2, 3, shape)) if whole_numbers else generator.standard_normal
    return draw((rows, dim)).astype(np.float32), generator.random(rows) < 0.8, draw((batch, dim)).astype(np.float32)


def by_sorting(embeddings, valid, queries, top_k):
    """The specification: best score first, ties by the lower id, -inf and 0 past the valid rows."""
    scores = np.where(valid, queries.astype(np.float64) @ embeddings.astype(np.float64).T, -np.inf)
    scores = np.pad(scores, ((0, 0), (0, top_k)), constant_values=-np.inf)
    order = np.argsort(-scores, axis=1, kind='stable')[:, :top_k]
    best = np.take_along_axis(scores, order, axis=1)
    return best, np.where(np.isfinite(best), order, 0)


@pytest.mark.parametrize('rows, batch, top_k, chunk_rows', [
    (1, 1, 1, None), (7, 3, 20, None), (101, 5, 20, None), (101, 5, 20, 17), (101, 5, 20, 100), (101, 5, 20, 101), (101, 5, 20, 1000),
    (96, 1, 5, 32), (2048, 3, 2, None), (2300, 3, 2, 1024), (640, 2, 1, 128), (101, 0, 5, None),
])
def test_equals_sorting(mesh, rows, batch, top_k, chunk_rows):
    embeddings, valid, queries = made(rows, batch)
    found = exact.search(types.IndexArrays(jnp.asarray(embeddings), jnp.asarray(valid)), queries, top_k, mesh, chunk_rows)
    scores, ids = by_sorting(embeddings, valid, queries, top_k)
    np.testing.assert_array_equal(found.scores, scores)
    np.testing.assert_array_equal(found.passage_ids, ids)
    assert found.scores.dtype == np.float32 and found.passage_ids.dtype == np.int32


def test_scores_have_float32_precision(mesh):
    embeddings, valid, queries = made(503, 4, dim=384, whole_numbers=False)
    found = exact.search(types.IndexArrays(embeddings, valid), queries, 11, mesh)
    scores, _ = by_sorting(embeddings, valid, queries, 11)
    assert np.abs(found.scores - scores).max() / np.abs(scores).max() < 1e-6


def test_no_valid_row(mesh):
    embeddings, _, queries = made(11, 3)
    found = exact.search(types.IndexArrays(embeddings, np.zeros(11, bool)), queries, 4, mesh)
    assert np.all(np.asarray(found.scores) == -np.inf) and np.all(np.asarray(found.passage_ids) == 0)


def test_runs_inside_jit_and_passes_no_gradient(mesh):
    embeddings, valid, queries = made(101, 3)
    arrays = types.IndexArrays(jnp.asarray(embeddings), jnp.asarray(valid))

    def search(arrays, queries):
        return exact.search(arrays, queries, 6, mesh)

    np.testing.assert_array_equal(jax.jit(search)(arrays, queries).passage_ids, by_sorting(embeddings, valid, queries, 6)[1])
    gradient = jax.grad(lambda q: jnp.sum(q) + search(arrays, q).scores.sum())(jnp.asarray(queries))
    np.testing.assert_array_equal(gradient, np.ones_like(queries))


def test_bfloat16_embeddings_are_scored_in_float32(mesh):
    embeddings, valid, queries = made(101, 3)
    queries += 2.0**-12  # lost if the queries were rounded to bfloat16
    found = exact.search(types.IndexArrays(jnp.asarray(embeddings, jnp.bfloat16), jnp.asarray(valid)), queries, 6, mesh)
    np.testing.assert_allclose(found.scores, by_sorting(embeddings, valid, queries, 6)[0], rtol=1e-6)


def test_shapes_that_do_not_fit_are_named(mesh):
    embeddings, valid, queries = made(11, 3)
    arrays = types.IndexArrays(embeddings, valid)
    with pytest.raises(errors.ConfigError, match=r'\(3, 12\).*\[batch, 13\]'):
        exact.search(arrays, queries[:, :12], 4, mesh)
    with pytest.raises(errors.ConfigError, match='top_k is 0'):
        exact.search(arrays, queries, 0, mesh)
    with pytest.raises(errors.ConfigError, match='chunk_rows is 0'):
        exact.search(arrays, queries, 4, mesh, chunk_rows=0)
    with pytest.raises(errors.ConfigError, match='0 index rows'):
        exact.search(types.IndexArrays(embeddings[:0], valid[:0]), queries, 4, mesh)


@pytest.mark.parametrize('rows, top_k, chunk_rows', [(101, 20, None), (101, 7, 17), (5, 9, None)])
def test_the_approximate_search_is_exact_off_a_tpu(mesh, rows, top_k, chunk_rows):
    embeddings, valid, queries = made(rows, 3)
    arrays = types.IndexArrays(jnp.asarray(embeddings), jnp.asarray(valid))
    found = exact.search_approximately(arrays, queries, top_k, mesh, 0.5, chunk_rows)
    scores, ids = by_sorting(embeddings, valid, queries, top_k)
    np.testing.assert_array_equal(found.scores, scores)
    np.testing.assert_array_equal(found.passage_ids, ids)


def test_the_approximate_search_refuses_what_the_exact_one_does(mesh):
    embeddings, valid, queries = made(11, 3)
    with pytest.raises(errors.ConfigError, match='top_k is -2'):
        exact.search_approximately(types.IndexArrays(embeddings, valid), queries, -2, mesh)
