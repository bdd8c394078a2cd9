"""The table of fields: how its structs pass through jax, and required values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import types


def _stream(longest: int) -> types.TokenStream:
    tokens, passages = jnp.zeros((2, 7), jnp.int32), jnp.zeros((2, 3), jnp.int32)
    return types.TokenStream(tokens, positions=tokens, passage_indices=tokens - 1, starts=passages, lengths=passages, longest=longest)


def test_the_longest_passage_is_static():
    """`longest` sizes arrays: another value is another program."""
    assert len(jax.tree.leaves(_stream(5))) == 5
    assert jax.tree.structure(_stream(5)) != jax.tree.structure(_stream(11))
    calls = []

    @jax.jit
    def rows(stream):
        calls.append(stream.longest)
        return jnp.zeros((len(stream.tokens), stream.longest))

    assert [rows(_stream(longest)).shape for longest in (5, 11, 5)] == [(2, 5), (2, 11), (2, 5)]
    assert calls == [5, 11]


def test_parts_that_are_not_there_have_no_leaves():
    table = types.TokenTable(tokens=np.zeros((3, 128), np.uint16), title_lengths=np.zeros(3, np.int32), lengths=np.zeros(3, np.int32))
    knowledge = types.Knowledge(index=None, reader_table=table)
    assert len(jax.tree.leaves(knowledge)) == 3
    rows = types.IndexArrays(embeddings=np.zeros((3, 5), np.float32), valid=np.ones(3, bool))
    assert len(jax.tree.leaves(knowledge.replace(index=rows, scanned=types.ScannedRows(rows)))) == 7


def test_fields_are_not_set_but_replaced():
    retrieved = types.Retrieved(scores=np.zeros((2, 3), np.float32), passage_ids=np.zeros((2, 3), np.int32))
    with pytest.raises(AttributeError):
        retrieved.scores = np.ones((2, 3), np.float32)
    assert retrieved.replace(scores=np.ones((2, 3), np.float32)).scores.sum() == 6 and retrieved.scores.sum() == 0


def test_a_required_part_that_is_lacking_is_a_fault_of_ours():
    assert types.required(0) == 0
    with pytest.raises(AssertionError):
        types.required(None)
