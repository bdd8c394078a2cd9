"""Passages' tokens read from the stores: the rows that the tables have, of several indexes, after additions; damage is said."""

import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.answering import api
from atlas_jax.corpus import store_arrays
from atlas_jax.corpus.passages import Passage
from atlas_jax.knowledge import group as index_group
from atlas_jax.knowledge.token_rows import TokenRows
from tests.testing import tiny_run


@pytest.fixture(scope='module')
def atlas():
    return tiny_run.atlas(dropout_rate=0.0)


@pytest.fixture
def indexes(atlas, tmp_path):
    """One of 23 passages, three of them added later, and one of three long ones."""
    first = tiny_run.index(atlas, tmp_path)
    first.replace([Passage(f'new{i}', '', '', f'The thing {i} is red .' * i) for i in range(1, 4)], atlas)
    long = [Passage(f'long{i}', 'thing', '', 'The thing is white . ' * 40) for i in range(3)]
    store = api.PassageStore.from_passages(long, tmp_path / 'long', progress=False)
    return [first, api.Index.build(store, atlas, tmp_path / 'long-index', show_progress=False)]


def test_rows_are_those_of_the_tables(atlas, indexes, monkeypatch):
    # Small chunks: passages reach from one into the next.
    monkeypatch.setattr(store_arrays, 'CHUNK_VALUES', 7)
    indexes[0].replace([Passage('newest', 'thing', '', 'The thing 5 is black .' * 9)], atlas)
    group = index_group.as_group(indexes)
    reader = TokenRows(group, atlas, retriever_tokens=True)
    known = group.knowledge(atlas, retriever_tokens=True)
    rows = np.array([[29, 0, 26], [3, 29, 27], [24, 22, 3]])
    for _ in range(2):  # whole chunks are read at first, ranges afterwards
        found = reader.read(rows)
        for side, table in (('reader', known.reader_table), ('retriever', known.retriever_table)):
            for name in ('tokens', 'title_lengths', 'lengths'):
                np.testing.assert_array_equal(getattr(found[side], name), np.asarray(getattr(table, name))[rows], err_msg=name)
    assert found['reader'].tokens.dtype == np.uint16 and found['reader'].lengths.max() == 40
    assert list(TokenRows(group, atlas, retriever_tokens=False).read(rows)) == ['reader']


def test_padding_is_empty(atlas, indexes):
    class Two:
        """A model on two devices: an index of an odd number of rows has one of padding."""

        mesh = type('Mesh', (), {'size': 2})()

        def __getattr__(self, name):
            return getattr(atlas, name)

    group = index_group.as_group([indexes[1], indexes[0]])
    found = TokenRows(group, Two(), retriever_tokens=False).side('reader', np.array([2, 3, 4]))
    assert found.lengths.tolist()[:2] == [40, 0] and found.lengths[2] > 0 and not found.tokens[1].any()


def test_a_chunk_that_is_damaged_or_cut_is_said(atlas, indexes):
    reader = TokenRows(index_group.as_group(indexes[0]), atlas, retriever_tokens=False)
    chunk = sorted(indexes[0].store.path.glob('*/tokens/reader/ids/c/0'))[0]
    whole = chunk.read_bytes()
    chunk.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(errors.StoreError, match='restore it or build the store again'):
        reader.side('reader', np.array([1]))
    chunk.write_bytes(whole)
    reader.side('reader', np.array([1]))
    chunk.write_bytes(whole[:4])
    with pytest.raises(errors.StoreError, match='chunk 0 was read before and cannot be read again .cut short.'):
        reader.side('reader', np.array([9]))


def test_another_model_is_refused(atlas, indexes):
    other = tiny_run.atlas(dropout_rate=0.0)
    other.params['retriever'] = {'other': np.zeros(1)}
    with pytest.raises(errors.IndexFolderError, match='another model'):
        TokenRows(index_group.as_group(indexes), other, retriever_tokens=False)
