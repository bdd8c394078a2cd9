"""A build that is killed, a full disk, two writers: the old version stays and the work goes on where it stopped."""

import errno
import os
import pathlib
import sys
import time

import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.index import building, index_manifest, verification
from atlas_jax.index.embedding_index import EmbeddingIndex
from atlas_jax.io import arrays, atomic, lock
from atlas_jax.io.folder import Folder
from tests.testing import processes
from tests.testing.fake_store import FakeEmbedder, FakeStore, passages


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(building, 'SHARD_ROWS', 11)
    monkeypatch.setattr(building, 'CHUNK_ROWS', 3)


def values(index):
    return index.embeddings(np.arange(len(index)))


@pytest.mark.parametrize('stop_after, kept', [(0, 0), (2, 0), (3, 3), (11, 11), (13, 11), (14, 14), (28, 28)])
def test_a_stopped_build_goes_on(tmp_path, stop_after, kept):
    store = FakeStore(passages(29))
    with pytest.raises(RuntimeError, match='killed'):
        EmbeddingIndex.build(store, FakeEmbedder(stop_after=stop_after), tmp_path / 'index', progress=False)
    with pytest.raises(errors.IndexFolderError, match='not finished'):
        EmbeddingIndex.open(tmp_path / 'index')
    again = FakeEmbedder()
    index = EmbeddingIndex.build(store, again, tmp_path / 'index', progress=False)
    assert again.embedded == 29 - kept
    np.testing.assert_array_equal(values(index), values(EmbeddingIndex.build(store, FakeEmbedder(), tmp_path / 'fresh', progress=False)))
    assert verification.verify(index.path) == []


@pytest.mark.parametrize('other', ['model', 'store'])
def test_an_unfinished_build_of_something_else_is_thrown_away(tmp_path, other):
    store = FakeStore(passages(29))
    with pytest.raises(RuntimeError):
        EmbeddingIndex.build(store, FakeEmbedder(stop_after=15), tmp_path / 'index', progress=False)
    store = FakeStore(passages(29, seed=3)) if other == 'store' else store
    again = FakeEmbedder(seed=1 if other == 'model' else 0)
    index = EmbeddingIndex.build(store, again, tmp_path / 'index', progress=False)
    assert again.embedded == 29
    np.testing.assert_array_equal(values(index), again.embed(store.retriever_table(), np.arange(29)))


def test_a_damaged_chunk_of_an_unfinished_build_is_embedded_again(tmp_path):
    store = FakeStore(passages(29))
    with pytest.raises(RuntimeError):
        EmbeddingIndex.build(store, FakeEmbedder(stop_after=15), tmp_path / 'index', progress=False)
    [first, _] = sorted((tmp_path / 'index' / 'shards').iterdir())
    (first / 'c' / '2' / '0').unlink()
    again = FakeEmbedder()
    index = EmbeddingIndex.build(store, again, tmp_path / 'index', progress=False)
    assert again.embedded == 29 - 6 - 3  # two chunks of the first shard and one of the second were whole
    assert verification.verify(index.path) == []


def test_the_old_version_is_read_while_another_is_built(tmp_path):
    store, embedder = FakeStore(passages(29)), FakeEmbedder()
    old = values(EmbeddingIndex.build(store, embedder, tmp_path / 'index', progress=False))
    with pytest.raises(RuntimeError):
        EmbeddingIndex.build(store, FakeEmbedder(seed=1, stop_after=15), tmp_path / 'index', progress=False)
    np.testing.assert_array_equal(values(EmbeddingIndex.open(tmp_path / 'index')), old)
    EmbeddingIndex.open(tmp_path / 'index').delete(['doc3'], store)  # does not disturb the unfinished build
    again = FakeEmbedder(seed=1)
    index = EmbeddingIndex.build(store, again, tmp_path / 'index', progress=False)
    assert again.embedded == 29 - 14
    np.testing.assert_array_equal(values(index), again.embed(store.retriever_table(), np.arange(29)))


def test_a_stopped_add_goes_on(tmp_path):
    store = FakeStore(passages(13))
    index = EmbeddingIndex.build(store, FakeEmbedder(), tmp_path / 'index', progress=False)
    store.passages += passages(9, seed=1, prefix='new')
    with pytest.raises(RuntimeError):
        index.add(store, FakeEmbedder(stop_after=7), progress=False)
    assert len(EmbeddingIndex.open(tmp_path / 'index')) == 13
    again = FakeEmbedder()
    assert index.add(store, again, progress=False) == 9 and again.embedded == 3
    np.testing.assert_array_equal(values(index), again.embed(store.retriever_table(), np.arange(22)))


_SLOW_BUILD = """
import pathlib, sys, time
import numpy as np
from tests.testing import fake_store
from atlas_jax.index import building
from atlas_jax.index.embedding_index import EmbeddingIndex
building.SHARD_ROWS, building.CHUNK_ROWS = 11, 3
print('begin', flush=True)

class Slow(fake_store.FakeEmbedder):
    def embed(self, table, rows, progress=None):
        time.sleep(0.05)
        return super().embed(table, rows, progress)

EmbeddingIndex.build(fake_store.FakeStore(fake_store.passages(29)), Slow(), pathlib.Path(sys.argv[1]), progress=False)
"""


