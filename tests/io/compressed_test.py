"""Compressed files are recognised by their first bytes and unpacked; a truncated one is one clear error."""

import bz2
import gzip
import os
import pathlib

import pyarrow
import pytest

from atlas_jax import errors
from atlas_jax.io import compressed

CONTENT = b''.join(b'line %d of a file\n' % number for number in range(9000))


def _zstd(content: bytes) -> bytes:
    return pyarrow.Codec('zstd').compress(content, asbytes=True)


PACKED = {'.gz': gzip.compress, '.bz2': bz2.compress, '.zst': _zstd}


def _read(path, *part):
    with compressed.reading(path, *part) as file:
        return file.read()


@pytest.mark.parametrize('suffix', PACKED)
def test_the_content_is_read_whatever_the_name_and_the_number_of_members(tmp_path, suffix):
    packed = PACKED[suffix](CONTENT) + PACKED[suffix](b'more')
    for name in (f'rows.jsonl{suffix}', 'rows.jsonl'):
        (tmp_path / name).write_bytes(packed)
        assert _read(tmp_path / name) == CONTENT + b'more'
    assert compressed.plain_suffix(tmp_path / f'rows.JSONL{suffix}') == '.jsonl'
    (tmp_path / f'empty{suffix}').write_bytes(PACKED[suffix](b''))
    assert _read(tmp_path / f'empty{suffix}') == b''


@pytest.mark.parametrize('suffix', PACKED)
@pytest.mark.parametrize('kept', [.3, .999])
def test_a_truncated_file_is_one_error_that_names_it(tmp_path, suffix, kept):
    packed = PACKED[suffix](CONTENT)
    path = tmp_path / f'rows{suffix}'
    path.write_bytes(packed[:int(kept * len(packed))])
    with pytest.raises(errors.InputFileError, match=rf'rows\{suffix}: truncated or damaged .* file .*; download or copy it again'):
        _read(path)


def test_a_damaged_file_and_one_of_another_format_are_told(tmp_path):
    packed = bytearray(gzip.compress(CONTENT))
    packed[-8] ^= 1  # a bit of the checksum
    (tmp_path / 'a.gz').write_bytes(packed)
    (tmp_path / 'b.gz').write_bytes(CONTENT)
    with pytest.raises(errors.InputFileError, match='a.gz: truncated or damaged gzip'):
        _read(tmp_path / 'a.gz')
    with pytest.raises(errors.InputFileError, match='b.gz: its name says gzip, its content does not'):
        _read(tmp_path / 'b.gz')


def test_parts_are_read_alone_and_bytes_are_counted(tmp_path):
    path, first, second = tmp_path / 'blocks.bz2', bz2.compress(b'first\n'), bz2.compress(b'second\n')
    path.write_bytes(first + second)
    before = compressed.bytes_read()
    assert _read(path, len(first)) == b'second\n' and _read(path, 0, len(first)) == b'first\n'
    assert compressed.bytes_read() - before == len(first + second)
    plain = tmp_path / 'plain'
    plain.write_bytes(CONTENT)
    assert _read(plain, 5, 25) == CONTENT[5:25] and _read(plain, 10**9) == b''


def test_a_bomb_is_not_unpacked_at_once(tmp_path):
    path = tmp_path / 'bomb.zst'
    with pyarrow.CompressedOutputStream(str(path), 'zstd') as file:
        for _ in range(1 << 12):
            file.write(bytes(1 << 20))  # 4 GiB in all
    with compressed.reading(path) as file:
        assert len(file.readline(1 << 22)) == 1 << 22


@pytest.mark.parametrize('make, message', [(lambda path: None, 'no such file'), (pathlib.Path.mkdir, 'no regular file'),
                                           (os.mkfifo, 'no regular file')])
def test_only_files_are_read(tmp_path, make, message):
    make(tmp_path / 'x.gz')
    with pytest.raises(errors.InputFileError, match=f'x.gz: {message}'):
        _read(tmp_path / 'x.gz')
