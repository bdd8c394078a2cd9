"""Atomic writes: the old or the new, never half of it; a full disk is the user's to mend."""

import errno
import os
import sys

import pytest

from atlas_jax import errors
from atlas_jax.io import atomic
from tests.testing import processes


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


def test_a_full_disk_inside_a_new_folder_names_the_folder(tmp_path):
    with pytest.raises(errors.DiskFullError, match='/out: the disk is full'), atomic.writing_folder(tmp_path / 'out') as folder, \
            atomic.writing(folder / 'weights'):
        raise ValueError('RESOURCE_EXHAUSTED: [OS error 28: ENOSPC No space left on device]')  # as TensorStore says it
    with pytest.raises(ValueError, match='of ours'), atomic.writing_folder(tmp_path / 'out'):
        raise ValueError('a mistake of ours')
    assert not list(tmp_path.iterdir())


def test_a_folder_on_a_full_disk_is_not_there(tmp_path):
    with pytest.raises(errors.DiskFullError, match='out: the disk is full'), atomic.writing_folder(tmp_path / 'out'):
        raise OSError(errno.ENOSPC, 'no space')
    assert not list(tmp_path.iterdir())


_FILE = 'with atomic.writing(sys.argv[1]) as file:\n file.write("half"); file.flush(); print("writing", flush=True); time.sleep(60)'
_FOLDER = ('with atomic.writing_folder(sys.argv[1]) as folder:\n (folder / "a").mkdir(); (folder / "a" / "b").write_text("half")\n '
           '(folder / "c").write_text("half"); print("writing", flush=True); time.sleep(60)')


@pytest.mark.parametrize('code', [_FILE, _FOLDER])
def test_what_a_killed_writer_left_goes_with_the_next_write_and_a_living_ones_stays(tmp_path, code):
    program = f'import sys, time\nfrom atlas_jax.io import atomic\n{code}'
    with processes.started([sys.executable, '-c', program, tmp_path / 'out']) as writer:  # the end of the block kills it
        assert writer.line() == 'writing\n'
        atomic.write_json(tmp_path / 'other', 1)
        assert len([name for name in os.listdir(tmp_path) if name.startswith('.out.tmp')]) == 1
    # Another name: whoever writes there next, cleans up.
    atomic.write_json(tmp_path / 'other', 2)
    assert os.listdir(tmp_path) == ['other']


def test_only_temporaries_of_ours_are_removed(tmp_path):
    (tmp_path / '.notes.tmp123').write_text('short number')
    (tmp_path / '.data.tmp123456789012').mkdir()
    (tmp_path / '.data.tmp123456789012' / 'mine').write_text('no lock file')
    (tmp_path / '.link.tmp123456789012').symlink_to(tmp_path / '.notes.tmp123')
    before = sorted(os.listdir(tmp_path))
    with atomic.writing_folder(tmp_path / 'out'):
        pass
    assert sorted(os.listdir(tmp_path)) == [*before, 'out']
    assert os.listdir(tmp_path / 'out') == []


def test_a_folder_without_a_lock_is_removed_if_it_is_empty(tmp_path):
    # Its writer died between two system calls.
    (tmp_path / '.out.tmp123456789012').mkdir()
    assert atomic.remove_abandoned(tmp_path) == set()
    assert not os.listdir(tmp_path)


def test_the_second_of_two_writers_of_a_folder_is_told_at_once(tmp_path):
    with atomic.writing_folder(tmp_path / 'out') as folder:
        (folder / 'part').write_text('first')
        with pytest.raises(errors.FolderExistsError, match='out: another process is writing it; wait'), \
                atomic.writing_folder(tmp_path / 'out'):
            raise AssertionError('the second writer began')
        with atomic.scratch_folder(tmp_path / 'out') as scratch:
            assert scratch != folder
    assert (tmp_path / 'out' / 'part').read_text() == 'first'


def test_a_folder_that_appeared_meanwhile_stays(tmp_path):
    with pytest.raises(errors.FolderExistsError, match='another process has written it meanwhile'), \
            atomic.writing_folder(tmp_path / 'out') as folder:
        (folder / 'part').write_text('second')
        (tmp_path / 'out').mkdir()
        (tmp_path / 'out' / 'part').write_text('first')
    assert (tmp_path / 'out' / 'part').read_text() == 'first'
    assert os.listdir(tmp_path) == ['out']


@pytest.mark.parametrize(('code', 'remedy'), [(errno.EIO, 'check the disk'), (errno.ESTALE, 'check the disk'), (errno.EMFILE, 'the disk'),
                                              (errno.EACCES, 'that you may use'), (errno.EROFS, 'that you may use')])
def test_a_failing_disk_is_one_line_that_names_the_file(tmp_path, code, remedy):
    (tmp_path / 'file').write_text('old')
    message = f'file: cannot be read or written .{os.strerror(code)}.; .*{remedy}'
    with pytest.raises(errors.StorageError, match=message), atomic.writing(tmp_path / 'file') as file:
        file.write('new')
        raise OSError(code, 'it fails')  # as write and fsync do, which name no file
    assert (tmp_path / 'file').read_text() == 'old'
    with pytest.raises(errors.StorageError, match='^other: cannot be read'), atomic.writing_folder(tmp_path / 'new'):
        raise OSError(code, 'it fails', 'other')
    assert os.listdir(tmp_path) == ['file']


def test_what_the_caller_understands_is_left_to_it():
    for code in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY):
        assert atomic.user_error('x', OSError(code, '')) is None


def test_a_disk_that_fails_while_it_is_tidied_hides_no_success(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.EIO, 'it fails')
    monkeypatch.setattr('pathlib.Path.unlink', fail)
    with atomic.writing(tmp_path / 'file') as file:
        file.write('new')
    assert (tmp_path / 'file').read_text() == 'new'
