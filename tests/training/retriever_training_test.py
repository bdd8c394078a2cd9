"""Which encoders a step moves: two of them, one that waits, one that is frozen."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax import partitioning
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training import state, train_step
from atlas_jax.training.optimizer import OptimizerConfig
from tests.testing import tiny

OPTIMIZER = OptimizerConfig(learning_rate=1e-2, retriever_learning_rate=1e-2, schedule='fixed', warmup_steps=0, total_steps=10)


def _spec(known, **distill):
    mesh = partitioning.make_mesh(devices=jax.devices()[:1])
    spec = spec_lib.make_step_spec(tiny.config(2), tiny.SEGMENTS, mesh, tiny.lengths(known), 3,
                              spec_lib.DistillConfig('adist', 0.01, 0.1, retriever_n_context=3, **distill))
    # one capacity: half the compilation
    return dataclasses.replace(spec, read=spec.read[-1:], embedded=spec.embedded[-1:], scored=spec.scored[-1:])


def _same(first, second) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True))


def test_two_encoders_are_two_and_wait_together():
    """The passages' starts as a copy of the queries' and goes its own way, after the update in which both are frozen."""
    known = jax.tree.map(jnp.asarray, tiny.knowledge())
    spec = _spec(known, retriever_training='untied', freeze_retriever_steps=1)
    before = tiny.params()
    optimizer = train_step.optimizer_for(spec, OPTIMIZER)
    current = state.create(before, spec, optimizer)
    assert set(current.params) == {'reader', 'retriever', 'passage_encoder'} and current.passage_encoder is None
    step = train_step.make_train_step(spec, OPTIMIZER)
    after, metrics = step(current, jax.tree.map(jnp.asarray, tiny.batch(3)), known)
    assert _same(after.params['retriever'], before['retriever']) and _same(after.params['passage_encoder'], before['retriever'])
    assert not _same(after.params['reader'], before['reader'])
    assert float(metrics['loss']) == float(metrics['reader_loss'])
    after, metrics = step(after, jax.tree.map(jnp.asarray, tiny.batch(3, seed=1)), known)
    assert step._cache_size() == 1
    assert not _same(after.params['retriever'], before['retriever']) and not _same(after.params['passage_encoder'], before['retriever'])
    assert not _same(after.params['retriever'], after.params['passage_encoder'])
    # the way to a checkpoint and back
    params, moments = state.to_items(after)
    assert set(params) == {'reader', 'retriever', 'passage_encoder'}
    again = state.from_items(params, moments, trains_passage_encoder=True)
    assert jax.tree.structure(again) == jax.tree.structure(after) == jax.tree.structure(state.abstract(spec, optimizer))
    assert state.from_items(params, moments).passage_encoder is params['passage_encoder']


def test_a_given_passage_encoder_is_where_the_second_encoder_starts():
    known = tiny.knowledge()
    params, other = (tiny.params(key) for key in (3, 4))
    places = {'untied': lambda current: current.params['passage_encoder'], 'query_side': lambda current: current.passage_encoder}
    for mode, where in places.items():
        spec = _spec(known, retriever_training=mode)
        current = state.create(params, spec, train_step.optimizer_for(spec, OPTIMIZER), other['retriever'])
        assert _same(where(current), other['retriever'])


def test_what_each_kind_of_training_needs():
    known = tiny.knowledge()
    by_kind = {kind: _spec(known, retriever_training=kind) for kind in spec_lib.RETRIEVER_TRAINING}
    assert {kind for kind, spec in by_kind.items() if spec.embedded} == {'joint', 'untied'}
    assert {kind for kind, spec in by_kind.items() if spec.keeps_passage_encoder} == {'query_side'}
    assert {kind for kind, spec in by_kind.items() if spec.trains_passage_encoder} == {'untied'}
    assert {kind for kind, spec in by_kind.items() if spec.passages_scored == 0} == {'frozen'}
