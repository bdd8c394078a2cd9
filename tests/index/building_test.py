"""New shards: which rows a job has, how it continues, and which rows a compaction joins."""


import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.index import building, index_manifest
from atlas_jax.io.folder import Folder
from tests.testing.fake_store import FakeEmbedder, FakeStore, passages


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(building, 'SHARD_ROWS', 5)
    monkeypatch.setattr(building, 'CHUNK_ROWS', 3)


def job_of(store, embedder, first_row=0, revision=1):
    return building.make_job(store, embedder, first_row, 'float32', revision, generation=7)


def test_a_job_is_shards_of_consecutive_rows():
    store, embedder = FakeStore(passages(13)), FakeEmbedder()
    assert job_of(store, embedder, 2).shards() == [('000000000002-build000001', 2, 5), ('000000000007-build000001', 7, 5),
                                                   ('000000000012-build000001', 12, 1)]
    assert job_of(store, embedder, 13).shards() == [] and job_of(FakeStore([]), embedder).shards() == []


def test_a_job_continues_under_the_revision_in_which_it_began(tmp_path):
    store, folder = FakeStore(passages(13)), Folder(tmp_path)
    with pytest.raises(RuntimeError, match='killed'):
        building.embed_shards(folder, job_of(store, FakeEmbedder(stop_after=6)), store, FakeEmbedder(stop_after=6), False)
    again = FakeEmbedder()
    entries = building.embed_shards(folder, job_of(store, again, revision=4), store, again, False)
    assert again.embedded == 13 - 5 and [entry.name for entry in entries] == [name for name, *_ in job_of(store, again).shards()]
    assert {(entry.generation, entry.model_fingerprint, entry.offset) for entry in entries} == {(7, again.fingerprint, 0)}
    assert not index_manifest.exists(folder)  # the caller commits


def test_another_job_begins_again(tmp_path):
    store, folder = FakeStore(passages(13)), Folder(tmp_path)
    with pytest.raises(RuntimeError, match='killed'):
        building.embed_shards(folder, job_of(store, FakeEmbedder()), store, FakeEmbedder(stop_after=6), False)
    other = FakeEmbedder(seed=1)
    entries = building.embed_shards(folder, job_of(store, other, revision=2), store, other, False)
    assert other.embedded == 13 and {entry.name for entry in entries} == (folder / index_manifest.SHARDS).children()


def test_the_first_embedding_that_is_not_finite_is_named(tmp_path):
    embeddings = np.zeros((5, 3), np.float32)
    building.check_finite(embeddings, 20, Folder(tmp_path))
    embeddings[[2, 4], 1] = np.inf, np.nan
    with pytest.raises(errors.IndexFolderError, match=r'passage 22 is not finite \(2 of 5\)'):
        building.check_finite(embeddings, 20, Folder(tmp_path))


def manifest_of(*parts):
    """A manifest of shards of (rows, generation, model)."""
    entries, first_row = [], 0
    for number, (rows, generation, model) in enumerate(parts):
        entries.append(index_manifest.ShardEntry(f's{number}', first_row, rows, 0, generation, model, 'sum'))
        first_row += rows
    return index_manifest.Manifest(1, 'float32', 3, first_row, 0, 'm', 'store', 'passages', shards=tuple(entries))


@pytest.mark.parametrize(('parts', 'due'), [
    ([(5, 0, 'm'), (2, 0, 'm')], False),  # full shards and a last one
    ([(2, 0, 'm'), (2, 0, 'm')], True),
    ([(2, 0, 'm'), (2, 1, 'm')], False),  # embedded at different steps
    ([(2, 0, 'm'), (2, 0, 'n')], False),  # by different models
    ([], False),
])
def test_shards_are_joined_if_one_model_made_them_at_one_step(parts, due):
    current = manifest_of(*parts)
    assert building.needs_compaction(current, np.zeros(current.rows, bool)) == due


def test_deleted_rows_make_a_compaction_due():
    assert building.needs_compaction(manifest_of((5, 0, 'm')), np.arange(5) == 3)
