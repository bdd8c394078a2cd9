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


def test_an_int8_index_alone_scores_what_it_holds():
    embeddings, valid, queries = made(211, 3, whole_numbers=False)
    values, scales = int8.quantize(jnp.asarray(embeddings))
    coarse = types.IndexArrays(values, jnp.asarray(valid), scales)
    held = np.asarray(coarse.embeddings, np.float32) * np.asarray(coarse.scales)[:, None]
    assert np.abs(held - embeddings).max() <= np.abs(embeddings).max() / 254 * 1.001
    for config in (SearchConfig('int8', overfetch=8), SearchConfig('exact')):
        found = in_graph.search(coarse, queries, 5, MESH, config)
        scores, ids = by_sorting(held, valid, queries, 5)
        np.testing.assert_array_equal(found.passage_ids, ids)
        np.testing.assert_allclose(found.scores, scores, rtol=1e-5)


@pytest.mark.parametrize('rows, batch, top_k', [(1, 1, 3), (5, 1, 20), (640, 2, 1)])
def test_int8_with_few_rows_one_query_or_a_zero_row(rows, batch, top_k):
    embeddings, valid, queries = made(rows, batch)
    embeddings[0] = 0
    arrays = arrays_of(embeddings, valid)
    found = int8.search(arrays, jnp.asarray(queries), top_k, MESH, 8, int8.scanned_rows(arrays, MESH))
    np.testing.assert_array_equal(found.scores, by_sorting(embeddings, valid, queries, top_k)[0])
    assert found.scores.shape == (batch, top_k)


@pytest.mark.parametrize('metric', ['max_inner_product', 'cosine'])
def test_principal_components_are_scanned_where_they_hold_enough(metric):
    generator = np.random.default_rng(0)
    spectrum = np.where(np.arange(384) < 200, 1, 0.02)  # 200 dimensions hold nearly all, two steps of 128
    turned = np.linalg.qr(generator.standard_normal((384, 384)))[0]
    embeddings, queries = ((generator.standard_normal((rows, 384)) * spectrum @ turned).astype(np.float32) for rows in (2000, 9))
    valid = generator.random(2000) < 0.9
    arrays = arrays_of(embeddings, valid)
    scanned = int8.scanned_rows(arrays, MESH, metric, 0.95)
    assert scanned.rows.embeddings.shape == (2000, 256) and scanned.rotation.shape == (384, 256)
    np.testing.assert_allclose(scanned.rotation.T @ scanned.rotation, np.eye(256), atol=1e-5)
    found = in_graph.search(arrays, jnp.asarray(queries), 7, MESH, SearchConfig('int8', metric, overfetch=4), scanned=scanned)
    scores, ids = by_sorting(*((embeddings, valid, queries, 7) if metric == 'max_inner_product' else (
        *cosines(embeddings, queries)[:1], valid, cosines(embeddings, queries)[1], 7)))
    np.testing.assert_array_equal(found.passage_ids, ids)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-5)
    again = int8.scanned_by(arrays, MESH, metric, scanned.rotation)
    jax.tree.map(np.testing.assert_array_equal, again, scanned)


def test_embeddings_without_principal_components_are_scanned_whole():
    generator = np.random.default_rng(0)
    arrays = arrays_of(generator.standard_normal((3000, 256)).astype(np.float32), np.ones(3000, bool))
    assert int8.scanned_rows(arrays, MESH, share=0.9).rotation is None
    assert int8.scanned_rows(arrays_of(np.zeros((30, 256), np.float32), np.ones(30, bool)), MESH, share=0.9).rotation is None


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
