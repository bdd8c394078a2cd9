"""The parts of a scan: the two-level top-k, the sort of candidates and scoring them again, against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import errors, partitioning, types
from atlas_jax.searchers import exact, scan
from tests.searchers.exact_test import by_sorting, made

MESH = partitioning.make_mesh(devices=jax.devices()[:1])


# Blocks of 64 rows, on a TPU of 128; two levels from 4 blocks a candidate on. 331 and 1,031 rows leave some behind the last block.
@pytest.mark.parametrize('rows, top_k, platform', [(7, 3, 'cpu'), (331, 1, 'cpu'), (331, 2, 'cpu'), (1031, 4, 'cpu'), (1024, 4, 'cpu'),
                                                   (331, 1, 'tpu'), (1031, 1, 'tpu'), (1031, 2, 'tpu'), (1024, 2, 'tpu')])
def test_two_levels_give_ties_to_the_lower_row(rows, top_k, platform, monkeypatch):
    monkeypatch.setattr(partitioning, 'platform', lambda: platform)
    scores = np.random.default_rng(rows).integers(-2, 3, (rows, 5)).astype(np.float32)
    scores[:, 2], scores[-1, 3] = -np.inf, 9  # nothing valid; the best is the last row
    found, places = scan.stable_top_k(jnp.asarray(scores), top_k)
    expected = np.argsort(-scores, axis=0, kind='stable')[:top_k].T
    np.testing.assert_array_equal(places, expected)
    np.testing.assert_array_equal(found, np.take_along_axis(scores.T, expected, axis=1))


@pytest.mark.parametrize('rows, batch, platform, chunk_rows', [
    (515_625, 64, 'cpu', 515_625), (2_062_500, 64, 'cpu', 8192), (515_625, 64, 'tpu', 262_144), (100_003, 64, 'tpu', 100_003),
    (515_625, 640, 'tpu', 26_112), (10**6, 10**6, 'tpu', 128)])
def test_rows_of_a_chunk(rows, batch, platform, chunk_rows, monkeypatch):
    monkeypatch.setattr(partitioning, 'platform', lambda: platform)
    assert scan._chunk_rows(rows, batch) == chunk_rows


def test_a_tpu_scans_in_chunks_as_a_cpu_does_at_once(monkeypatch):
    monkeypatch.setattr(partitioning, 'platform', lambda: 'tpu')
    monkeypatch.setattr(scan, '_TPU_SCORES_BYTES', 4 * 3 * 1024)  # 1,024 rows at a time
    embeddings, valid, queries = made(2300, 3)
    arrays = types.IndexArrays(jnp.asarray(embeddings), jnp.asarray(valid))
    for found in (exact.search(arrays, queries, 2, MESH), exact.search_approximately(arrays, queries, 2, MESH)):
        scores, best = by_sorting(embeddings, valid, queries, 2)
        np.testing.assert_array_equal(found.scores, scores)
        np.testing.assert_array_equal(found.passage_ids, best)


def test_a_tpu_scans_approximately_at_once(monkeypatch):
    monkeypatch.setattr(partitioning, 'platform', lambda: 'tpu')
    arrays = types.IndexArrays(jnp.zeros((10**6, 5)), jnp.ones(10**6, bool))

    def loops(search):
        text = str(jax.make_jaxpr(lambda arrays, queries: search(arrays, queries, 3, MESH).scores)(arrays, jnp.zeros((64, 5))))
        return 'while[' in text or 'scan[' in text

    assert loops(exact.search) and not loops(exact.search_approximately)


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


@pytest.mark.parametrize('rows, tiles', [(96, True), (95, False)])
def test_int8_rows_are_sliced_by_whole_tiles_on_a_tpu(rows, tiles, monkeypatch):
    monkeypatch.setattr(partitioning, 'platform', lambda: 'tpu')
    column = jnp.asarray(np.random.default_rng(0).integers(-127, 128, (rows, 5)), jnp.int8)
    taken = jax.jit(lambda start: scan._rows_from(column, start, 32))
    start = rows - 32  # a multiple of 32 where the rows are, as every start of a scan is
    np.testing.assert_array_equal(taken(start), column[start:])
    assert ('sizes = [1, 32, 5]' in taken.lower(start).as_text()) == tiles
