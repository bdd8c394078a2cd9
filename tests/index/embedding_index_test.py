"""Building, changing and reading an index."""

import jax
import numpy as np
import pytest

from atlas_jax import errors, partitioning
from atlas_jax.index import building, verification
from atlas_jax.index.embedding_index import EmbeddingIndex
from tests.testing.fake_store import FakeEmbedder, FakeStore, passages


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(building, 'SHARD_ROWS', 11)
    monkeypatch.setattr(building, 'CHUNK_ROWS', 3)


def expected(store, embedder):
    return embedder.embed(store.retriever_table(), np.arange(len(store)))


@pytest.mark.parametrize('rows', [0, 1, 3, 11, 29])
def test_holds_every_embedding(tmp_path, rows):
    store, embedder = FakeStore(passages(rows)), FakeEmbedder()
    built = EmbeddingIndex.build(store, embedder, tmp_path / 'index', progress=False)
    opened = EmbeddingIndex.open(tmp_path / 'index')
    for index in (built, opened):
        assert len(index) == rows and index.dim == 7 and not index.deleted.any()
        np.testing.assert_array_equal(index.embeddings(np.arange(rows)), expected(store, embedder) if rows else np.zeros((0, 7)))
        index.check(store, embedder)
        assert verification.verify(index.path) == []
    assert not (tmp_path / 'index' / 'building.json').exists()


def test_embeddings_come_in_the_order_asked(tmp_path):
    store, embedder = FakeStore(passages(29)), FakeEmbedder()
    index = EmbeddingIndex.build(store, embedder, tmp_path / 'index', progress=False)
    rows = np.array([28, 0, 12, 12, 3, 11, 10])
    np.testing.assert_array_equal(index.embeddings(rows), expected(store, embedder)[rows])
    with pytest.raises(errors.IndexFolderError, match='no row 29; the rows are 0 to 28'):
        index.embeddings(np.array([4, 29]))


@pytest.mark.parametrize('rows', [0, 13])
def test_device_arrays(tmp_path, rows):
    store, embedder = FakeStore(passages(rows)), FakeEmbedder()
    index = EmbeddingIndex.build(store, embedder, tmp_path / 'index', progress=False)
    if rows:
        index.delete(['doc5', 'doc12'], store)
    mesh = partitioning.make_mesh(devices=jax.devices()[:1])
    arrays = index.device_arrays(mesh)
    assert arrays.embeddings.shape == (max(rows, 1), 7) and arrays.embeddings.dtype == np.float32
    if rows:
        np.testing.assert_array_equal(arrays.embeddings, expected(store, embedder))
    np.testing.assert_array_equal(arrays.valid, [row not in (5, 12) for row in range(rows)] or [False])


def test_add_embeds_the_new_passages_alone_and_equals_a_fresh_build(tmp_path):
    store, embedder = FakeStore(passages(13)), FakeEmbedder()
    index = EmbeddingIndex.build(store, embedder, tmp_path / 'index', progress=False)
    store.passages += [*passages(4, seed=1, prefix='new'), ('doc2', (9, 9)), ('doc7', (8,)), ('doc2', (7, 7, 7))]
    adder = FakeEmbedder()
    with pytest.raises(errors.IndexFolderError, match='index add'):
        index.check(store, embedder)
    assert index.add(store, adder, progress=False) == 7
    assert adder.embedded == 7
    assert index.add(store, adder, progress=False) == 0
    fresh = EmbeddingIndex.build(store, embedder, tmp_path / 'fresh', progress=False)
    for one in (index, EmbeddingIndex.open(tmp_path / 'index')):
        np.testing.assert_array_equal(one.embeddings(np.arange(20)), fresh.embeddings(np.arange(20)))
        np.testing.assert_array_equal(one.deleted, fresh.deleted)
        one.check(store, embedder)
    assert np.flatnonzero(index.deleted).tolist() == [2, 7, 17]


