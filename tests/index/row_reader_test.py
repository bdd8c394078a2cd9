"""Rows read from an index's files by their places, against whole chunks."""

import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.index import building
from atlas_jax.index.embedding_index import EmbeddingIndex
from tests.testing.fake_store import FakeEmbedder, FakeStore, passages


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(building, 'SHARD_ROWS', 11)
    monkeypatch.setattr(building, 'CHUNK_ROWS', 3)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'int8'])
def test_rows_are_those_of_the_index_also_after_an_addition(tmp_path, dtype):
    store, embedder = FakeStore(passages(29)), FakeEmbedder()
    index = EmbeddingIndex.build(store, embedder, tmp_path / 'index', dtype=dtype, progress=False)
    store.passages += passages(9, prefix='new')
    index.add(store, embedder, progress=False)
    reader = index.row_files()
    for rows in (np.arange(38), np.array([0, 2, 3, 10, 11, 28, 29, 37]), np.zeros(0, np.int64)):
        np.testing.assert_array_equal(reader.take(rows), index.embeddings(rows))
    np.testing.assert_array_equal(index.read(5, 31), index.embeddings(np.arange(5, 31)))


def test_a_file_that_is_cut_or_gone_is_one_line(tmp_path):
    index = EmbeddingIndex.build(FakeStore(passages(5)), FakeEmbedder(), tmp_path / 'index', progress=False)
    reader, file = index.row_files(), next((tmp_path / 'index' / 'shards').glob('*/c/1/0'))
    file.write_bytes(file.read_bytes()[:10])
    assert reader.take(np.array([2])).shape == (1, 7)  # of another file
    with pytest.raises(errors.IndexFolderError, match='c/1/0: cut short; restore it'):
        reader.take(np.array([1, 3]))
    file.unlink()
    with pytest.raises(errors.IndexFolderError, match='No such file'):
        reader.take(np.array([3]))


def test_a_digest_is_that_of_the_version_with_so_many_rows(tmp_path):
    store, embedder = FakeStore(passages(13)), FakeEmbedder()
    index = EmbeddingIndex.build(store, embedder, tmp_path / 'index', progress=False)
    before = index.rows_digest
    store.passages += passages(4, prefix='new')
    index.add(store, embedder, progress=False)
    assert index.digest_of(13) == before != index.rows_digest == index.digest_of(17)
    assert index.digest_of(11) and not index.digest_of(12) and not index.digest_of(18)
