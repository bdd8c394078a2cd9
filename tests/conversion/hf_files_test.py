"""Safetensors that are written tensor by tensor are read by the library."""

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from atlas_jax.conversion import hf_files

ARRAYS = {'a.weight': np.arange(6, dtype=np.float32).reshape(2, 3).T, 'scalar': np.float32(2.5).reshape(()),
          'empty': np.zeros((0, 3), np.float32), 'ü': np.float32([1, -2, 3])}


@pytest.mark.parametrize(('dtype', 'numpy_dtype'), [('float32', np.float32), ('float16', np.float16), ('bfloat16', ml_dtypes.bfloat16)])
def test_the_library_reads_it(tmp_path, dtype, numpy_dtype):
    path = tmp_path / 'new' / 'x.safetensors'
    hf_files.write_safetensors(path, [(name, array.shape) for name, array in ARRAYS.items()], ARRAYS.get, dtype)
    found = safetensors.numpy.load_file(path)
    assert set(found) == set(ARRAYS) and [file.name for file in path.parent.iterdir()] == ['x.safetensors']
    file = hf_files.SafetensorsFile(path)
    for name, array in ARRAYS.items():
        assert found[name].dtype == numpy_dtype and file.shape(name) == array.shape
        np.testing.assert_array_equal(found[name], array.astype(numpy_dtype))
        np.testing.assert_array_equal(file.read(name), array)
    with safetensors.safe_open(path, 'numpy') as opened:
        assert opened.metadata() == {'format': 'pt'}


def test_a_shape_other_than_announced_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match='announced as'):
        hf_files.write_safetensors(tmp_path / 'x', [('a.weight', (2, 3))], ARRAYS.get)
    assert not list(tmp_path.iterdir())
