"""The train state: what it holds, how it lies on a mesh, and its way into a checkpoint and back."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from atlas_jax import partitioning
from atlas_jax.models import parameters
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training import state, train_step
from atlas_jax.training.optimizer import OptimizerConfig
from tests.testing import tiny

MESH = partitioning.make_mesh(devices=jax.devices()[:1])
OPTIMIZER = OptimizerConfig(schedule='fixed', warmup_steps=0, total_steps=3)


def spec_of(kind: str, **step) -> spec_lib.StepSpec:
    return spec_lib.make_step_spec(tiny.config(), tiny.SEGMENTS, MESH, tiny.lengths(tiny.knowledge()), 3,
                              spec_lib.DistillConfig(retriever_training=kind), spec_lib.StepConfig(**step))


def zeros() -> dict:
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype),
                        partitioning.unboxed_shapes(parameters.abstract_params(tiny.config())))


@pytest.mark.parametrize(('kind', 'parts', 'keeps'), [('joint', {'reader', 'retriever'}, False),
                                                      ('untied', {'reader', 'retriever', 'passage_encoder'}, False),
                                                      ('query_side', {'reader', 'retriever'}, True),
                                                      ('frozen', {'reader', 'retriever'}, False)])
def test_parts_by_kind_of_training_and_back_from_a_checkpoint(kind, parts, keeps):
    spec = spec_of(kind)
    made = state.create(zeros(), spec, train_step.optimizer_for(spec, OPTIMIZER))
    assert set(made.params) == parts and (made.passage_encoder is not None) == keeps and int(made.step) == 0
    params, optimizer = state.to_items(made)
    again = state.from_items(params, optimizer, spec.trains_passage_encoder)
    assert jax.tree.structure(again) == jax.tree.structure(made)
    shapes = state.abstract(spec, train_step.optimizer_for(spec, OPTIMIZER))
    assert jax.tree.map(lambda leaf: leaf.shape, shapes) == jax.tree.map(lambda leaf: leaf.shape, made)


def test_buffers_are_its_own():
    given, spec = jax.tree.map(jnp.asarray, zeros()), spec_of('query_side')
    made = state.create(given, spec, train_step.optimizer_for(spec, OPTIMIZER))
    jax.tree.map(lambda leaf: leaf.delete(), (made.params, made.passage_encoder))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(given))


def test_parameters_are_stored_in_the_dtype_asked_for_and_moments_in_float32():
    spec = spec_of('joint', param_dtype='bfloat16')
    made = state.create(zeros(), spec, train_step.optimizer_for(spec, OPTIMIZER))
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(made.params)} == {'bfloat16'}
    floats = {str(leaf.dtype) for leaf in jax.tree.leaves(made.optimizer_state) if jnp.issubdtype(leaf.dtype, jnp.floating)}
    assert floats == {'float32'}


def test_moments_lie_like_their_parameter_and_factored_ones_like_what_they_keep():
    mesh = partitioning.make_abstract_mesh((1, 2, 2))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('fsdp', 'model'))
    assert state._like((6, 10), (6, 10), whole) is whole
    assert state._like((6,), (6, 10), whole).spec == jax.sharding.PartitionSpec('fsdp')
    assert state._like((10,), (6, 10), whole).spec == jax.sharding.PartitionSpec('model')
    assert state._like((7,), (6, 10), whole).spec == jax.sharding.PartitionSpec()
    shardings = state.optimizer_shardings(optax.scale_by_adam(), {'a': jnp.ones((6, 10))}, {'a': whole}, MESH)
    assert shardings.mu['a'] is whole and shardings.nu['a'] is whole and shardings.count.spec == jax.sharding.PartitionSpec()


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf, 2e19, -1e30])
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_a_parameter_that_nothing_can_be_computed_with_is_named(value, dtype):
    params = {'reader': {'wo': {'kernel': jnp.full((3, 5), -1e9, dtype)}}, 'retriever': {'norm': {'scale': jnp.ones(7, dtype)}}}
    spec = spec_of('joint')
    assert state.divergence(params, spec) == ''
    params['retriever']['norm']['scale'] = params['retriever']['norm']['scale'].at[4].set(value)
    assert state.divergence(params, spec).startswith('retriever/norm/scale reaches ')
