"""The code of a row against numpy, bit by bit."""

import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.searchers import code as code_lib


def rows_of(count: int, dim: int, seed: int = 0) -> np.ndarray:
    """Rows [count, dim] float32 with a falling spectrum in a rotated space, and a mean that is not 0."""
    generator = np.random.default_rng(seed)
    turned = np.linalg.qr(generator.standard_normal((dim, dim)))[0]
    return (generator.standard_normal((count, dim)) / (1 + np.arange(dim) / 4) @ turned + generator.standard_normal(dim)).astype(np.float32)


def components_of(code: code_lib.Code, words: np.ndarray, count: int) -> np.ndarray:
    """Unpacks codes [count, components] from words with plain loops."""
    found = np.zeros((count, code.planes[0]))
    for row in range(count):
        column = 0
        for plane, width in enumerate(code.planes):
            for component in range(width):
                bit = int(words[row // 32, column]) >> (row % 32) & 1
                found[row, component] += (2 * bit - 1) * 2.0 ** (plane - 1)
                column += 1
    return found


def test_bits_go_where_they_reduce_the_error_most():
    variances = np.array([9, 4, 1, .01])
    assert code_lib._shared(1, variances, variances).tolist() == [1, 0, 0, 0]
    # Weighting by deviation spreads the bits more evenly than by variance.
    by_variance, by_deviation = (code_lib._shared(8, variances, weight) for weight in (variances, np.sqrt(variances)))
    assert by_variance.sum() == by_deviation.sum() == 8 and by_variance[0] > by_deviation[0] and by_deviation[2] > by_variance[2]
    assert code_lib._shared(24, variances, variances).tolist() == [6, 6, 6, 6]


@pytest.mark.parametrize('count', [1, 31, 65])
def test_words_hold_the_nearest_codes_and_factors_restore_the_length(count):
    code = code_lib.fit(rows_of(500, 11), 37, 'variance')
    vectors = rows_of(count, 11, seed=1)
    words, factors = code_lib.encode(code, vectors)
    assert code.bits == 37 and words.shape == (-(-count // 32), 37) and words.dtype == np.uint32 and factors.shape == (count,)
    rows = (vectors - code.mean) @ code.basis
    bits = (np.arange(code.planes[0])[:, None] < np.array(code.planes)).sum(axis=1)
    half = 2.0 ** (bits - 1)
    expected = np.clip(np.floor(rows / code.steps), -half, half - 1) + .5
    found = components_of(code, words, count)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(factors, (rows ** 2).sum(1) / (expected * code.steps * rows).sum(1), rtol=1e-4)
    unused = (1 << 32) - (1 << (count % 32)) if count % 32 else 0
    assert not (words[-1] & np.uint32(unused)).any()
    decoded = np.asarray(code_lib.decode(jnp.asarray(words), code.planes))
    np.testing.assert_array_equal(decoded[:, :count].T, expected)


def test_estimates_are_near_the_inner_products():
    vectors, queries = rows_of(3000, 16), rows_of(5, 16, seed=2)
    errors_by_bits = []
    for bits in (16, 64):
        code = code_lib.fit(vectors, bits, 'variance')
        words, factors = code_lib.encode(code, vectors)
        estimates = factors[:, None] * (np.asarray(code_lib.decode(jnp.asarray(words), code.planes))[:, :3000].T @ (queries @ code.turn).T)
        errors_by_bits.append(np.abs(estimates - (vectors - code.mean) @ queries.T).mean())
    assert errors_by_bits[1] < .15 * np.abs((vectors - vectors.mean(0)) @ queries.T).mean() and errors_by_bits[1] < .5 * errors_by_bits[0]


def test_a_row_at_the_mean_is_a_row_and_no_rows_are_none():
    code = code_lib.fit(rows_of(100, 8), 8, 'deviation')
    words, factors = code_lib.encode(code, code.mean[None])
    assert 0 < factors[0] < 1e-20 and words.shape == (1, 8)
    words, factors = code_lib.encode(code, np.zeros((0, 8), np.float32))
    assert words.shape == (0, 8) and factors.shape == (0,)


def test_rows_without_any_variance_are_encoded():
    code = code_lib.fit(np.ones((20, 4), np.float32), 8, 'variance')
    words, factors = code_lib.encode(code, np.ones((3, 4), np.float32))
    assert np.isfinite(factors).all() and words.shape == (1, 8)


def test_vectors_are_of_unit_length_for_cosine_alone():
    vectors = rows_of(3, 5)
    np.testing.assert_array_equal(code_lib.normalised(vectors, 'max_inner_product'), vectors)
    np.testing.assert_allclose(np.linalg.norm(code_lib.normalised(vectors, 'cosine'), axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize('rows, bits, message', [(7, 8, '7 passages are too few to fit a code of 8 numbers; it needs 8'),
                                                 (9, 0, '0 bytes a row'), (9, 56, '7 bytes a row .* choose from 1 to 6 bytes')])
def test_what_cannot_be_fitted_is_one_line(rows, bits, message):
    with pytest.raises(errors.ConfigError, match=message):
        code_lib.fit(rows_of(rows, 8), bits, 'variance')
