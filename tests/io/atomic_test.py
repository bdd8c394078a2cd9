"""Atomic writes: the old or the new, never half of it; a full disk is the user's to mend."""

import errno

import pytest

from atlas_jax import errors
from atlas_jax.io import atomic, checksum


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


def test_checksum_reads_all_of_a_file(tmp_path):
    (tmp_path / 'file').write_bytes(b'abc' * 700_000)
    other = tmp_path / 'other'
    other.write_bytes(b'abc' * 699_999 + b'abd')
    assert len(checksum.sha256_file(other)) == 64 and checksum.sha256_file(other) != checksum.sha256_file(tmp_path / 'file')
