"""Meshes over several slices, pretended on fake devices: slices lie on `data`, and what does not fit is one line."""

import pytest

from atlas_jax import errors, partitioning


@pytest.fixture
def in_slices(monkeypatch):
    """Pretends that devices lie in slices by their number; every other device is in the same slice, so order alone gives none of them."""
    def pretend(slice_of):
        monkeypatch.setattr(partitioning, '_slice_of', lambda device: slice_of(device.id))

    return pretend


@pytest.mark.parametrize('shape', [None, (2, 2, 2), (4, 1, 2), (8, 1, 1)])
def test_slices_lie_on_data(in_slices, shape):
    in_slices(lambda number: number % 2)
    mesh = partitioning.make_mesh(shape)
    assert mesh.devices.shape == (shape or (2, 4, 1)) and mesh.axis_names == partitioning.MESH_AXES
    half = mesh.devices.shape[0] // 2
    for number, part in enumerate((mesh.devices[:half], mesh.devices[half:])):
        assert {device.id % 2 for device in part.flat} == {number}
    assert {device.id for device in mesh.devices.flat} == set(range(8))


def test_one_slice_is_as_before(in_slices):
    before = partitioning.make_mesh((2, 2, 2))
    in_slices(lambda number: 3)
    assert partitioning.make_mesh((2, 2, 2)) == before
    assert before.devices.shape == (2, 2, 2) and {device.id for device in before.devices.flat} == set(range(8))


@pytest.mark.parametrize('shape, slice_of, words', [
    ((1, 8, 1), lambda number: number % 2, r'mesh shape \(1, 8, 1\) .* data is 1, and there are 2 slices; choose a multiple of 2'),
    ((3, 1, 2), lambda number: number % 2, 'needs 6 devices, but there are 8'),
    (None, lambda number: number // 5, 'the 2 slices have 5, 3 devices; a mesh needs slices of one size')])
def test_a_mesh_that_does_not_fit_the_slices_is_refused(in_slices, shape, slice_of, words):
    in_slices(slice_of)
    with pytest.raises(errors.ConfigError, match=words) as caught:
        partitioning.make_mesh(shape)
    assert '\n' not in str(caught.value)
