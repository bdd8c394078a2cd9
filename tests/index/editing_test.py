"""Compaction, rows that were rewritten, and the types embeddings are stored in."""

import jax
import numpy as np
import pytest

from atlas_jax import errors, partitioning
from atlas_jax.index import building, index_manifest, shards, verification
from atlas_jax.index.embedding_index import EmbeddingIndex
from atlas_jax.io.folder import Folder
from atlas_jax.runtime import hosts
from tests.testing.fake_store import FakeEmbedder, FakeStore, passages
from tests.testing.rewritten_rows import rewrite_rows


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(building, 'SHARD_ROWS', 11)
    monkeypatch.setattr(building, 'CHUNK_ROWS', 3)


def values(index):
    return index.embeddings(np.arange(len(index)))


def fresh(rows, seed=9):
    return np.random.default_rng(seed).standard_normal((rows, 7)).astype(np.float32)


@pytest.fixture
def store():
    return FakeStore(passages(29))


@pytest.fixture(params=['float32', 'bfloat16', 'int8'])
def index(request, store, tmp_path):
    """29 rows in shards of 11 and chunks of 3."""
    return EmbeddingIndex.build(store, FakeEmbedder(), tmp_path / 'index', dtype=request.param, progress=False)


def stored(index, embeddings):
    return shards.decode(*shards.encode(embeddings, index.dtype))


def test_types(index, store):
    expected = FakeEmbedder().embed(store.retriever_table(), np.arange(29))
    np.testing.assert_array_equal(values(index), stored(index, expected))
    arrays = index.device_arrays(partitioning.make_mesh(devices=jax.devices()[:1]))
    assert arrays.embeddings.dtype == shards.DTYPES[index.dtype] and index.info()['dtype'] == index.dtype
    assert (arrays.scales is None) == (index.dtype != 'int8')
    scales = None if arrays.scales is None else np.asarray(arrays.scales)
    np.testing.assert_array_equal(shards.decode(np.asarray(arrays.embeddings), scales), values(index))
    assert verification.verify(index.path) == []


def test_a_deletion_is_written_by_the_first_of_several_processes_alone(index, store, tmp_path, monkeypatch):
    # The first one removes what its manifest does not name: what another was just writing, which then died, and the first waited for it.
    before = {path for path in tmp_path.rglob('*') if path.name != 'lock'}
    monkeypatch.setattr(hosts, 'is_first', lambda: False)
    assert index.delete(['doc3'], store) == 1
    assert {path for path in tmp_path.rglob('*') if path.name != 'lock'} == before


def test_add_and_delete_equal_a_fresh_build(index, store, tmp_path):
    store.passages += [*passages(4, seed=1, prefix='new'), ('doc2', (9, 9))]
    index.add(store, FakeEmbedder(), progress=False)
    index.delete(['doc7', 'new1'], store)
    again = EmbeddingIndex.build(store, FakeEmbedder(), tmp_path / 'fresh', dtype=index.dtype, progress=False)
    again.delete(['doc7', 'new1'], store)
    np.testing.assert_array_equal(values(index), values(again))
    np.testing.assert_array_equal(index.deleted, again.deleted)


@pytest.mark.parametrize('start, rows', [(0, 29), (0, 4), (3, 5), (9, 14), (11, 11), (25, 4), (8, 0)])
def test_rewritten_rows(index, start, rows):
    expected, new = values(index), fresh(rows)
    rewritten = rewrite_rows(index.path, start, new, generation=40)
    expected[start:start + rows] = stored(index, new)
    np.testing.assert_array_equal(values(rewritten), expected)
    parts = [(first, count, generation) for first, count, generation in
             [(0, start, 0), (start, rows, 40), (start + rows, 29 - start - rows, 0)] if count]
    assert rewritten.generations() == (parts if rows else [(0, 29, 0)])
    assert {part['age'] for part in rewritten.info()['generations']} == ({0} if rows in (0, 29) else {0, 40})
    assert verification.verify(index.path) == []


