"""Arrays on disk come back as written; missing and damaged chunks are noticed."""

import json

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
    with pytest.raises(ValueError, match='zarr.json: No such file'):
        arrays.open_array(Folder(tmp_path / 'a'))


@pytest.mark.parametrize('shape', [(7, 5), (0, 3), (11,)])
@pytest.mark.parametrize('dtype', [np.uint16, np.float32])
def test_aligned_zeros(shape, dtype):
    made = arrays.aligned(shape, dtype)
    assert made.shape == shape and made.dtype == dtype and not made.any()
    assert not made.size or made.ctypes.data % 64 == 0
    made[...] = 1
    assert made.all()


@pytest.mark.parametrize('change', [
    {'chunk_grid': {'name': 'regular', 'configuration': {'chunk_shape': [2**40, 5]}}}, {'chunk_grid': 5}, {'shape': [-1, 5]},
    {'shape': 'x'}, {'shape': [7, 5, 3]}, {'data_type': 'object9'}, {'data_type': []}, {'codecs': []}, {'codecs': 3},
    {'codecs': [{'name': 'bytes'}, {'name': 'crc32c'}, {'name': 'gzip', 'configuration': {'level': 1}}]},
    {'chunk_grid': {'name': 'regular', 'configuration': {'chunk_shape': [True, 5]}}}])
def test_a_forged_description_is_refused_before_it_is_opened(tmp_path, change):
    arrays.create(Folder(tmp_path / 'a'), (7, 5), 'float32', (3, 5)).write(np.ones((7, 5), np.float32)).result()
    path = tmp_path / 'a' / 'zarr.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match='describes no array of ours'):
        arrays.open_array(Folder(tmp_path / 'a'))


@pytest.mark.parametrize('content', [b'[' * 100_000, b'\xff', b'', b'3', None])
def test_a_description_that_is_none_is_refused(tmp_path, content):
    (tmp_path / 'a').mkdir()
    if content is not None:
        (tmp_path / 'a' / 'zarr.json').write_bytes(content)
    with pytest.raises(ValueError, match='.'):
        arrays.open_array(Folder(tmp_path / 'a'))
