"""Arrays in folders and in a database: missing and forged ones are refused before TensorStore allocates memory."""

import json

import numpy as np
import pytest
import tensorstore as ts

from atlas_jax import errors
from atlas_jax.conversion import t5x_arrays

ARRAY = np.arange(12, dtype=np.float32).reshape(4, 3)
METADATA = {'zarr_format': 2, 'shape': [4, 3], 'chunks': [2, 3], 'dtype': '<f4', 'compressor': None, 'fill_value': None, 'filters': None,
            'order': 'C', 'dimension_separator': '.'}


@pytest.fixture(params=['folders', 'database'])
def write(tmp_path, request):
    """Writes files into the array `x` of a store: a dict of bytes by name."""
    base = {'driver': 'file', 'path': f'{tmp_path}/'}
    keys = ts.KvStore.open({'driver': 'ocdbt', 'base': base} if request.param == 'database' else base).result()

    def put(metadata=METADATA, missing=()):
        files = {f'{chunk}.0': ARRAY[2 * chunk:2 * chunk + 2].tobytes() for chunk in (0, 1)} | {'.zarray': json.dumps(metadata).encode()}
        for name, content in files.items():
            if name not in missing:
                keys.write(f'x/{name}', content).result()
        return t5x_arrays.Store(tmp_path)

    return put


def test_an_array_is_read_whole_or_by_layers(write):
    array = write().open('x', 'x')
    assert array.shape == (4, 3)
    np.testing.assert_array_equal(array.read(None), ARRAY)
    np.testing.assert_array_equal(array.read(slice(1, 3)), ARRAY[:, 1:3])


@pytest.mark.parametrize(('name', 'message'), [('1.0', 'chunk 1.0 of the array is missing'), ('.zarray', 'no .zarray in it')])
def test_what_is_missing_is_named(write, name, message):
    store = write(missing=[name])
    with pytest.raises(errors.ModelFolderError, match=message):
        store.open('the array', 'x')
    with pytest.raises(errors.ModelFolderError, match='no .zarray in it, though the checkpoint puts the array there'):
        store.open('the array', 'y')


@pytest.mark.parametrize(('change', 'message'), [
    ({'shape': [10**9, 3], 'chunks': [1, 1]}, r'(files|bytes) for the 3000000000 chunks'), ({'shape': [4, 2]}, 'expected .4, 3. by'),
    ({'chunks': [2**40, 3]}, 'describe no array'), ({'chunks': [2**39, 3]}, 'larger than any T5'), ({'dtype': '<i4'}, 'array of floating'),
    ({'filters': [{'id': 'x'}]}, 'a compressor, order'), ({'chunks': [2]}, 'describe no array')])
def test_forged_metadata(write, change, message):
    announced = None if change.get('shape', [0])[0] > 4 else [4, 3]
    with pytest.raises(errors.ModelFolderError, match=message):
        write(METADATA | change).open('x', 'x', announced)


def test_integers_are_read_where_they_are_asked_for(write):
    store = write(METADATA | {'dtype': '<i4'})
    assert store.open('x', 'x', integers=True).read(None).dtype == np.int32
    with pytest.raises(errors.ModelFolderError, match='describe no array of integers'):
        write().open('x', 'x', integers=True)


def test_a_chunk_that_is_too_short_is_refused_when_it_is_read(write):
    array = write(METADATA | {'chunks': [4, 3]}).open('x', 'x')
    with pytest.raises(errors.ModelFolderError, match='not a whole zarr array'):
        array.read(None)