def test_rewriting_again_and_again_keeps_no_more_than_it_needs(index, store):
    expected = values(index)
    for generation, start in enumerate([0, 5, 10, 15, 20, 3, 0, 5, 10], start=1):
        new = fresh(min(5, 29 - start), seed=generation)
        expected[start:start + 5] = stored(index, new)
        index = rewrite_rows(index.path, start, new, generation)
    np.testing.assert_array_equal(values(EmbeddingIndex.open(index.path)), expected)
    names = {entry.name for entry in index_manifest.read(Folder(index.path)).shards}
    assert {path.name for path in (index.path / 'shards').iterdir()} == names
    index.delete(['doc3'], store)
    index.compact(store)
    np.testing.assert_array_equal(values(index), np.delete(expected, 3, axis=0))
    assert [generation for _, _, generation in index.generations()] == [7, 8, 9, 4, 5, 0]


def test_a_compaction_that_dies_leaves_what_was(index, store, monkeypatch):
    index.delete(['doc4', 'doc28'], store)
    before = values(index)
    with monkeypatch.context() as patch:
        patch.setattr(index_manifest, 'write', lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            index.compact(store)
    opened = EmbeddingIndex.open(index.path)
    np.testing.assert_array_equal(values(opened), before)
    assert np.flatnonzero(opened.deleted).tolist() == [4, 28]
    assert index.compact(store) and len(index) == 27 and verification.verify(index.path) == []


def test_the_shards_of_another_model_are_named(index, store):
    index = rewrite_rows(index.path, 5, fresh(3), 1, model_fingerprint='other')
    with pytest.raises(errors.IndexFolderError, match='index other, this model .*--force'):
        index.check(store, FakeEmbedder())
    index.check(store, FakeEmbedder(), force=True)
    with pytest.raises(errors.IndexFolderError, match='embeddings of 7 numbers, this model makes 5'):
        index.check(store, FakeEmbedder(dim=5), force=True)
    [problem] = verification.mismatches(index.path, store, FakeEmbedder())
    assert (problem.first_row, problem.stop_row) == (5, 8)


def test_an_unfinished_build_outlives_a_commit(index, store):
    with pytest.raises(RuntimeError):
        EmbeddingIndex.build(store, FakeEmbedder(seed=1, stop_after=15), index.path, progress=False)
    rewrite_rows(index.path, 0, fresh(3), 1)
    again = FakeEmbedder(seed=1)
    EmbeddingIndex.build(store, again, index.path, progress=False)
    assert again.embedded == 29 - 14


@pytest.mark.parametrize('deleted', [[], ['doc0', 'doc28'], [f'doc{row}' for row in range(2, 25)]])
def test_compaction_equals_a_fresh_build_of_what_is_left(index, store, deleted, tmp_path):
    store.passages += [*passages(3, seed=1, prefix='new'), ('doc2', (9, 9))]
    index.add(store, FakeEmbedder(), progress=False)
    index.delete(deleted, store)
    kept = ~index.deleted
    left = store.copy_kept(index.path / f'store-r{index.info()["revision"] + 1:06d}', kept)
    assert index.compact(store) and not index.compact(left)
    again = EmbeddingIndex.build(left, FakeEmbedder(), tmp_path / 'fresh', dtype=index.dtype, progress=False)
    for one in (index, EmbeddingIndex.open(index.path)):
        np.testing.assert_array_equal(values(one), values(again))
        assert len(one) == kept.sum() and not one.deleted.any() and one.store_path == left.path
        one.check(left, FakeEmbedder())
    with pytest.raises(errors.IndexFolderError, match='another passage store'):
        index.check(store, FakeEmbedder())
    left.passages.append(('later', (3,)))
    assert index.add(left, FakeEmbedder(), progress=False) == 1


def test_small_shards_are_joined_without_a_new_store(store, tmp_path):
    index = EmbeddingIndex.build(FakeStore(store.passages[:2]), FakeEmbedder(), tmp_path / 'index', progress=False)
    for rows in (3, 4, 5):
        index.add(FakeStore(store.passages[:rows]), FakeEmbedder(), progress=False)
    before, path = values(index), index.store_path
    assert index.info()['shards'] == 4 and index.compact(FakeStore(store.passages[:5])) and index.info()['shards'] == 1
    np.testing.assert_array_equal(values(index), before)
    assert index.store_path == path and not index.compact(FakeStore(store.passages[:5]))


def test_nothing_would_be_left(index, store):
    index.delete([f'doc{row}' for row in range(29)], store)
    with pytest.raises(errors.IndexFolderError, match='every passage is deleted'):
        index.compact(store)
