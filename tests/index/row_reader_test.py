"""Rows read from an index's files by their places, against whole chunks."""

import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.index import building, row_reader
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


@pytest.fixture
def index(tmp_path):
    return EmbeddingIndex.build(FakeStore(passages(5)), FakeEmbedder(), tmp_path / 'index', progress=False)


def test_a_file_that_is_cut_or_gone_is_one_line(tmp_path, index):
    reader, file = index.row_files(), next((tmp_path / 'index' / 'shards').glob('*/c/1/0'))
    reader.take(np.arange(5))
    file.write_bytes(file.read_bytes()[:10])
    assert reader.take(np.array([2])).shape == (1, 7)  # another file's
    with pytest.raises(errors.IndexFolderError, match='c/1/0: cut short; restore it'):
        reader.take(np.array([1, 3]))
    file.unlink()
    with pytest.raises(errors.IndexFolderError, match='c/1/0: No such file'):
        reader.take(np.array([3]))


def test_a_flipped_bit_is_found_at_the_first_look_unless_the_index_is_large(tmp_path, index, monkeypatch):
    file, before = next((tmp_path / 'index' / 'shards').glob('*/c/1/0')), index.embeddings(np.arange(5))
    whole = file.read_bytes()
    file.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    reader = index.row_files()
    np.testing.assert_array_equal(reader.take(np.array([0, 2])), before[[0, 2]])
    for _ in range(2):  # a file is not taken for a good one because it was looked at
        with pytest.raises(errors.IndexFolderError, match='c/1/0: damaged .contents differ from those written.; restore it'):
            reader.take(np.array([4]))
    file.write_bytes(whole)
    np.testing.assert_array_equal(reader.take(np.array([4])), before[[4]])
    monkeypatch.setattr(row_reader, '_CHECKED_BYTES', 10)
    file.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    np.testing.assert_array_equal(index.row_files().take(np.array([4])), before[[4]])  # row 3 has the bit


def test_a_digest_is_that_of_the_version_with_so_many_rows(tmp_path):
    store, embedder = FakeStore(passages(13)), FakeEmbedder()
    index = EmbeddingIndex.build(store, embedder, tmp_path / 'index', progress=False)
    before = index.rows_digest
    store.passages += passages(4, prefix='new')
    index.add(store, embedder, progress=False)
    assert index.digest_of(13) == before != index.rows_digest == index.digest_of(17)
    assert index.digest_of(11) and not index.digest_of(12) and not index.digest_of(18)
