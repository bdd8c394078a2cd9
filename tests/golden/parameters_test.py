"""Names, shapes, axes and shardings of all parameters are those of the golden files."""

import json

import numpy as np
import pytest

from tests.golden import make


@pytest.mark.parametrize('size', make.SIZES)
def test_parameters_are_the_golden_ones(size):
    found, golden = make.parameters_of(size), json.loads(make.path_of(size).read_text(encoding='utf-8'))
    lines = [f'{name}: golden {golden.get(name)}, now {found.get(name)}' for name in sorted({*golden, *found})
             if golden.get(name) != found.get(name)]
    assert not lines, '\n'.join([*lines, 'If you mean it: python -m tests.golden.make, and look at the difference.'])


@pytest.mark.parametrize('size', make.SIZES)
def test_files_are_as_the_generator_writes_them(size):
    text = make.path_of(size).read_text(encoding='utf-8')
    assert make.text_of(json.loads(text)) == text


def test_the_largest_reader_is_split_over_all_64_devices():
    """At most a thousandth of its 11 billion parameters is whole on every device."""
    golden = json.loads(make.path_of('xxl').read_text(encoding='utf-8'))
    sizes = dict(zip(('data', 'fsdp', 'model'), make.MESH_SHAPE, strict=True))
    total = of_device = 0
    for name, values in golden.items():
        if name.startswith('reader/'):
            total += int(np.prod(values['shape']))
            of_device += int(np.prod(values['shape'])) // int(np.prod([sizes[axis] for axis in values['sharding'] if axis is not None]))
    assert total > 11e9 and of_device < 1.001 * total / 64
