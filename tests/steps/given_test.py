"""Passages that come with the batch: their capacities, and the scores that they get."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import errors, partitioning, types
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.steps import given
from atlas_jax.steps import spec as spec_lib
from tests.testing import tiny

MESH = partitioning.make_mesh(devices=jax.devices()[:1])
LENGTHS = np.array([5, 7, 13, 31])


def make(distill=None, n_context: int = 2, **options) -> spec_lib.StepSpec:
    return given.make_given_spec(tiny.config(n_context), None, MESH, LENGTHS, LENGTHS + 2, 3, distill, **options)


def batch_of(lengths) -> types.Batch:
    lengths = jnp.asarray(lengths, jnp.int32)
    tokens = jnp.ones((*lengths.shape, 7), jnp.int32)
    return dataclasses.replace(jax.tree.map(jnp.asarray, tiny.batch(len(lengths))), passage_tokens=tokens, passage_lengths=lengths,
                               retriever_passage_tokens=tokens * 2, retriever_passage_lengths=lengths)


def never(*_):
    raise AssertionError('nothing is embedded here')


def test_passages_are_embedded_for_their_scores_where_nothing_is_trained():
    assert make().reranked and not make(spec_lib.DistillConfig(retriever_n_context=2)).reranked
    frozen = make(spec_lib.DistillConfig(retriever_training='frozen'))
    assert frozen.passages_scored == 0


def test_re_ranking_is_refused():
    with pytest.raises(errors.ConfigError, match='set SearchConfig.rerank_candidates to 0'):
        make(search=SearchConfig(rerank_candidates=5))


def test_a_closed_book_takes_its_input_as_it_is():
    spec = given.make_given_spec(tiny.config(0), None, MESH, LENGTHS, LENGTHS, 3)
    inputs = given.inputs_of(batch_of([[4], [7], [0]]), spec, None, never, never)
    assert inputs.retrieved is None and inputs.reader_lengths.tolist() == [[4], [7], [0]]


def test_what_was_retrieved_keeps_its_scores():
    retrieved = types.Retrieved(scores=jnp.ones((3, 2)), passage_ids=jnp.arange(6).reshape(3, 2))
    inputs = given.inputs_of(batch_of([[4, 3], [7, 1], [2, 0]]), make(), retrieved, never, never)
    assert inputs.retrieved is retrieved and inputs.retriever_tokens is None


def test_own_passages_are_scored_in_their_order_and_empty_slots_are_marked():
    lengths = [[4, 3], [7, 0], [0, 0]]
    embeddings = jnp.arange(3 * 2 * 5, dtype=jnp.float32).reshape(3, 2, 5)
    queries = jnp.ones((3, 5))
    inputs = given.inputs_of(batch_of(lengths), make(), None, lambda: queries, lambda tokens, widths: embeddings)
    scores = np.where(np.array(lengths) > 0, np.asarray(embeddings).sum(axis=-1), -np.inf)
    np.testing.assert_array_equal(inputs.retrieved.scores, scores)
    assert inputs.retrieved.passage_ids.tolist() == [[0, 1]] * 3 and inputs.passage_embeddings is None


def test_what_is_trained_is_embedded_by_the_step_itself():
    spec = make(spec_lib.DistillConfig(retriever_n_context=2))
    inputs = given.inputs_of(batch_of([[4, 3], [7, 1], [2, 0]]), spec, None, never, never)
    assert inputs.retriever_tokens.shape == (3, 2, 7) and np.isfinite(inputs.retrieved.scores[0]).all()
