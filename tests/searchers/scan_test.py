"""The parts of a scan: the two-level top-k, the sort of candidates and scoring them again, against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import errors, partitioning, types
from atlas_jax.searchers import exact, scan
from tests.searchers.exact_test import by_sorting, made

MESH = partitioning.make_mesh(devices=jax.devices()[:1])


# Blocks of 64 rows; two levels from 4 blocks a candidate on. 331 rows leave 11 behind the last block.
@pytest.mark.parametrize('rows, top_k', [(7, 3), (331, 1), (331, 2), (1031, 4), (1024, 4)])
def test_two_levels_give_ties_to_the_lower_row(rows, top_k):
    scores = np.random.default_rng(rows).integers(-2, 3, (rows, 5)).astype(np.float32)
    scores[:, 2], scores[-1, 3] = -np.inf, 9  # nothing valid; the best is the very last
    found, places = scan.stable_top_k(jnp.asarray(scores), top_k)
    expected = np.argsort(-scores, axis=0, kind='stable')[:top_k].T
    np.testing.assert_array_equal(places, expected)
    np.testing.assert_array_equal(found, np.take_along_axis(scores.T, expected, axis=1))


def test_candidates_in_any_order_are_sorted():
    scores, ids = jnp.array([[1, -jnp.inf, 5, 5, 3]]), jnp.array([[4, 9, 8, 2, 0]])
    assert scan.best(scores, ids, 3).passage_ids.tolist() == [[2, 8, 0]]
    everything = scan.best(scores, ids, 5)
    assert everything.passage_ids.tolist() == [[2, 8, 0, 4, 0]] and everything.scores[0, -1] == -jnp.inf


def test_candidates_are_scored_again():
    embeddings, _, queries = made(23, 3)
    arrays = types.IndexArrays(jnp.asarray(embeddings), jnp.ones(23, bool))
    ids = np.array([[3, 0, 22, 7], [1, 5, 2, 0], [9, 8, 0, 0]], np.int32)
    given = np.where(np.arange(4) < np.array([[4], [3], [2]]), 1, -np.inf).astype(np.float32)
    found = scan.rescore(types.Retrieved(jnp.asarray(given), jnp.asarray(ids)), arrays, jnp.asarray(queries), 3, MESH,
                         exact.score('max_inner_product'))
    for row, count in enumerate((4, 3, 2)):
        chosen = np.isin(np.arange(23), ids[row, :count])
        scores, best = by_sorting(embeddings, chosen, queries[row:row + 1], 3)
        np.testing.assert_array_equal(found.scores[row], scores[0])
        np.testing.assert_array_equal(found.passage_ids[row], best[0])


def test_arguments_that_do_not_fit_are_named():
    arrays = types.IndexArrays(jnp.zeros((11, 5)), jnp.ones(11, bool))
    for queries, top_k, chunk_rows, message in ((jnp.zeros((2, 4)), 3, None, r'queries have shape \(2, 4\), the index needs \[batch, 5\]'),
                                                (jnp.zeros(5), 3, None, r'\[batch, 5\]'), (jnp.zeros((2, 5)), 0, None, 'top_k is 0'),
                                                (jnp.zeros((2, 5)), 3, -1, 'chunk_rows is -1')):
        with pytest.raises(errors.ConfigError, match=message):
            scan.check(arrays, queries, top_k, MESH, chunk_rows)
    scan.check(arrays, jnp.zeros((0, 5)), 20, MESH)
