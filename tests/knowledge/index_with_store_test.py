"""An index with its store: its arrays on the devices, its caches, and the models it refuses."""

import dataclasses

import jax
import numpy as np
import pytest

from atlas_jax import errors, partitioning, types
from atlas_jax.answering import api
from atlas_jax.corpus.passages import Passage
from atlas_jax.index.embedding_index import EmbeddingIndex
from atlas_jax.knowledge import index_with_store as knowledge_index
from tests.testing import tiny_run


@pytest.fixture(scope='module')
def atlas():
    return tiny_run.atlas(dropout_rate=0.0, mesh=partitioning.make_mesh(devices=jax.devices()[:1]))


@pytest.fixture
def index(atlas, tmp_path):
    return tiny_run.index(atlas, tmp_path)


def test_rows_are_padded_to_the_devices():
    class Mesh:
        size = 4

    assert [knowledge_index.padded_rows(rows, Mesh()) for rows in (0, 1, 4, 5, 23)] == [4, 4, 4, 8, 24]
    assert [knowledge_index.padded_rows(rows, Mesh(), room=True) for rows in (0, 23, 256, 257)] == [256, 256, 256, 512]
    assert [knowledge_index.padded_rows(rows, Mesh()) for rows in (262_144, 262_145, 33_000_001)] == [262_144, 262_272, 33_000_064]
    for rows in (1000, 9000, 10_001, 33_000_000):
        padded = knowledge_index.padded_rows(rows, Mesh(), room=True)
        assert rows <= padded <= rows + min(max(rows // 16, 4 * 64), 4 * 65536) and padded % 4 == 0
        assert knowledge_index.padded_rows(padded, Mesh(), room=True) == padded


def test_parts_are_made_once_and_only_where_they_are_wanted(atlas, index):
    known = index.knowledge(atlas)
    assert known.retriever_table is None and known.index.embeddings.shape == (23, atlas.config.retriever.emb_dim)
    assert index.knowledge(atlas).reader_table is known.reader_table
    roomy = index.knowledge(atlas, room=True)
    assert roomy.index.valid.tolist() == [True] * 23 + [False] * 41 and len(roomy.reader_table.tokens) == 64
    more = index.knowledge(atlas, retriever_tokens=True, embeddings=False)
    assert more.index is None and more.retriever_table is not None and more.reader_table is known.reader_table
    shorter = dataclasses.replace(atlas, config=dataclasses.replace(
        atlas.config, inputs=dataclasses.replace(atlas.config.inputs, text_max_tokens=39)))
    index.force = True
    assert index.knowledge(shorter).index.embeddings is known.index.embeddings
    assert index.knowledge(shorter).reader_table is not known.reader_table


def test_changes_are_seen_by_the_next_call(atlas, index):
    before = index.knowledge(atlas)
    index.derived['something'] = ((), 1)
    assert index.delete(['d3']) == 1 and index.derived == {}
    after = index.knowledge(atlas)
    assert int(before.index.valid.sum()) == 23 and int(after.index.valid.sum()) == 22
    index.replace([Passage('new', 'thing 99', '', 'The thing 99 is red .')], atlas)
    assert len(index.store) == 24 and index.knowledge(atlas).index.valid.shape == (24,)
    assert index.compact() and len(index.store) == 23 and not index.compact()


def test_another_model_is_refused_unless_forced(atlas, index):
    other = dataclasses.replace(atlas, params=jax.tree.map(lambda leaf: leaf + 1, atlas.params))
    with pytest.raises(errors.IndexFolderError, match='another model'):
        index.check(other)
    with pytest.raises(errors.IndexFolderError):
        index.knowledge(other)
    index.force = True
    index.check(other)


def test_lengths_are_those_of_the_store(atlas, index):
    lengths = index.token_lengths(np.array([2, 3]))
    assert isinstance(lengths, types.TokenLengths) and len(lengths.reader_passages) == len(lengths.retriever_passages) == 23
    assert lengths.reader_queries.tolist() == [2, 3]


def test_it_opens_with_its_store_or_another_place(atlas, index, tmp_path):
    assert len(api.Index.open(index.index.path).store) == 23
    moved = tmp_path / 'moved'
    index.store.path.rename(moved)
    with pytest.raises(errors.StoreError):
        api.Index.open(index.index.path)
    assert len(api.Index.open(index.index.path, moved).store) == 23


def test_an_index_is_searched_with_its_model(atlas, index):
    questions = ['thing 3', 'what is red ?']
    found = index.search(questions, atlas, 4)
    assert found == atlas.search(questions, index, 4) and [len(row) for row in found] == [4, 4]
    assert isinstance(found[0][0], knowledge_index.FoundPassage) and found[0][0].index == str(index.index.path)
    assert len(index.search(questions, atlas)[0]) == 5 and index.search([], atlas) == []
    other = dataclasses.replace(atlas, params=jax.tree.map(lambda leaf: leaf + 1, atlas.params))
    with pytest.raises(errors.IndexFolderError, match='another model'):
        index.search(questions, other)


def test_what_is_there_as_it_is_is_not_added_again(atlas, index):
    rows, known = len(index.store), [index.store[2], index.store[5]]
    new = Passage('new', 'thing 99', '', 'The thing 99 is red .')
    assert index.replace([*known, new], atlas) == 1 and len(index.store) == len(index.index) == rows + 1
    assert index.replace([*known, new], atlas) == 0 and len(index.store) == rows + 1
    changed = dataclasses.replace(new, text='The thing 99 is blue .')
    assert index.replace([changed], atlas) == 1 and index.store[index.store.find('new')] == changed
    index.delete(['new'])
    assert index.replace([changed], atlas) == 1, 'one that was deleted comes back'
    assert int((~index.index.deleted).sum()) == rows + 1
    for twice in ([new, new], [known[0], dataclasses.replace(known[0], text='other')]):
        with pytest.raises(errors.StoreError, match='occurs twice'):
            index.replace(twice, atlas)
    with pytest.raises(errors.StoreError, match='no passages'):
        index.replace([], atlas)
    with pytest.raises(errors.StoreError, match='expected passages'):
        index.replace(['text'], atlas)


def test_passages_that_a_killed_call_stored_are_not_stored_twice(atlas, index, monkeypatch):
    rows, new = len(index.store), [Passage('new', 'thing 99', '', 'The thing 99 is red .')]
    with monkeypatch.context() as patch:
        patch.setattr(EmbeddingIndex, 'add', lambda *_, **__: 1 / 0 if len(index.store) > rows else 0)
        with pytest.raises(ZeroDivisionError):
            index.replace(new, atlas)
    again = api.Index.open(index.index.path)
    assert (len(again.store), len(again.index)) == (rows + 1, rows)
    assert again.replace(new, atlas) == 1 and len(again.store) == len(again.index) == rows + 1


def test_another_models_passages_are_embedded_again(atlas, index):
    other = dataclasses.replace(atlas, params=jax.tree.map(lambda leaf: leaf + 1, atlas.params))
    index.force = True
    assert index.replace([index.store[2]], other) == 1
