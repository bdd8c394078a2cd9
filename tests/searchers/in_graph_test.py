"""Approximate and int8 search, cosine and exclusions on one device, against a sort."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import errors, partitioning, types
from atlas_jax.searchers import exact, in_graph, int8
from atlas_jax.searchers.config import SearchConfig
from tests.searchers.exact_test import by_sorting, made

MESH = partitioning.make_mesh(devices=jax.devices()[:1])


def arrays_of(embeddings, valid):
    return types.IndexArrays(jnp.asarray(embeddings), jnp.asarray(valid))


def cosines(embeddings, queries):
    def unit(vectors):
        return vectors / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return unit(embeddings), unit(queries)


@pytest.mark.parametrize('metric', ['max_inner_product', 'cosine'])
def test_every_searcher_finds_the_best_valid_rows(metric):
    embeddings, valid, queries = made(211, 3, whole_numbers=False)
    excluded = np.array([[7, -1], [-1, -1], [3, 100]], np.int32)
    used = (embeddings, queries) if metric == 'max_inner_product' else cosines(embeddings, queries)
    expected = [by_sorting(used[0], valid & ~np.isin(np.arange(211), ids), used[1][row:row + 1], 6) for row, ids in enumerate(excluded)]
    arrays = arrays_of(embeddings, valid)
    for searcher in ('exact', 'approx', 'int8'):
        config = SearchConfig(searcher, metric, overfetch=4)
        scanned = int8.scanned_rows(arrays, MESH, metric) if searcher == 'int8' else None
        found = in_graph.search(arrays, queries, 6, MESH, config, scanned=scanned, excluded=jnp.asarray(excluded))
        np.testing.assert_array_equal(found.passage_ids, np.concatenate([ids for _, ids in expected]))
        np.testing.assert_allclose(found.scores, np.concatenate([scores for scores, _ in expected]), rtol=1e-5)


def test_everything_excluded_or_deleted_is_nothing_found():
    embeddings, _, queries = made(11, 2)
    arrays = arrays_of(embeddings, np.arange(11) < 2)
    found = in_graph.search(arrays, queries, 3, MESH, SearchConfig(), excluded=jnp.array([[0, 1], [1, -1]]))
    assert np.all(np.isinf(found.scores[0])) and np.all(np.asarray(found.passage_ids[0]) == 0)
    assert found.passage_ids[1].tolist() == [0, 0, 0] and np.isfinite(found.scores[1]).tolist() == [True, False, False]


def test_a_searcher_that_cannot_run_there_is_refused():
    embeddings, valid, queries = made(11, 2)
    with pytest.raises(errors.ConfigError, match='needs an index in int8'):
        in_graph.search(arrays_of(embeddings, valid), queries, 3, MESH, SearchConfig('int8'))
    with pytest.raises(errors.ConfigError, match='"bm25" runs on the host'):
        in_graph.search(arrays_of(embeddings, valid), queries, 3, MESH, SearchConfig('bm25'))


def test_bfloat16_and_float32_agree_on_the_best():
    embeddings, valid, queries = made(96, 3)
    found = exact.search(types.IndexArrays(jnp.asarray(embeddings, jnp.bfloat16), jnp.asarray(valid)), queries, 4, MESH, metric='cosine')
    expected = exact.search(arrays_of(embeddings, valid), queries, 4, MESH, metric='cosine')
    np.testing.assert_array_equal(found.passage_ids, expected.passage_ids)
