"""Atomic writes: the old or the new, never half of it; a full disk is the user's to mend."""

import errno

import pytest

from atlas_jax import errors
from atlas_jax.io import atomic


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), atomic.writing_folder(tmp_path / 'out') as folder:
        (folder / 'part').write_text('x')
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with atomic.writing_folder(tmp_path / 'out') as folder:
        (folder / 'part').write_text('x')
    assert (tmp_path / 'out' / 'part').read_text() == 'x'


@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line_that_names_the_file(tmp_path, code):
    (tmp_path / 'file').write_text('old')
    with pytest.raises(errors.DiskFullError, match='file: the disk is full'), atomic.writing(tmp_path / 'file'):
        raise OSError(code, 'no space')
    assert (tmp_path / 'file').read_text() == 'old'


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(PermissionError), atomic.writing(tmp_path / 'file'):
        raise PermissionError


def test_json_is_replaced_whole_or_not_at_all(tmp_path):
    atomic.write_json(tmp_path / 'new' / 'facts.json', {'name': 'Zürich', 'rows': 3})
    written = (tmp_path / 'new' / 'facts.json').read_text(encoding='utf-8')
    assert written == '{\n "name": "Zürich",\n "rows": 3\n}\n'
    with pytest.raises(TypeError):
        atomic.write_json(tmp_path / 'new' / 'facts.json', {'rows': {1, 2}})
    assert (tmp_path / 'new' / 'facts.json').read_text(encoding='utf-8') == written
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['facts.json']


def test_bytes_are_written_as_they_are(tmp_path):
    with atomic.writing(tmp_path / 'file', 'wb') as file:
        file.write(b'\r\n\xff')
    assert (tmp_path / 'file').read_bytes() == b'\r\n\xff'


def test_a_folder_on_a_full_disk_is_not_there(tmp_path):
    with pytest.raises(errors.DiskFullError, match='out: the disk is full'), atomic.writing_folder(tmp_path / 'out'):
        raise OSError(errno.ENOSPC, 'no space')
    assert not list(tmp_path.iterdir())
