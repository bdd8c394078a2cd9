"""The table of fields: its structs are trees with typed fields, and a missing part that must be there is our fault."""

import jax
import numpy as np
import pytest

from atlas_jax import types
from tests.testing import tiny


def test_structs_are_trees_whose_fields_can_be_replaced():
    known = tiny.knowledge()
    assert len(jax.tree.leaves(known)) == 2 + 3 + 3, 'embeddings and valid rows, and two tables; parts that are None have no leaf'
    doubled = jax.tree.map(lambda leaf: leaf * 2, known.index)
    replaced = known.replace(index=doubled)
    np.testing.assert_array_equal(replaced.index.embeddings, known.index.embeddings * 2)
    assert replaced.reader_table is known.reader_table and known.index is not doubled


def test_a_part_that_a_step_always_has():
    table = tiny.knowledge().retriever_table
    assert types.required(table) is table and types.required(0) == 0
    with pytest.raises(AssertionError):
        types.required(None)


def test_the_width_of_a_stream_is_static():
    stream = types.TokenStream(*[np.zeros(3)] * 5, longest=7)
    _, structure = jax.tree.flatten(stream)
    assert jax.tree.unflatten(structure, [1, 2, 3, 4, 5]).longest == 7
