"""Search in int8 on one device, against a sort: few rows, principal components, and an int8 index."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import types
from atlas_jax.searchers import in_graph, int8
from atlas_jax.searchers.config import SearchConfig
from tests.searchers.exact_test import by_sorting, made
from tests.searchers.in_graph_test import MESH, arrays_of, cosines


def test_numbers_are_within_half_a_step():
    vectors = np.random.default_rng(0).standard_normal((13, 7)).astype(np.float32)
    vectors[4] = 0
    numbers, scales = int8.quantize(jnp.asarray(vectors))
    assert numbers.dtype == jnp.int8 and scales.dtype == jnp.float32 and not np.asarray(numbers)[4].any()
    assert (np.abs(np.asarray(numbers) * np.asarray(scales)[:, None] - vectors) <= 0.5001 * np.asarray(scales)[:, None]).all()


def test_a_copy_holds_turned_vectors_of_unit_length_for_cosine():
    vectors = np.random.default_rng(0).standard_normal((13, 6)).astype(np.float32)
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((6, 6)))[0].astype(np.float32)[:, :4]
    for metric, expected in (('max_inner_product', vectors), ('cosine', vectors / np.linalg.norm(vectors, axis=1, keepdims=True))):
        numbers, scales = int8.scan_form(jnp.asarray(vectors), jnp.asarray(rotation), metric)
        assert numbers.shape == (13, 4)
        step = np.asarray(scales)[:, None]
        assert (np.abs(np.asarray(numbers) * step - expected @ rotation) <= 0.51 * step).all()


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
