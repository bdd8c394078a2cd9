"""Files of arrays are read as by numpy; damaged ones are refused in one line."""

import io
import os
import random
import struct
import zipfile

import numpy as np
import pytest

from atlas_jax.io import npz

ARRAYS = {'ids': np.arange(30).reshape(2, 3, 5), '0/logits': np.ones((2, 7), np.float32), 'name': np.array(['a', 'bc']),
          'scalar': np.array(3.5)}


def _written(compressed: bool = False, **arrays) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **(arrays or ARRAYS))
    return buffer.getvalue()


def _with_header(description: str, data: bytes = b'') -> bytes:
    """A file whose one entry announces what `description` says."""
    header = description.encode() + b'\n'
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('x.npy', b'\x93NUMPY\x01\0' + struct.pack('<H', len(header)) + header + data)
    return buffer.getvalue()


@pytest.mark.parametrize('compressed', [False, True])
def test_arrays_come_back(tmp_path, compressed):
    (tmp_path / 'x.npz').write_bytes(_written(compressed))
    found = npz.read(tmp_path / 'x.npz')
    assert set(found) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize('shape', ['(100000000000,)', '(-1, 2)', '(4611686018427387904, 4)', '(2,)', '("a",)', '5', '(1,' * 200])
@pytest.mark.parametrize('dtype', ["'<i8'", "'|O'", "'<U2147483647'", "'<i99'", "[('a', '<i4')]", '3'])
def test_headers_that_announce_anything_else_are_refused(tmp_path, shape, dtype):
    (tmp_path / 'x.npz').write_bytes(_with_header(f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}", b'\0' * 8))
    with pytest.raises(ValueError, match='not an npz file'):
        npz.read(tmp_path / 'x.npz')


@pytest.mark.parametrize('content', [
    b'', b'text', b'PK\x03\x04', _with_header('('), _with_header('{"descr": 1}'), _with_header('-' * 5000)])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / 'x.npz').write_bytes(content)
    with pytest.raises(ValueError, match='not an npz file') as caught:
        npz.read(tmp_path / 'x.npz')
    assert '\n' not in str(caught.value)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / 'x.npz', 'w', zipfile.ZIP_DEFLATED) as archive, archive.open('x.npy', 'w') as entry:
        for _ in range(300):
            entry.write(bytes(1 << 20))
    with pytest.raises(ValueError, match='unpacks to 314,572,800 bytes'):
        npz.read(tmp_path / 'x.npz')


def test_pipes_and_devices_are_refused(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    (tmp_path / 'zero').symlink_to('/dev/zero')
    for name in ('pipe', 'zero', '.'):
        with pytest.raises(ValueError, match='no regular file'):
            npz.read(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        npz.read(tmp_path / 'absent')


@pytest.mark.parametrize('compressed', [False, True])
def test_any_damage_is_one_error(tmp_path, compressed):
    whole, generator, refused = _written(compressed), random.Random(0), 0
    for number in range(400):
        content = bytearray(whole)
        if number % 4 == 0:
            content = content[:generator.randrange(len(content))]
        else:  # most of zipfile's errors come from the directory at the end
            content[generator.randrange(0 if number % 4 == 1 else len(content) * 2 // 3, len(content))] ^= 1 << generator.randrange(8)
        (tmp_path / 'x.npz').write_bytes(content)
        try:
            npz.read(tmp_path / 'x.npz')
        except ValueError as error:
            assert '\n' not in str(error)
            refused += 1
    assert refused > 200
