"""Embeddings in the types they are stored in."""

import ml_dtypes
import numpy as np
import pytest

from atlas_jax.index import shards


def test_int8_is_within_half_a_step():
    sizes = np.geomspace(1e-6, 1e6, 23, dtype=np.float32)[:, None]
    embeddings = np.random.default_rng(0).standard_normal((23, 17)).astype(np.float32) * sizes
    embeddings[5] = 0
    values, scales = shards.encode(embeddings, 'int8')
    assert values.dtype == np.int8 and scales.dtype == np.float32 and scales[5] == 0
    np.testing.assert_allclose(scales, np.abs(embeddings).max(axis=1) / 127, rtol=1e-6)
    assert np.abs(np.delete(values, 5, axis=0)).max(axis=1).tolist() == [127] * 22
    assert (np.abs(shards.decode(values, scales) - embeddings) <= 0.5001 * scales[:, None]).all()


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_floats_are_rounded_to_their_type(dtype):
    embeddings = np.random.default_rng(0).standard_normal((5, 17)).astype(np.float32)
    values, scales = shards.encode(embeddings, dtype)
    assert scales is None and values.dtype == shards.DTYPES[dtype]
    expected = embeddings if dtype == 'float32' else embeddings.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(shards.decode(values, scales), expected)


@pytest.mark.parametrize('dtype', list(shards.DTYPES))
def test_no_rows(dtype):
    values, scales = shards.encode(np.zeros((0, 7), np.float32), dtype)
    assert shards.decode(values, scales).shape == (0, 7)
