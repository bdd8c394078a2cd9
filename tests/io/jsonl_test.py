"""JSON lines are read, and each mistake gets a message of one line."""

import gzip
import json
import os

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_jax import errors
from atlas_jax.io import jsonl
from atlas_jax.io.folder import Folder
from tests.testing import bucket


def _file(tmp_path, content: bytes):
    path = tmp_path / 'rows.jsonl'
    path.write_bytes(content)
    return path


def test_rows_come_with_their_line_numbers(tmp_path):
    path = _file(tmp_path, '\ufeff{"a": 1}\n\n  \n{"a": "é"}\r\n'.encode())
    assert list(jsonl.read(path, ['a'])) == [(1, {'a': 1}), (4, {'a': 'é'})]


@pytest.mark.parametrize('content, message', [
    (b'{"a": 1}\n{"a": 1\n', r'rows\.jsonl:2: broken JSON'), (b'[1]\n', 'expected a JSON object, found list'),
    (b'{"b": 1}\n', r'rows\.jsonl:1, field "a": missing; fields found: b'), (b' \n\n', 'the file is empty'),
    (b'{"a": "\xff"}\n', 'not UTF-8'),
])
def test_mistakes_name_file_line_and_field(tmp_path, content, message):
    with pytest.raises(errors.InputFileError, match=message) as caught:
        list(jsonl.read(_file(tmp_path, content), ['a']))
    assert '\n' not in str(caught.value)


def test_no_such_file(tmp_path):
    with pytest.raises(errors.InputFileError, match='no such file'):
        list(jsonl.read(tmp_path / 'nowhere.jsonl'))


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = _file(tmp_path, b'{"a": 1}\n')

    def rows():
        yield {'a': 2}
        raise RuntimeError('half way')

    with pytest.raises(RuntimeError):
        jsonl.write(path, rows())
    assert path.read_bytes() == b'{"a": 1}\n' and len(list(tmp_path.iterdir())) == 1
    jsonl.write(path, [{'a': 'ü'}])
    assert list(jsonl.read(path)) == [(1, {'a': 'ü'})]


VALUES = st.one_of(st.none(), st.integers(), st.text(st.characters(exclude_categories=['Cs'])))
ROWS = st.lists(st.dictionaries(st.text(max_size=3), VALUES), min_size=1, max_size=5)


@settings(deadline=None)
@given(ROWS)
def test_any_rows_come_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp('rows') / 'rows.jsonl'
    rows = json.loads(json.dumps(rows))
    jsonl.write(path, rows)
    assert list(jsonl.read(path)) == list(enumerate(rows, start=1))


@pytest.mark.parametrize('line', [b'[' * 100_000, b'{"a": ' + b'1' * 5_000 + b'}', b'{"a": "\xff"}', b'{"a": NaN'])
def test_a_hostile_line_is_named(tmp_path, line):
    with pytest.raises(errors.InputFileError, match=r'rows\.jsonl:3: (broken JSON|not UTF-8)'):
        list(jsonl.read(_file(tmp_path, b'{"a": 1}\n\n' + line + b'\n{"a": 2}\n')))


def test_pipes_devices_and_endless_lines_are_refused(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    (tmp_path / 'zero').symlink_to('/dev/zero')
    with open(tmp_path / 'holes', 'wb') as file:
        file.truncate(1 << 38)
    for name, problem in (('pipe', 'no regular file'), ('zero', 'no regular file'), ('holes', ':1: more than 67,108,864 bytes')):
        with pytest.raises(errors.InputFileError, match=problem):
            list(jsonl.read(tmp_path / name))


def test_lines_of_a_bucket_are_read_and_named_by_its_path(monkeypatch):
    with bucket.serving(monkeypatch):
        Folder('gs://some-bucket/deep').write('a.jsonl', b'{"a": 1}\n\n{"a": 2}\n[]\n')
        rows = jsonl.read('gs://some-bucket/deep/a.jsonl')
        assert [next(rows), next(rows)] == [(1, {'a': 1}), (3, {'a': 2})]
        with pytest.raises(errors.InputFileError, match='^gs://some-bucket/deep/a.jsonl:4: expected a JSON object'):
            next(rows)
        with pytest.raises(errors.InputFileError, match='^gs://some-bucket/none.jsonl: no such file'):
            next(jsonl.read('gs://some-bucket/none.jsonl'))
        with pytest.raises(errors.StorageError, match='^gs://B: '):
            next(jsonl.read('gs://B/a.jsonl'))


def test_compressed_files_are_read_and_cut_ones_told(tmp_path):
    packed = gzip.compress(b'{"a": 1}\n' * 99)
    (tmp_path / 'rows.jsonl.gz').write_bytes(packed)
    assert [number for number, _ in jsonl.read(tmp_path / 'rows.jsonl.gz')] == list(range(1, 100))
    (tmp_path / 'rows.jsonl.gz').write_bytes(packed[:-5])
    with pytest.raises(errors.InputFileError, match='rows.jsonl.gz: truncated or damaged gzip file'):
        list(jsonl.read(tmp_path / 'rows.jsonl.gz'))


def test_a_small_file_of_one_endless_line_is_refused(tmp_path):
    with pyarrow.CompressedOutputStream(str(tmp_path / 'bomb.jsonl.zst'), 'zstd') as file:
        for _ in range(70):
            file.write(b'a' * (1 << 20))
    with pytest.raises(errors.InputFileError, match='bomb.jsonl.zst:1: more than 67,108,864 bytes'):
        list(jsonl.read(tmp_path / 'bomb.jsonl.zst'))


def test_each_line_is_a_row_or_its_error(tmp_path):
    found = list(jsonl.read_each(_file(tmp_path, b'{"a": 1}\n{"a"\n{"b": 2}\n{"a": 3}\n'), ['a']))
    assert [number for number, _ in found] == [1, 2, 3, 4] and [row for _, row in found[::3]] == [{'a': 1}, {'a': 3}]
    assert [str(error).split(': ', 1)[0][-len('rows.jsonl:2'):] for _, error in found[1:2]] == ['rows.jsonl:2']
    assert isinstance(found[2][1], errors.InputFileError) and found[2][1].field == 'a'
