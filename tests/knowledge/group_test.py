"""Several indexes as one: owners of rows, results kept between calls, and indexes that do not fit together."""

import types as python_types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import errors, partitioning, types
from atlas_jax.corpus.passages import Passage
from atlas_jax.corpus.store import PassageStore
from atlas_jax.knowledge import group
from atlas_jax.knowledge.index_with_store import Index

MESH = partitioning.make_mesh(devices=jax.devices()[:1])


class FakeStore:
    """Passages by row."""

    def __init__(self, names):
        self.names = names

    def __getitem__(self, row):
        return Passage(self.names[row], '', '', 'text')

    def find(self, docid):
        return self.names.index(docid) if docid in self.names else None

    rows_of_document = PassageStore.rows_of_document


class FakeIndex(Index):
    """An index of so many rows that needs no files."""

    def __init__(self, names, dim=3, dtype='float32'):
        embeddings = python_types.SimpleNamespace(dim=dim, dtype=dtype, path='/'.join(names), __len__=None)
        super().__init__(embeddings, FakeStore(names))
        self.index = _Sized(len(names), dim, dtype, f'index-of-{len(names)}')

    def token_lengths(self, reader_queries):
        return types.TokenLengths(np.arange(len(self.index)), np.arange(len(self.index)) + 1, reader_queries)

    def knowledge(self, atlas, *, tokens=True, retriever_tokens=False, embeddings=True, room=False):
        rows = len(self.index) + room
        table = types.TokenTable(jnp.ones((rows, 2 + rows), jnp.int32), jnp.zeros(rows, jnp.int32), jnp.ones(rows, jnp.int32))
        return types.Knowledge(index=types.IndexArrays(jnp.ones((rows, 3)) * rows, jnp.ones(rows, bool)), reader_table=table)


class _Sized:
    def __init__(self, rows, dim, dtype, path):
        self.rows, self.dim, self.dtype, self.path = rows, dim, dtype, path

    def __len__(self):
        return self.rows


def test_a_document_is_found_by_its_pieces():
    whole = group.IndexGroup([FakeIndex(['a', 'b#0', 'b#1', 'b#10']), FakeIndex(['b', 'b#0', 'c#1'])])
    first = whole.first_rows(MESH)[1]
    assert whole.rows_of('b', MESH) == [1, 2, first, first + 1]
    assert whole.rows_of('a', MESH) == [0] and whole.rows_of('c', MESH) == [] and whole.rows_of('c#1', MESH) == [first + 2]


MODEL = python_types.SimpleNamespace(mesh=MESH)


def test_one_several_none_and_a_group():
    index = FakeIndex(['a'])
    assert group.as_group(None) is None
    assert group.as_group(index).indexes == (index,)
    both = group.as_group([index, FakeIndex(['b'])])
    assert len(both.indexes) == 2 and group.as_group(both) is both


@pytest.mark.parametrize('others', [[], [FakeIndex(['a']), FakeIndex(['b'], dim=5)], [FakeIndex(['a']), FakeIndex(['b'], dtype='int8')]])
def test_indexes_that_do_not_go_together_are_refused(others):
    with pytest.raises(errors.ConfigError, match='must have one dim and one dtype, found'):
        group.as_group(others)


def test_rows_of_one_follow_those_of_another():
    first, second = FakeIndex(['a', 'b', 'c']), FakeIndex(['d', 'a'])
    both = group.as_group([first, second])
    assert [both.locate(row, MESH) for row in (0, 2, 3, 4)] == [(first, 0), (first, 2), (second, 0), (second, 1)]
    assert both.passage(3, MESH).docid == 'd'
    assert both.rows_of('a', MESH) == [0, 4] and both.rows_of('c', MESH) == [2] and both.rows_of('?', MESH) == []


def test_lengths_of_all_parts_together():
    lengths = group.as_group([FakeIndex(['a', 'b']), FakeIndex(['c'])]).token_lengths(np.array([7]))
    assert lengths.reader_passages.tolist() == [0, 1, 0] and lengths.reader_queries.tolist() == [7]


def test_tables_of_several_widths_are_joined():
    whole = group.as_group([FakeIndex(['a', 'b', 'c']), FakeIndex(['d'])]).knowledge(MODEL)
    assert whole.index.embeddings[:, 0].tolist() == [3, 3, 3, 1]
    assert whole.reader_table.tokens.shape == (4, 5) and whole.reader_table.tokens[3].tolist() == [1, 1, 1, 0, 0]
    # Room lies behind the last index alone, so that no row has another number.
    roomy = group.as_group([FakeIndex(['a', 'b', 'c']), FakeIndex(['d'])]).knowledge(MODEL, room=True)
    assert roomy.index.embeddings[:, 0].tolist() == [3, 3, 3, 2, 2]


def test_what_is_made_of_one_index_outlives_the_group():
    index, made = FakeIndex(['a']), []

    def make():
        made.append(len(made))
        return made[-1]

    source = object()
    assert group.as_group(index)._keep('name', [source], make) == 0 == group.as_group(index)._keep('name', [source], make)
    assert group.as_group(index)._keep('name', [object()], make) == 1, 'made of something else'
    index.derived.clear()
    assert group.as_group(index)._keep('name', [source], make) == 2


def test_kept_rows_are_looked_up_only_where_examples_have_some():
    index = group.as_group(FakeIndex(['a', 'b']))
    example = python_types.SimpleNamespace(example_id=4, own_docid='b', hidden_docids=('a',))
    without = python_types.SimpleNamespace(example_id=5, own_docid=None, hidden_docids=())
    assert group.kept_rows(index, [example, without], MESH) == {4: [1, 0]}
    assert group.kept_rows(index, [without], MESH) is None and group.kept_rows(None, [example], MESH) is None


def test_no_index_one_or_several(tmp_path):
    assert group.open_indexes(None) == group.open_indexes([]) == []
    with pytest.raises(errors.IndexFolderError):
        group.open_indexes(str(tmp_path))
    with pytest.raises(errors.IndexFolderError):
        group.open_indexes([str(tmp_path), str(tmp_path)])
