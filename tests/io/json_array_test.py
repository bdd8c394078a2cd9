import gzip
import json
import pathlib

import pytest

from atlas_jax import errors
from atlas_jax.io import json_array


def written(folder: pathlib.Path, content: str | bytes) -> pathlib.Path:
    """A file of that content."""
    path = folder / 'file.json'
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_elements_of_any_size_and_spacing(tmp_path):
    # Elements below and above a chunk, escapes and brackets inside texts, characters of several bytes on the chunks' borders.
    values = [{'n': number, 't': '∂]"\\{ ' * (number * 31 % 1009), 'x': [{'y': None}, 1.5]} for number in range(301)]
    values[151] = {'long': 'ß\u2028' * 1_300_000}
    for text in (json.dumps(values), json.dumps(values, indent=1, ensure_ascii=False)):
        assert [element for _, element in json_array.elements(written(tmp_path, text))] == values
    path = written(tmp_path, '\r\n[ {"a": 1}\t,\n[2] , "b", -3 ]\n')
    assert list(json_array.elements(path)) == [(0, {'a': 1}), (1, [2]), (2, 'b'), (3, -3)]


def test_the_array_of_a_member(tmp_path):
    path = written(tmp_path, '{"version": "Data\\": [", "n": 1.5, "ok": true, "Data": [{"a": [1]}, {}], "Domain": "x"}')
    assert list(json_array.elements(path, 'Data')) == [(0, {'a': [1]}), (1, {})]
    assert json_array.opening(path, ('data', 'Data')) == ('member', {'a'}, 'Data')
    with pytest.raises(errors.InputFileError, match='does not begin with a JSON array'):
        list(json_array.elements(path))


def test_how_a_file_begins(tmp_path):
    for text, expected in (('[{"a": 1, "b": [{"c": 2}]}]', ('array', {'a', 'b'}, '')), ('[1]', ('array', set(), '')),
                           ('{"x": {"y": 1}}\n{"z": 2}\n', ('lines', {'x'}, '')), (b'\xef\xbb\xbf [{"a": 1}]', ('array', {'a'}, '')),
                           ('{"data": [], "x": 1}', ('lines', {'data', 'x'}, ''))):
        assert json_array.opening(written(tmp_path, text), ('Data',)) == expected
    packed = tmp_path / 'file.json.gz'
    packed.write_bytes(gzip.compress(b'[{"a": 1}]'))
    assert json_array.opening(packed).fields == {'a'} and list(json_array.elements(packed)) == [(0, {'a': 1})]


@pytest.mark.parametrize(('content', 'said'), [
    ('', 'does not begin with'), ('3', 'does not begin with'), ('{"Data": 3}', 'does not begin with'), ('[]', 'the array is empty'),
    ('[{"a": 1}', 'truncated: it ends inside the array, after 1 elements'), ('[{"a": 1},', 'truncated: it ends inside the array'),
    ('[{"a": 1}, {"a"', 'broken or truncated JSON in element 1'), ('[{"a": 1} {"a": 2}]', 'before element 1: a comma too many or too few'),
    ('[{"a": 1},]', 'before element 1: a comma'), ('[,{"a": 1}]', 'before element 0: a comma'), (b'[{"a": "\xff"}]', 'not UTF-8'),
    ('[{"a": ' + '9' * 5000 + '}]', 'an integer of 5,000 digits'), ('[' * 100_000, 'nested too deep')], ids=lambda value: str(value)[:24])
def test_broken_files_are_told(tmp_path, content, said):
    with pytest.raises(errors.InputFileError, match=said) as raised:
        list(json_array.elements(written(tmp_path, content)))
    assert str(raised.value).startswith(f'{tmp_path / "file.json"}: ')


def test_a_small_file_of_an_endless_element_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(json_array, '_MAX_ELEMENT', 1 << 21)
    path = tmp_path / 'bomb.json.gz'
    path.write_bytes(gzip.compress(b'[{"a": "' + b'x' * (1 << 25) + b'"}]'))
    with pytest.raises(errors.InputFileError, match='broken JSON in element 0, or more than 2,097,152 characters'):
        list(json_array.elements(path))


def test_other_openings_are_told(tmp_path):
    for content, said in (('', 'the file is empty'), (' \n', 'the file is empty'), ('"text"', 'neither a JSON array nor a JSON object'),
                          ('a,b\n', 'neither a JSON array nor a JSON object')):
        with pytest.raises(errors.InputFileError, match=said):
            json_array.opening(written(tmp_path, content))
    with pytest.raises(errors.InputFileError, match='no such file'):
        json_array.opening(tmp_path / 'none.json')
