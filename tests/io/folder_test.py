"""Folders on a disk and in a bucket: the same calls, the same results."""

import pathlib

import pytest

from atlas_jax import errors
from atlas_jax.io.folder import Folder
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
