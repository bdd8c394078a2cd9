"""Folders on a disk and in a bucket: the same calls, the same results."""

import errno
import os
import pathlib
import socket

import pytest

from atlas_jax import errors
from atlas_jax.io import arrays
from atlas_jax.io import folder as folder_lib
from atlas_jax.io.folder import Folder, default_cache_dir, file_on_disk, storage_errors
from tests.testing import bucket, processes


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


def test_parts_sizes_and_paths_on_this_machine(folder):
    folder.write('a', b'0123456789')
    folder.write('deep/b', b'')
    assert b''.join(folder.pieces('a', 3, 10)) == b'3456789' and list(folder.pieces('a', 3, 5)) == [b'34']
    assert list(folder.pieces('deep/b', 0, 0)) == [] and folder.size('deep/b') == 0
    assert [folder.size('a', at_least=known) for known in (0, 9, 10)] == [10, 10, 10]
    for call in (lambda: list(folder.pieces('no', 0, 1)), lambda: folder.size('no'), lambda: folder.read_json('no')):
        with pytest.raises(FileNotFoundError):
            call()
    assert folder.is_folder() and (folder / 'deep').is_folder() and not (folder / 'no').is_folder()
    place = folder.on_disk()
    assert (place / 'a').read_bytes() == b'0123456789' and (place / 'deep' / 'b').read_bytes() == b'' and folder.on_disk() == place
    folder.write('a', b'anew')  # a copy is not remembered
    assert (folder.on_disk() / 'a').read_bytes() == b'anew'
    folder.write('a', b'0123456789')
    assert file_on_disk(f'{folder}/a').read_bytes() == b'0123456789'
    with pytest.raises(ValueError, match='Expecting value'):
        folder.read_json('deep/b')


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


@pytest.mark.parametrize('name', ['../victim', '..', '.', '', '/etc/passwd', 'a/../../b', 'a\0b', 'a\\b'])
def test_no_name_leads_out_of_a_folder(folder, name):
    for use in (folder.read, folder.exists, folder.sha256, folder.remove, lambda name: folder.write(name, b''), folder.__truediv__,
                lambda name: folder.write_json(name, 1), lambda name: folder.making(name).__enter__(),
                lambda name: folder.differs(name, 'x')):
        with pytest.raises(errors.StorageError, match='name') as caught:
            use(name)
        assert '\n' not in str(caught.value) and str(folder) in str(caught.value)


def test_copies_of_a_buckets_files_stay_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('ATLAS_JAX_CACHE', str(tmp_path / 'cache'))
    with bucket.serving(monkeypatch):
        folder = Folder('gs://some-bucket/x')
        folder.write('a', b'text')
        for sha256 in ('../../victim', '/victim', ''):
            with pytest.raises(errors.StorageError, match='name'):
                folder.mapped('a', sha256)


def test_links_that_lead_out_are_read_and_not_written(tmp_path):
    (tmp_path / 'victim').mkdir()
    (tmp_path / 'victim' / 'thesis').write_text('x')
    folder = Folder(tmp_path / 'folder')
    folder.write('shards/a', b'1')
    (tmp_path / 'folder' / 'link').symlink_to('../victim')
    (tmp_path / 'folder' / 'shards' / 'deep').symlink_to('../../victim')
    assert (folder / 'link').read('thesis') == b'x'
    assert folder.has_links() and (folder / 'link').has_links() and not Folder('no').has_links()
    for below in (folder / 'link', folder / 'shards' / 'deep'):
        for use in (lambda below: below.write('thesis', b'y'), lambda below: below.remove('thesis'), lambda below: below.require_own(),
                    lambda below: below.making('new').__enter__(), lambda below: arrays.create(below, [1], 'int8', [1])):
            with pytest.raises(errors.StorageError, match='leads out of the folder'):
                use(below)
    folder.remove('link')  # the link itself
    (folder / 'shards').remove('deep')
    assert folder.children() == {'shards'} and (tmp_path / 'victim' / 'thesis').read_text() == 'x'
    inner = tmp_path / 'folder' / 'inner'
    inner.symlink_to('shards')
    (folder / 'inner').write('b', b'2')
    assert folder.read('shards/b') == b'2', 'a link that stays inside'


def test_what_is_no_regular_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    (tmp_path / 'nowhere').symlink_to('absent')
    folder = Folder(tmp_path)
    for use in (folder.read, folder.sha256, lambda name: folder.mapped(name, '')):
        with pytest.raises(OSError, match='no regular file'):  # and it does not wait for a writer
            use('pipe')
    assert folder.sizes() == {} and not folder.exists('pipe') and 'no regular file' in folder.differs('pipe', 'x')


@pytest.mark.parametrize('number', [errno.EIO, errno.EACCES, errno.ESTALE, errno.EMFILE])
def test_a_disk_that_fails_is_one_line(tmp_path, monkeypatch, number):
    folder = Folder(tmp_path)
    folder.write('a', b'1')

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))
    for target in ('pathlib.Path.read_bytes', 'pathlib.Path.stat', 'os.listdir', 'os.walk', 'builtins.open', 'os.replace'):
        monkeypatch.setattr(target, fail)
    for use in (lambda: folder.read('a'), lambda: folder.exists('a'), folder.sizes, folder.children, lambda: folder.sha256('a'),
                lambda: folder.write('b', b''), lambda: folder.remove('a')):
        with pytest.raises(errors.StorageError, match=f'{tmp_path}.*cannot be read or written .{os.strerror(number)}.; ') as caught:
            use()
        assert '\n' not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        monkeypatch.undo()
        folder.read('absent')


def test_a_failing_disk_is_no_damage_to_tensorstore_either():
    with pytest.raises(errors.StorageError, match='s: cannot be read or written .Input/output error.; check the disk'), \
            storage_errors(Folder('s'), errors.StoreError, 'build it again'):
        raise ValueError('UNKNOWN: Error reading "/s/c/0": [OS error 5: EIO Input/output error]')


def read_from_a_silent_bucket() -> str:
    """Returns the error of a bucket that accepts a request and sends nothing."""
    folder_lib._RETRIES, folder_lib._STALLED = {'max_retries': 1, 'initial_delay': '0.01s'}, dict.fromkeys(folder_lib._STALLED, '1')
    for name in folder_lib._STALLED:  # which other tests have set
        os.environ.pop(name, None)
    with socket.create_server(('127.0.0.1', 0)) as silent:
        os.environ['TENSORSTORE_GCS_HTTP_URL'] = f'http://127.0.0.1:{silent.getsockname()[1]}'
        os.environ['GOOGLE_AUTH_TOKEN_FOR_TESTING'] = 'nobody'
        try:
            Folder('gs://some-bucket').read('a')
        except errors.StorageError as error:
            return str(error)
    return 'no error'


def test_a_bucket_that_sends_nothing_is_given_up():
    code, message = processes.run_forked(read_from_a_silent_bucket, seconds=30)  # TensorStore reads its settings once in a process
    assert code == 0 and message.startswith('gs://some-bucket: ') and '\n' not in message
