"""Slices and meshes: a mistake is one line that names the side or axis, before anything is compiled."""

import pytest

from atlas_jax import errors
from atlas_jax.apps.planning import slices


def test_chips_of_a_slice():
    assert slices.parse('v4:4x4x4').chips == 64 and slices.parse('v4:2x2x3').sides == (2, 2, 3)
    assert slices.parse('v6e:8x16').sides == (8, 16) and slices.parse('v6e:8x16').host.name == 'v6e:2x2'
    assert slices.parse('v5p:4x4x8').host.name == 'v5p:2x2x1'
    assert [slices.parse(name).chips for name in slices.SMALLEST_FIRST] == [4, 8, 16, 32, 64, 128, 256, 512]


@pytest.mark.parametrize('name, words', [('v9:4x4x4', r'"v9:4x4x4" is unknown; write a generation'),
                                         ('v4:4x4', '2 sides; v4 has 3: write v4:AxBxC'),
                                         ('v5e:4x4x4', '3 sides; v5e has 2: write v5e:AxB'), ('v6e', 'unknown'), ('v6e:', 'unknown'),
                                         ('v5p:4x4x99999', 'unknown'),
                                         ('0xv4:2x2x1', 'unknown'), ('v4:2x2x1*2', 'unknown; .* 2xv4:4x4x4 means two slices'),
                                         ('v4:3x2x2', 'side A is 3, not a multiple of the 2 chips'), ('v4:2x2x0', 'side C is 0')])
def test_unknown_slices_are_refused(name, words):
    with pytest.raises(errors.ConfigError, match=words):
        slices.parse(name)


def test_several_slices():
    two = slices.parse('2xv4:2x2x3')
    assert (two.count, two.chips, two.sides, two.topology, two.host.name) == (2, 24, (2, 2, 3), 'v4:2x2x3', 'v4:2x2x1')
    assert slices.parse('12xv6e:4x8').chips == 12 * 32 and slices.parse('1xv4:2x2x3') == slices.parse('v4:2x2x3')
    assert slices.check_mesh(None, two) == (2, 12, 1) and slices.check_mesh((4, 3, 2), two) == (4, 3, 2)
    with pytest.raises(errors.ConfigError, match='axis data is 1, not a multiple of the 2 slices of 2xv4:2x2x3; fsdp and model lie'):
        slices.check_mesh((1, 24, 1), two)


def test_meshes():
    slice_ = slices.parse('v4:2x2x3')
    assert slices.check_mesh(None, slice_) == (1, 12, 1)
    assert slices.check_mesh((2, 3, 2), slice_) == (2, 3, 2)


@pytest.mark.parametrize('shape, words', [((1, 5, 1), 'axis fsdp is 5, which does not divide the 12 chips'),
                                          ((2, 1, 4), 'axis model is 4, which does not divide the 6 chips'),
                                          ((12, 1), 'has 2 sizes; it needs three: data, fsdp, model'),
                                          ((1, 3, 2), r'uses 6 of the 12 chips .*take \(1, 6, 2\)')])
def test_a_mesh_that_does_not_divide_names_the_axis(shape, words):
    with pytest.raises(errors.ConfigError, match=words):
        slices.check_mesh(shape, slices.parse('v4:2x2x3'))
