"""The writer's lock in a bucket; on a disk, tests/corpus and tests/index hold it."""

import json
import threading
import time

import pytest

from atlas_jax import errors
from atlas_jax.io import lock, schema, versioned_folder
from atlas_jax.io.folder import Folder
from tests.testing import bucket

FOLDER = Folder('gs://some-bucket/index')


@pytest.fixture(autouse=True)
def server(monkeypatch):
    with bucket.serving(monkeypatch) as serving:
        yield serving


def writing(folder=FOLDER):
    return lock.writing(folder, 'index', errors.IndexFolderError)


def test_second_writer_is_refused_until_the_first_is_done():
    with writing():
        with pytest.raises(errors.IndexFolderError, match='another process is writing this index .process'), writing():
            pass
    with writing():
        assert FOLDER.children() == {lock.FILE}
    assert FOLDER.children() == set()


@pytest.mark.parametrize('seconds, held', [(60, True), (-1, False)])
def test_the_lease_of_a_killed_writer_ends(seconds, held):
    FOLDER.write_json(lock.FILE, {'writer': 'process 7 elsewhere', 'until': time.time() + seconds})
    if held:
        with pytest.raises(errors.IndexFolderError, match='process 7 elsewhere'), writing():
            pass
    else:
        with writing():
            assert 'process 7 elsewhere' not in FOLDER.read(lock.FILE).decode()


def test_a_run_waits_for_the_lease_of_a_killed_writer_and_not_for_one_that_lives(monkeypatch, capsys):
    monkeypatch.setattr(lock, 'LEASE_SECONDS', 1)
    FOLDER.write_json(lock.FILE, {'writer': 'process 7 elsewhere', 'until': time.time() + 0.3})
    with lock.writing(FOLDER, 'run', errors.ConfigError, waits=True):
        assert 'process 7 elsewhere has not ended with this run; waiting for at most' in capsys.readouterr().out
        # The one that holds it renews it five times in its lease, far before it ends.
        started = time.time()
        with pytest.raises(errors.ConfigError, match='another process is writing this run'), \
                lock.writing(FOLDER, 'run', errors.ConfigError, waits=True):
            pass
        assert time.time() - started < 0.9
        ending = threading.Timer(0.05, FOLDER.remove, [lock.FILE])  # as a writer that ends well
        FOLDER.write_json(lock.FILE, {'writer': 'the other', 'until': time.time() + 60})
        ending.start()
    with lock.writing(FOLDER, 'run', errors.ConfigError, waits=True):
        assert 'the other' not in FOLDER.read(lock.FILE).decode()


def test_of_two_that_come_together_one_gets_it(monkeypatch):
    whole = time.time

    def late():
        monkeypatch.setattr(lock.time, 'time', whole)
        FOLDER.write_json(lock.FILE, {'writer': 'the other', 'until': whole() + 60})  # between our read and our write
        return whole()

    monkeypatch.setattr(lock.time, 'time', late)
    with pytest.raises(errors.IndexFolderError, match='just started'), writing():
        pass
    assert json.loads(FOLDER.read(lock.FILE))['writer'] == 'the other'


def test_a_long_writer_renews_its_lease(monkeypatch, server):
    monkeypatch.setattr(lock, 'LEASE_SECONDS', 0.05)
    with writing():
        first = json.loads(FOLDER.read(lock.FILE))['until']
        for _ in range(200):
            if json.loads(FOLDER.read(lock.FILE))['until'] > first:
                break
            time.sleep(0.01)
        else:
            pytest.fail('never renewed')
    assert FOLDER.children() == set()


def test_a_writer_that_slept_too_long_commits_nothing():
    fields = schema.ObjectOf({'revision': schema.Integer()})
    kind = versioned_folder.FolderKind('an index', fields, errors.IndexFolderError, 'some command', 'some index')
    with writing():
        kind.write(FOLDER, {'revision': 1})
        FOLDER.write_json(lock.FILE, {'writer': 'the other', 'until': time.time() + 60})
        for _ in range(2):
            with pytest.raises(errors.IndexFolderError, match='slept for more than 300 s, and another one'):
                kind.write(FOLDER, {'revision': 2})
    assert json.loads(FOLDER.read(lock.FILE))['writer'] == 'the other'
    assert kind.read(FOLDER)['revision'] == 1


def test_a_bucket_that_cannot_be_written():
    with pytest.raises(errors.StorageError, match='PERMISSION_DENIED'), writing(Folder(f'gs://{bucket.READ_ONLY}/x')):
        pass


def test_a_lock_that_is_a_link_makes_no_file(tmp_path):
    (tmp_path / 'index').mkdir()
    (tmp_path / 'index' / lock.FILE).symlink_to(tmp_path / 'victim')
    with pytest.raises(errors.IndexFolderError, match='index/lock: a link, which could lead anywhere; remove it'), \
            writing(Folder(tmp_path / 'index')):
        pass
    assert not (tmp_path / 'victim').exists()


@pytest.mark.parametrize('content', ['', '{', '[]', '{"until": []}', '{"until": "x", "writer": 1}', '{"writer": "a"}', '[' * 9999])
def test_a_lock_file_that_no_writer_wrote_holds_for_nobody(content):
    FOLDER.write(lock.FILE, content.encode())
    with writing():
        pass


def test_a_lease_is_never_longer_than_ours(monkeypatch):
    FOLDER.write_json(lock.FILE, {'until': 1e300, 'writer': 'a\nb'})
    with pytest.raises(errors.IndexFolderError, match='another process is writing this .* .a b.; wait'), writing():
        pass