def test_sigkill_at_any_moment(tmp_path):
    """Kills the building process again and again, a little later each time, until a build comes through."""
    folder, repository = tmp_path / 'index', pathlib.Path(__file__).parents[2]
    environment = os.environ | {'PYTHONPATH': str(repository), 'JAX_PLATFORMS': 'cpu'}
    kills, code = 0, None
    while code is None and kills < 40:
        with processes.started([sys.executable, '-c', _SLOW_BUILD, folder], env=environment) as process:
            assert process.line() == 'begin\n'
            until = time.monotonic() + 0.1 + 0.07 * kills
            while process.is_running() and time.monotonic() < until:
                time.sleep(0.01)
            if process.is_running():
                kills += 1  # by the end of the block
            else:
                code = process.wait().returncode
    assert kills >= 1 and code == 0
    index, embedder = EmbeddingIndex.open(folder), FakeEmbedder()
    np.testing.assert_array_equal(values(index), embedder.embed(FakeStore(passages(29)).retriever_table(), np.arange(29)))
    assert verification.verify(index.path) == []
    assert sorted(path.name for path in folder.iterdir()) == ['lock', 'manifest.json', 'shards']


@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_keeps_the_old_version_and_what_was_finished(tmp_path, monkeypatch, code):
    store = FakeStore(passages(29))
    old = values(EmbeddingIndex.build(store, FakeEmbedder(), tmp_path / 'index', progress=False))
    written, replace = [], os.replace

    def full(source, target):
        written.append(target)
        if len(written) > 6:
            raise OSError(code, os.strerror(code))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, 'replace', full)
        with pytest.raises(errors.DiskFullError, match='disk is full'):
            EmbeddingIndex.build(store, FakeEmbedder(seed=1), tmp_path / 'index', progress=False)
    np.testing.assert_array_equal(values(EmbeddingIndex.open(tmp_path / 'index')), old)
    again = FakeEmbedder(seed=1)
    EmbeddingIndex.build(store, again, tmp_path / 'index', progress=False)
    assert 0 < again.embedded < 29


@pytest.mark.parametrize('text', ['RESOURCE_EXHAUSTED: Failed to write "x" [OS error 28: No space left on device]', 'OS error 122: ENOSPC'])
def test_a_full_disk_reported_by_tensorstore(tmp_path, monkeypatch, text):
    def full(*args, **options):
        raise ValueError(text)

    monkeypatch.setattr(arrays.tensorstore, 'open', full)
    with pytest.raises(errors.DiskFullError, match='disk is full'):
        EmbeddingIndex.build(FakeStore(passages(3)), FakeEmbedder(), tmp_path / 'index', progress=False)


def test_a_second_writer_is_refused(tmp_path):
    store, embedder = FakeStore(passages(13)), FakeEmbedder()
    index = EmbeddingIndex.build(store, embedder, tmp_path / 'index', progress=False)
    with lock.writing(Folder(tmp_path / 'index'), 'index', errors.IndexFolderError):
        for write in (lambda: EmbeddingIndex.build(store, embedder, tmp_path / 'index', progress=False),
                      lambda: index.delete(['doc1'], store), lambda: index.add(store, embedder)):
            with pytest.raises(errors.IndexFolderError, match='another process is writing'):
                write()
        assert len(EmbeddingIndex.open(tmp_path / 'index')) == 13
    assert index.delete(['doc1'], store) == 1


def test_opening_while_a_writer_commits(tmp_path, monkeypatch):
    store = FakeStore(passages(13))
    index = EmbeddingIndex.build(store, FakeEmbedder(), tmp_path / 'index', progress=False)
    index.delete(['doc1'], store)
    stale = [index_manifest.read(Folder(tmp_path / 'index'))]
    index.delete(['doc2'], store)
    read = index_manifest.read
    monkeypatch.setattr(index_manifest, 'read', lambda folder: stale.pop() if stale else read(folder))
    assert np.flatnonzero(EmbeddingIndex.open(tmp_path / 'index').deleted).tolist() == [1, 2]


def test_two_open_indexes_do_not_undo_each_other(tmp_path):
    store, embedder = FakeStore(passages(13)), FakeEmbedder()
    one = EmbeddingIndex.build(store, embedder, tmp_path / 'index', progress=False)
    two = EmbeddingIndex.open(tmp_path / 'index')
    one.delete(['doc1'], store)
    two.delete(['doc2'], store)
    assert np.flatnonzero(EmbeddingIndex.open(tmp_path / 'index').deleted).tolist() == [1, 2]


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write anywhere')
def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / 'locked').mkdir(mode=0o500)
    with pytest.raises(errors.IndexFolderError, match='cannot write'):
        EmbeddingIndex.build(FakeStore(passages(3)), FakeEmbedder(), tmp_path / 'locked' / 'index', progress=False)
