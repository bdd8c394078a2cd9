import numpy as np
import pytest

from atlas_jax.apps.serving import projection


def test_distances_in_a_plane_are_kept():
    flat = np.random.default_rng(0).standard_normal((11, 2)) * [5, 1]
    turned = flat @ np.linalg.qr(np.random.default_rng(1).standard_normal((7, 7)))[0][:2]
    placed = projection.project(turned.astype(np.float32))
    distances = np.linalg.norm(flat[:, None] - flat, axis=-1)
    np.testing.assert_allclose(np.linalg.norm(placed[:, None] - placed, axis=-1) * distances.max(),
                               distances * np.linalg.norm(placed[:, None] - placed, axis=-1).max(), atol=1e-4)
    # The widest axis is the first, and mirrored data gives no mirrored map of the same data.
    assert placed[:, 0].std() > placed[:, 1].std() and np.abs(placed).max() == pytest.approx(1)
    np.testing.assert_array_equal(placed, projection.project(turned.astype(np.float32)))


@pytest.mark.parametrize('vectors', [np.ones((1, 3)), np.zeros((4, 3)), np.arange(6.).reshape(2, 3)])
def test_too_few_or_equal_vectors(vectors):
    assert np.isfinite(projection.project(vectors)).all() and projection.project(vectors).shape == (len(vectors), 2)
