"""The joint loss against its parts computed by hand, on scores that are given."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax import partitioning
from atlas_jax.losses import distill
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training import joint_loss
from tests.testing import tiny

MESH = partitioning.make_mesh(devices=jax.devices()[:1])
SPEC = spec_lib.make_step_spec(tiny.config(), tiny.SEGMENTS, MESH, tiny.lengths(tiny.knowledge()), 4,
                          spec_lib.DistillConfig(temperature_gold=0.5, temperature_score=0.25, retriever_n_context=3))
SCORES = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3)), jnp.float32)
GOLD = jnp.asarray(np.random.default_rng(1).standard_normal((4, 3)), jnp.float32)


def test_temperatures_and_fillers_reach_the_distillation_loss():
    batch = jax.tree.map(jnp.asarray, tiny.batch(4, fillers=1))
    found = joint_loss._distilled(SCORES, GOLD, batch, SPEC)
    weights = jnp.array([1.0, 1.0, 1.0, 0.0])
    expected = distill.distillation_loss(SCORES, GOLD, temperature_score=0.25, temperature_gold=0.5, example_weights=weights)
    assert float(found) == float(expected) and float(found) > 0
    other = joint_loss._distilled(SCORES.at[3].add(5.0), GOLD, batch, SPEC)
    assert float(other) == float(found), 'a filler counts for nothing'


def test_no_gradient_flows_into_the_gold_scores():
    batch = jax.tree.map(jnp.asarray, tiny.batch(4))
    to_scores, to_gold = jax.grad(lambda scores, gold: joint_loss._distilled(scores, gold, batch, SPEC), argnums=(0, 1))(SCORES, GOLD)
    assert np.abs(to_scores).max() > 0 and not np.any(to_gold)


def test_embeddings_of_the_index_are_scored_by_the_query_alone(monkeypatch):
    queries = jnp.arange(4 * 9, dtype=jnp.float32).reshape(4, 9)
    passages = jnp.ones((4, 3, 9)) * jnp.arange(3)[:, None]
    monkeypatch.setattr(joint_loss.retrieve, 'embed_queries', lambda *_: queries)
    retrieved = joint_loss.types.Retrieved(scores=jnp.ones((4, 3)).at[2, 1].set(-jnp.inf), passage_ids=jnp.zeros((4, 3), jnp.int32))
    inputs = joint_loss.types.ReaderInputs(jnp.ones((4, 3, 5), jnp.int32), jnp.ones((4, 3), jnp.int32), retrieved,
                                           passage_embeddings=passages)
    spec = dataclasses.replace(SPEC, distill=dataclasses.replace(SPEC.distillation, retriever_training='query_side'))
    scores = np.array(joint_loss._retriever_scores({'retriever': None}, tiny.batch(4), inputs, spec, 0, None, None))
    assert scores[2, 1] == -np.inf
    scores[2, 1] = 0
    expected = np.asarray(queries.sum(axis=1))[:, None] * np.arange(3) / 3.0  # sqrt of 9 dimensions
    expected[2, 1] = 0
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_scores_from_a_file_are_learnt_as_those_of_the_reader_are():
    spec = dataclasses.replace(SPEC, distill=dataclasses.replace(SPEC.distillation, gold_score_mode='file'))
    batch = jax.tree.map(jnp.asarray, tiny.batch(4)).replace(passage_gold_scores=jnp.pad(GOLD, ((0, 0), (0, 2))))
    loss, gold_scores = joint_loss._taught((None, {}), SCORES, batch, None, spec)
    np.testing.assert_array_equal(gold_scores, GOLD)
    assert float(loss) == float(joint_loss._distilled(SCORES, GOLD, batch, SPEC)) > 0
