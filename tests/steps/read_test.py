"""The reader's forward pass: which level fits, where a query stands, what recorded attention comes to."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import partitioning, types
from atlas_jax.losses import attention_scores
from atlas_jax.steps import buckets, read
from atlas_jax.steps import spec as spec_lib
from tests.testing import tiny

MESH = partitioning.make_mesh(devices=jax.devices()[:1])


def spec_of(n_context: int = 2, **changes) -> spec_lib.StepSpec:
    levels = (buckets.Capacity(12, 5), buckets.Capacity(20, 7), buckets.Capacity(60, 11))
    spec = spec_lib.StepSpec(tiny.config(n_context), tiny.SEGMENTS, MESH, read=levels)
    return dataclasses.replace(spec, **changes)


def inputs_of(lengths: list[list[int]], width: int = 11) -> types.ReaderInputs:
    lengths = np.array(lengths, np.int32)
    return types.ReaderInputs(reader_tokens=jnp.ones((*lengths.shape, width), jnp.int32), reader_lengths=jnp.asarray(lengths))


@pytest.mark.parametrize('lengths, level', [([[5, 2], [3, 2]], 0), ([[6, 2], [3, 1]], 1), ([[5, 5], [2, 1]], 1), ([[11, 0], [0, 0]], 2),
                                            ([[11, 11], [11, 11]], 2), ([[0, 0], [0, 0]], 0)])
def test_the_smallest_level_that_holds_tokens_and_longest(lengths, level):
    assert int(read.capacity_level(inputs_of(lengths), spec_of())) == level


def test_passages_that_are_not_read_count_in_their_own_stream():
    scored = (buckets.Capacity(7, 7), buckets.Capacity(9, 9), buckets.Capacity(44, 11))
    spec = spec_of(scored=scored, distill=spec_lib.DistillConfig(retriever_n_context=3))
    assert int(read.capacity_level(inputs_of([[5, 2, 4], [3, 2, 3]]), spec)) == 0
    assert int(read.capacity_level(inputs_of([[5, 2, 6], [3, 2, 3]]), spec)) == 1
    embedded = dataclasses.replace(spec, embedded=scored)
    with_retriever = inputs_of([[5, 2, 4], [3, 2, 3]]).replace(retriever_lengths=jnp.array([[9, 1, 1], [0, 0, 0]]))
    assert int(read.capacity_level(with_retriever, embedded)) == 2
    with pytest.raises(AssertionError):
        read.capacity_level(inputs_of([[5, 2, 4], [3, 2, 3]]), embedded)


def test_the_query_is_found_where_it_stands():
    tokens = jnp.array([[[3, 7, 8, 9, 7, 8], [7, 8, 0, 0, 0, 0], [7, 9, 7, 7, 8, 1], [5, 6, 7, 0, 0, 0]]])
    found = read.query_mask(tokens, jnp.array([[7, 8, 0]]), jnp.array([2]))
    np.testing.assert_array_equal(found[0], [[0, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 0], [0] * 6])
    one_token = read.query_mask(tokens, jnp.array([[9]]), jnp.array([1]))
    np.testing.assert_array_equal(one_token[0].sum(axis=-1), [1, 0, 1, 0])
    assert not read.query_mask(tokens, jnp.array([[7, 8, 0]]), jnp.array([0])).any()


def test_recorded_attention_becomes_one_score_a_passage():
    layers, batch, targets, n, longest = 2, 1, 5, 2, 3
    recorded = jnp.zeros((layers, batch, targets, n, longest)).at[..., 0, :2].set(1.0).at[..., 1, 0].set(4.0)
    example = types.Batch(*(jnp.zeros((1, 2), jnp.int32), jnp.zeros(1, jnp.int32)) * 2, decoder_target_tokens=jnp.ones((1, 5), jnp.int32),
                          decoder_loss_weights=jnp.ones((1, 5)), example_ids=jnp.arange(1))
    statistic = attention_scores.STATISTICS['probssum']
    scores = read.attended({statistic.kind: recorded.reshape(layers, batch, targets, n * longest)}, statistic, example,
                           inputs_of([[2, 1]]), spec_of())
    assert scores.shape == (1, 2) and float(scores[0, 1] / scores[0, 0]) == pytest.approx(2.0)
