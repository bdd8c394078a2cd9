"""The writer's lock on a disk."""

import fcntl
import os
import stat

import pytest

from atlas_jax import errors
from atlas_jax.io import lock
from atlas_jax.io.folder import Folder


def writing(path):
    return lock.writing(Folder(path), 'store', errors.StoreError)


def test_second_writer_is_refused_until_the_first_is_done(tmp_path):
    with writing(tmp_path / 's'):
        with pytest.raises(errors.StoreError, match='s: another process is writing this store; wait until it has finished'), \
                writing(tmp_path / 's'):
            pass
        (tmp_path / 's' / 'file').write_text('x')
    with writing(tmp_path / 's'):
        pass
    assert sorted(os.listdir(tmp_path / 's')) == ['file', lock.FILE]


def test_a_folder_with_nothing_but_the_lock_goes_again(tmp_path):
    with writing(tmp_path / 'deep' / 's'):
        assert os.listdir(tmp_path / 'deep' / 's') == [lock.FILE]
    assert not (tmp_path / 'deep' / 's').exists()
    with pytest.raises(ZeroDivisionError), writing(tmp_path / 's'):
        raise ZeroDivisionError
    assert not (tmp_path / 's').exists()


def test_a_lock_file_that_was_removed_guards_nothing(tmp_path, monkeypatch):
    whole, calls = fcntl.flock, []

    def flock(descriptor, flags):
        whole(descriptor, flags)
        calls.append(descriptor)
        if len(calls) == 1:  # the writer before has just removed its empty folder's lock
            (tmp_path / 's' / lock.FILE).unlink()

    monkeypatch.setattr(lock.fcntl, 'flock', flock)
    with writing(tmp_path / 's'):
        assert len(calls) == 2 and (tmp_path / 's' / lock.FILE).is_file()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').write_text('x')
    with pytest.raises(errors.StoreError, match='file/s: cannot write there .Not a directory.; choose another folder'), \
            writing(tmp_path / 'file' / 's'):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(errors.StoreError, match='cannot write there .Permission denied'), writing(tmp_path / 's'):
        pass


def test_a_disk_that_cannot_lock(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(38, 'Function not implemented')

    monkeypatch.setattr(lock.fcntl, 'flock', flock)
    with pytest.raises(errors.StoreError, match='cannot be locked .Function not implemented.; choose a folder on a local disk'), \
            writing(tmp_path / 's'):
        pass


def test_a_lock_on_a_disk_needs_no_confirming(tmp_path):
    lock.confirm(Folder(tmp_path))
    with writing(tmp_path / 's'):
        lock.confirm(Folder(tmp_path / 's'))