def test_delete_is_remembered_and_counted_once(tmp_path):
    store, embedder = FakeStore(passages(13)), FakeEmbedder()
    index = EmbeddingIndex.build(store, embedder, tmp_path / 'index', progress=False)
    assert index.delete(['doc3', 'doc3', 'doc11'], store) == 2
    assert index.delete(['doc3'], store) == 0
    assert index.delete([], store) == 0
    reopened = EmbeddingIndex.open(tmp_path / 'index')
    assert np.flatnonzero(reopened.deleted).tolist() == [3, 11]
    assert reopened.info()['deleted'] == 2 and reopened.info()['rows'] == 13
    with pytest.raises(errors.StoreError, match='nobody'):
        index.delete(['nobody'], store)
    store.passages.append(('doc3', (4,)))
    with pytest.raises(errors.IndexFolderError, match='not yet in the index'):
        index.delete(['doc3'], store)
    index.add(store, embedder, progress=False)
    assert np.flatnonzero(index.deleted).tolist() == [3, 11] and not index.deleted[13]
    assert len(list((tmp_path / 'index').glob('tombstones-*.bits'))) == 1


def test_a_second_build_replaces_the_first(tmp_path):
    store, embedder, other = FakeStore(passages(13)), FakeEmbedder(), FakeEmbedder(dim=5, seed=1)
    index = EmbeddingIndex.build(store, embedder, tmp_path / 'index', progress=False)
    index.delete(['doc3'], store)
    second = EmbeddingIndex.build(store, other, tmp_path / 'index', progress=False)
    np.testing.assert_array_equal(second.embeddings(np.arange(13)), expected(store, other))
    assert not second.deleted.any() and second.info()['revision'] == 3
    assert len(list((tmp_path / 'index' / 'shards').iterdir())) == 2
    with pytest.raises(errors.IndexFolderError, match='open it again'):
        index.embeddings(np.arange(13))


def test_another_model_or_store_is_refused(tmp_path):
    store, embedder, other = FakeStore(passages(13)), FakeEmbedder(), FakeEmbedder(seed=1)
    index = EmbeddingIndex.build(store, embedder, tmp_path / 'index', progress=False)
    for call in (index.check, index.add):
        with pytest.raises(errors.IndexFolderError, match=f'{embedder.record.weights}.*{other.record.weights}.*--force'):
            call(store, other)
        one_token_changed = [(docid, (tokens[0] % 49 + 1, *tokens[1:]) if tokens else ()) for docid, tokens in passages(13)]
        for foreign in (passages(13, seed=5), passages(12), passages(15, seed=5), [*one_token_changed, ('new', (3,))]):
            with pytest.raises(errors.IndexFolderError, match='another passage store'):
                call(FakeStore(foreign), embedder)
    with pytest.raises(errors.IndexFolderError, match='another passage store'):
        index.delete(['doc1'], FakeStore(passages(13, seed=5)))


def test_a_folder_that_is_no_index(tmp_path):
    store, embedder = FakeStore(passages(3)), FakeEmbedder()
    with pytest.raises(errors.IndexFolderError, match='no such folder'):
        EmbeddingIndex.open(tmp_path / 'nowhere')
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'thesis.txt').write_text('mine')
    with pytest.raises(errors.IndexFolderError, match='not an index'):
        EmbeddingIndex.open(tmp_path / 'full')
    with pytest.raises(errors.IndexFolderError, match='something else'):
        EmbeddingIndex.build(store, embedder, tmp_path / 'full', progress=False)
    with pytest.raises(errors.IndexFolderError, match='a file, not a folder'):
        EmbeddingIndex.build(store, embedder, tmp_path / 'full' / 'thesis.txt', progress=False)
    assert sorted(path.name for path in (tmp_path / 'full').iterdir()) == ['thesis.txt']
    with pytest.raises(errors.ConfigError, match='float8'):
        EmbeddingIndex.build(store, embedder, tmp_path / 'index', dtype='float8', progress=False)


def test_an_embedding_that_is_not_finite_is_refused(tmp_path):
    class Broken(FakeEmbedder):
        def embed(self, table, rows, progress=None):
            return np.where(rows[:, None] == 4, np.nan, super().embed(table, rows))

    with pytest.raises(errors.IndexFolderError, match='passage 4 is not finite'):
        EmbeddingIndex.build(FakeStore(passages(13)), Broken(), tmp_path / 'index', progress=False)
    with pytest.raises(errors.IndexFolderError, match='not finished'):
        EmbeddingIndex.open(tmp_path / 'index')
