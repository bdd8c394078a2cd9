"""Arrays on disk: what is written comes back, and what is missing or damaged is noticed."""

import numpy as np
import pytest

from atlas_jax.io import arrays
from atlas_jax.io.folder import Folder


@pytest.mark.parametrize('dtype', [np.uint16, np.int32, np.float32, 'bfloat16', np.int8])
def test_arrays_come_back(tmp_path, dtype):
    dtype = np.dtype(dtype)
    values = np.arange(35).reshape(7, 5).astype(dtype)
    arrays.create(Folder(tmp_path / 'a'), values.shape, dtype, [3, 5]).write(values).result()
    opened = arrays.open_array(Folder(tmp_path / 'a'))
    assert opened.dtype.numpy_dtype == dtype and opened.shape == (7, 5)
    assert np.array_equal(opened.read().result(), values)


def test_an_array_that_is_there_is_kept(tmp_path):
    for part in range(2):
        array = arrays.create(Folder(tmp_path / 'a'), [6], np.int32, [3])
        array[3 * part:3 * part + 3].write(np.full(3, part + 1, np.int32)).result()
    assert arrays.open_array(Folder(tmp_path / 'a')).read().result().tolist() == [1, 1, 1, 2, 2, 2]
    with pytest.raises(ValueError, match='shape'):
        arrays.create(Folder(tmp_path / 'a'), [7], np.int32, [3])


def test_a_chunk_of_zeros_is_written_and_a_missing_one_is_an_error(tmp_path):
    arrays.create(Folder(tmp_path / 'a'), [6], np.int32, [3]).write(np.zeros(6, np.int32)).result()
    assert (tmp_path / 'a' / 'c' / '1').is_file()
    (tmp_path / 'a' / 'c' / '1').unlink()
    opened = arrays.open_array(Folder(tmp_path / 'a'))
    assert opened[:3].read().result().tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match='missing'):
        opened.read().result()


def test_a_flipped_bit_is_an_error(tmp_path):
    arrays.create(Folder(tmp_path / 'a'), [6], np.int32, [3]).write(np.arange(6, dtype=np.int32)).result()
    chunk = tmp_path / 'a' / 'c' / '0'
    content = bytearray(chunk.read_bytes())
    content[5] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(ValueError, match='DATA_LOSS'):
        arrays.open_array(Folder(tmp_path / 'a')).read().result()


def test_no_array(tmp_path):
    with pytest.raises(ValueError, match='NOT_FOUND'):
        arrays.open_array(Folder(tmp_path / 'a'))


@pytest.mark.parametrize('shape', [(7, 5), (0, 3), (11,)])
@pytest.mark.parametrize('dtype', [np.uint16, np.float32])
def test_aligned_zeros(shape, dtype):
    made = arrays.aligned(shape, dtype)
    assert made.shape == shape and made.dtype == dtype and not made.any()
    assert not made.size or made.ctypes.data % 64 == 0
    made[...] = 1
    assert made.all()
