"""The original's saved index becomes ours: the same numbers, the same top 20, and only for the model that made them."""

import dataclasses

import jax
import numpy as np
import pytest

from atlas_jax import errors, partitioning
from atlas_jax.index import building
from atlas_jax.knowledge import import_index as importing
from atlas_jax.knowledge.index_with_store import Index
from tests.testing import saved_index, tiny_run


@pytest.fixture(scope='module')
def atlas():
    return tiny_run.atlas(dropout_rate=0.0, mesh=partitioning.make_mesh(devices=jax.devices()[:1]))


@pytest.fixture(scope='module')
def saved(atlas, tmp_path_factory):
    """(folder, embeddings) of a saved index with the tiny model's own embeddings in half precision, in four shards."""
    path = tmp_path_factory.mktemp('saved')
    index = tiny_run.index(atlas, path)
    passages = [{'id': passage.docid, 'title': passage.title, 'section': passage.section, 'text': passage.text} for passage in index.store]
    embeddings = index.index.embeddings(np.arange(23)).astype(np.float16)
    return saved_index.write(path / 'saved', embeddings, passages, [5, 11, 12]), embeddings


def test_the_top_20_are_those_of_the_saved_arrays(atlas, saved, tmp_path, monkeypatch):
    monkeypatch.setattr(building, 'SHARD_ROWS', 7)  # others than those of the saved index
    monkeypatch.setattr(building, 'CHUNK_ROWS', 3)
    folder, embeddings = saved
    index, difference = importing.import_saved(folder, tmp_path / 'store', tmp_path / 'index', atlas, show_progress=False)
    assert 0 < difference < .002  # half precision
    np.testing.assert_array_equal(index.index.embeddings(np.arange(23)), embeddings.astype(np.float32))
    opened = Index.open(tmp_path / 'index')
    opened.check(atlas)  # it is this model's from now on
    arrays, questions = embeddings.astype(np.float32), ['thing 3', 'what is red ?', 'the thing 7']
    found = [[opened.store.find(hit.passage.docid) for hit in hits] for hits in atlas.search(questions, opened, 20)]
    for rows, query in zip(found, _queries(atlas, questions, tmp_path), strict=True):
        assert rows == np.argsort(-(arrays @ query), kind='stable')[:20].tolist()


def _queries(atlas, questions, folder) -> np.ndarray:
    """[questions, dim]: their scores in an index of unit vectors are their numbers."""
    dim = atlas.embedder().dim
    passages = [{'id': str(row), 'text': 'thing'} for row in range(dim)]
    units = saved_index.write(folder / 'units', np.eye(dim, dtype=np.float16), passages, [])
    index, _ = importing.import_saved(units, folder / 'unit-store', folder / 'unit-index', atlas, force=True, show_progress=False)
    queries = np.zeros((len(questions), dim), np.float32)
    for row, hits in enumerate(atlas.search(questions, index, dim)):
        for hit in hits:
            queries[row, int(hit.passage.docid)] = hit.score
    return queries


def test_another_model_is_refused_unless_forced(atlas, saved, tmp_path):
    other = dataclasses.replace(atlas, params=jax.tree.map(lambda leaf: leaf * 1.3 + .1, atlas.params))
    with pytest.raises(errors.IndexFolderError, match=r'embeds the same passages otherwise \(median difference \d+%, expected at most'):
        importing.import_saved(saved[0], tmp_path / 'store', tmp_path / 'index', other, show_progress=False)
    assert not (tmp_path / 'index').exists()
    index, difference = importing.import_saved(saved[0], tmp_path / 'store', tmp_path / 'index', other, force=True, show_progress=False)
    assert difference > .05 and len(index.index) == 23


def test_other_sizes_are_told_before_anything_is_written(atlas, tmp_path):
    folder = saved_index.write(tmp_path / 'saved', np.ones((3, 4), np.float16), [{'id': str(row), 'text': 'x'} for row in range(3)], [])
    with pytest.raises(errors.IndexFolderError, match='embeddings of 4 numbers, those of this model have'):
        importing.import_saved(folder, tmp_path / 'store', tmp_path / 'index', atlas, show_progress=False)
    assert not (tmp_path / 'store').exists()
