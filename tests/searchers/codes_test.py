"""Search by codes against numpy: the scan's candidates and the final results, unpacked and by the kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import errors, partitioning, types
from atlas_jax.searchers import code as code_lib
from atlas_jax.searchers import codes, codes_kernel, in_graph
from atlas_jax.searchers.config import SearchConfig
from tests.searchers.code_test import rows_of
from tests.searchers.exact_test import by_sorting, made

MESH = partitioning.make_mesh(devices=jax.devices()[:1])
PLANES = (6, 3, 1)


def placed(words: np.ndarray, factors: np.ndarray, turn: np.ndarray, planes: tuple[int, ...], rows: int) -> types.Codes:
    """Codes of one device: words [n, bits] and factors [rows], padded."""
    groups = codes.device_groups(rows, MESH)
    words = np.pad(words, ((0, groups - len(words)), (0, 0)))
    factors = np.pad(factors, (0, 32 * groups - len(factors))).reshape(-1, 16).T
    return types.Codes(jnp.asarray(words), jnp.asarray(factors), jnp.asarray(turn), planes, rows)


def drawn(rows: int, seed: int = 0) -> tuple[types.Codes, np.ndarray]:
    """Random codes with whole and half numbers, factors among 0, 1 and 2, so that sums are exact; and their values [rows, 6] with factors.

    Rows with a factor of 0 have the value NaN.
    """
    generator = np.random.default_rng(seed)
    words = generator.integers(0, 2**32, (-(-rows // 32), sum(PLANES)), dtype=np.uint32)
    factors = generator.integers(0, 3, rows).astype(np.float32)
    bits = (words[:, None] >> np.arange(32, dtype=np.uint32)[:, None]).reshape(-1, sum(PLANES))[:rows] & 1
    values, column = np.zeros((rows, 6)), 0
    for plane, width in enumerate(PLANES):
        values[:, :width] += (2.0 * bits[:, column:column + width] - 1) * 2.0 ** (plane - 1)
        column += width
    return (placed(words, factors, np.eye(6, dtype=np.float32), PLANES, rows),
            np.where(factors[:, None] > 0, values * factors[:, None], np.nan))


@pytest.mark.parametrize('rows, candidates', [(40, 7), (40, 60), (2049, 5), (20_000, 9)])
def test_candidates_are_those_of_a_sort(rows, candidates, monkeypatch):
    monkeypatch.setattr(codes, '_CHUNK_BYTES', 4 * 3 * 32 * 128)  # chunks of 128 words, 3 queries: 20,000 rows are four chunks and a rest
    found, values = drawn(rows)
    queries = np.random.default_rng(1).integers(-4, 5, (3, 6)).astype(np.float32)
    estimates = np.nan_to_num(values @ queries.T, nan=-np.inf)  # [rows, 3]
    result = jax.jit(lambda q: codes.find_candidates(found, q, candidates, MESH))(queries)
    scores, ids = result.scores, result.passage_ids
    count = min(candidates, int(np.isfinite(estimates[:, 0]).sum()))
    expected = np.argsort(-estimates, axis=0, kind='stable')[:count].T
    np.testing.assert_array_equal(ids[:, :count], expected)
    np.testing.assert_array_equal(scores[:, :count], np.take_along_axis(estimates.T, expected, axis=1))
    assert not ids[:, count:].any() and (np.asarray(scores[:, count:]) == -np.inf).all() and scores.shape == (3, candidates)


@pytest.mark.parametrize('rows, candidates', [(40, 7), (2049, 300), (2100, 3)])
def test_the_kernel_finds_what_unpacking_finds(rows, candidates):
    found, _ = drawn(rows)
    # Columns of the kernel need not fill lanes where it is interpreted.
    weights = jnp.asarray(np.random.default_rng(2).integers(-4, 5, (3, 6)), jnp.bfloat16)
    unpacked = codes._by_unpacking(found.words, found.factors, weights, PLANES, candidates)
    by_kernel = codes._by_kernel(found.words, found.factors, weights, PLANES, candidates, interpret=True)
    np.testing.assert_array_equal(by_kernel[0], unpacked[0])
    there = np.isfinite(unpacked[0])
    np.testing.assert_array_equal(np.asarray(by_kernel[1])[there], np.asarray(unpacked[1])[there])


def test_the_kernel_takes_maxima_of_blocks_past_its_last_program(monkeypatch):
    monkeypatch.setattr(codes_kernel, '_GROUPS', 48)  # 128 words are two programs and two thirds of a third
    monkeypatch.setattr(codes_kernel, '_QUERIES', 16)
    found, values = drawn(4000)
    queries = np.random.default_rng(1).integers(-4, 5, (19, 6)).astype(np.float32)
    columns = codes.plane_columns(jnp.asarray(queries, jnp.bfloat16), PLANES)
    maxima = codes_kernel.block_maxima(found.words, found.factors, columns, interpret=True)
    estimates = np.full((19, 256 * 16), -np.inf)
    estimates[:, :4000] = np.nan_to_num(queries @ values.T, nan=-np.inf)
    np.testing.assert_array_equal(maxima, estimates.reshape(19, 256, 16).max(axis=2))


@pytest.mark.parametrize('metric', ['max_inner_product', 'cosine'])
def test_all_rows_as_candidates_are_exact_search(metric):
    embeddings, valid, queries = made(211, 3)
    code = code_lib.fit(code_lib.normalised(embeddings, metric), 10, 'variance')
    words, factors = code_lib.encode(code, code_lib.normalised(embeddings, metric))
    found = placed(words, np.where(valid, factors, 0), code.turn, code.planes, 211)
    arrays = types.IndexArrays(jnp.asarray(embeddings), jnp.asarray(valid))
    config = SearchConfig('codes', metric, rescore_candidates=211)
    by_codes, exactly = (in_graph.search(arrays, jnp.asarray(queries), 20, MESH, config, searcher=searcher, codes=found,
                                         excluded=jnp.asarray([[3, -1]] * 3)) for searcher in ('codes', 'exact'))
    if metric == 'max_inner_product':  # whole numbers; cosines that are equal may differ in their last digit
        np.testing.assert_array_equal(by_codes.passage_ids, exactly.passage_ids)
    np.testing.assert_allclose(by_codes.scores, exactly.scores, rtol=1e-6)


def test_candidates_are_scored_by_the_embeddings():
    embeddings, queries = rows_of(3000, 24), rows_of(8, 24, seed=5)
    code = code_lib.fit(embeddings, 48, 'variance')
    found = placed(*code_lib.encode(code, embeddings), code.turn, code.planes, 3000)
    arrays = types.IndexArrays(jnp.asarray(embeddings), jnp.ones(3000, bool))
    scores, ids = by_sorting(embeddings, np.ones(3000, bool), queries, 5)
    result = codes.search(found, arrays, jnp.asarray(queries), 5, MESH, candidates=200)
    np.testing.assert_array_equal(result.passage_ids, ids)
    np.testing.assert_allclose(result.scores, scores, rtol=1e-5)
    # More passages than candidates are requested: all of them are scored.
    assert np.isfinite(codes.search(found, arrays, jnp.asarray(queries), 50, MESH, candidates=1).scores).all()


def test_codes_of_other_rows_are_refused():
    found, _ = drawn(40)
    with pytest.raises(errors.ConfigError, match='codes of 40 rows do not fit an index of 41'):
        codes.search(found, types.IndexArrays(jnp.zeros((41, 6)), jnp.ones(41, bool)), jnp.zeros((2, 6)), 3, MESH)


@pytest.mark.parametrize('columns, count', [(128, 1), (1024, 2), (1024, 3), (1000, 2), (4096, 7)])
def test_two_levels_give_ties_to_the_lower_column(columns, count):
    scores = np.random.default_rng(columns).integers(-3, 4, (5, columns)).astype(np.float32)
    scores[2], scores[3, -1] = -np.inf, 9
    found, places = codes.top_columns(jnp.asarray(scores), count)
    expected = np.argsort(-scores, axis=1, kind='stable')[:, :count]
    np.testing.assert_array_equal(places, expected)
    np.testing.assert_array_equal(found, np.take_along_axis(scores, expected, axis=1))
