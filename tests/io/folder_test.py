"""Folders on a disk and in a bucket: the same calls, the same results."""

import pathlib

import pytest

from atlas_jax import errors
from atlas_jax.io.folder import Folder, default_cache_dir, storage_errors
from tests.testing import bucket


@pytest.fixture(params=['disk', 'bucket'])
def folder(request, tmp_path, monkeypatch):
    """An empty folder of either kind."""
    monkeypatch.setenv('ATLAS_JAX_CACHE', str(tmp_path / 'cache'))
    with bucket.serving(monkeypatch):
        yield Folder(tmp_path / 'folder' if request.param == 'disk' else 'gs://some-bucket/below/folder/')


def test_files_come_back(folder):
    assert folder.sizes() == {} and folder.children() == set() and not folder.exists('a/b')
    with pytest.raises(FileNotFoundError):
        folder.read('a/b')
    for number in range(9):  # more than the emulator lists at a time
        folder.write(f'a/{number}', b'x' * (number + 1))
    (folder / 'a').write('.hidden', b'z')
    folder.write_json('facts.json', {'é': 1})
    assert folder.read('a/3') == b'xxxx' and folder.exists('a/3') and '"é"'.encode() in folder.read('facts.json')
    assert list(folder.sizes()) == [*(f'a/{number}' for number in range(9)), 'facts.json']
    assert set(folder.sizes().values()) <= {None, *range(1, 30)}
    assert folder.children() == {'a', 'facts.json'} and '.hidden' in (folder / 'a').children()
    assert folder.sha256('a/0') == '2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881'
    folder.remove('facts.json')
    folder.remove('a')
    folder.remove('nothing')
    assert folder.children() == set()
    assert (folder / 'a').name == 'a' and folder.name == 'folder' and str(folder / 'a') == f'{folder}/a'


def test_a_folder_is_made_when_the_block_ends_well(folder):
    with pytest.raises(ZeroDivisionError), folder.making('new') as made:
        made.write('x', b'1')
        raise ZeroDivisionError
    assert folder.children() == set()
    with folder.making('new') as made:
        made.write('deep/x', b'1')
        assert made.local is not None and not folder.exists('new/deep/x')
    assert folder.read('new/deep/x') == b'1'


def test_files_are_mapped(folder):
    folder.write('a', b'text')
    path = folder.mapped('a', folder.sha256('a'))
    assert isinstance(path, pathlib.Path) and path.read_bytes() == b'text'
    assert folder.mapped('a', folder.sha256('a')) == path
    if folder.local is None:
        with pytest.raises(errors.StorageError, match='contents differ'):
            folder.mapped('a', '0' * 64)


@pytest.mark.parametrize('path', ['gs://', 'gs:///x', 'gs://B/x', f'gs://{bucket.READ_ONLY}/x', 'gs://missing/x'])
def test_buckets_that_cannot_be_used(path, monkeypatch):
    with bucket.serving(monkeypatch), pytest.raises(errors.StorageError) as caught:
        Folder(path).write('a', b'1')
    assert '\n' not in str(caught.value) and path.rstrip('/') in str(caught.value)


@pytest.mark.parametrize(('text', 'kind'), [
    ('RESOURCE_EXHAUSTED: [OS error 28: ENOSPC No space left on device]', errors.DiskFullError),
    ('Error: Disk quota exceeded', errors.DiskFullError), ('PERMISSION_DENIED: no', errors.StorageError),
    ('UNAVAILABLE: later', errors.StorageError), ('DATA_LOSS: wrong crc', errors.StoreError), ('NOT_FOUND: gone', errors.StoreError)])
def test_tensorstores_errors_become_the_users(text, kind):
    with pytest.raises(kind) as caught, storage_errors(Folder('s'), errors.StoreError, 'mend it'):
        raise ValueError(f"{text}  [source locations='a.cc:1\nb.cc:2']")
    assert str(caught.value).startswith('s: ') and '\n' not in str(caught.value) and 'a.cc' not in str(caught.value)


def test_damage_without_an_error_of_its_own_is_one_of_the_storage():
    message = 's: cannot be read or written .DATA_LOSS: x.; check the name'
    with pytest.raises(errors.StorageError, match=message), storage_errors(Folder('s')):
        raise ValueError('DATA_LOSS: x')
    with pytest.raises(KeyError), storage_errors(Folder('s')):
        raise KeyError


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv('ATLAS_JAX_CACHE', str(tmp_path))
    assert default_cache_dir() == tmp_path
    monkeypatch.delenv('ATLAS_JAX_CACHE')
    monkeypatch.setattr(pathlib.Path, 'home', lambda: tmp_path / 'home')
    assert default_cache_dir() == tmp_path / 'home' / '.cache' / 'atlas_jax'


def test_names_of_folders():
    assert (Folder('a/b').path, Folder('a/b').local) == (pathlib.Path('a/b'), pathlib.Path('a/b'))
    bucket_folder = Folder('gs://some-bucket/x/')
    assert (bucket_folder.path, bucket_folder.local, str(bucket_folder / 'y')) == ('gs://some-bucket/x', None, 'gs://some-bucket/x/y')
    assert Folder(bucket_folder).path == bucket_folder.path
    found = bucket_folder.kvstore()
    assert (found['bucket'], found['path'], Folder('gs://b').kvstore()['path']) == ('some-bucket', 'x/', '')
