"""The state of a retriever alone: what either method has, how the queue lies, and its way into a checkpoint and back."""

import jax
import numpy as np
import pytest

from atlas_jax import partitioning
from atlas_jax.models import parameters
from atlas_jax.nn import layer_scan
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training import contrastive, contrastive_step
from atlas_jax.training import state as state_lib
from atlas_jax.training.optimizer import OptimizerConfig
from tests.testing import tiny

MESH = partitioning.make_mesh(devices=jax.devices()[:1])
OPTIMIZER = contrastive_step.optimizer_for(OptimizerConfig(schedule='fixed', warmup_steps=0, total_steps=3))


def _spec(method, **step):
    lengths = np.array([5, 9])
    options = contrastive.ContrastiveConfig(method=method, queue_size=12)
    return contrastive.make_contrastive_spec(tiny.RETRIEVER, MESH, (lengths, lengths), (16, 16), 6, options, spec_lib.StepConfig(**step))


def _zeros():
    shapes = partitioning.unboxed_shapes(layer_scan.stack_layers({'retriever': parameters.abstract_part(tiny.RETRIEVER)}))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


@pytest.mark.parametrize('method', ['moco', 'inbatch'])
def test_it_goes_into_a_checkpoint_and_back(method):
    spec = _spec(method)
    made = state_lib.create_contrastive(_zeros(), spec, OPTIMIZER)
    params, optimizer = state_lib.contrastive_items(made)
    assert set(params) == {'retriever'} and ('queue' in optimizer) == (method == 'moco')
    again = state_lib.contrastive_from_items(params, optimizer)
    assert jax.tree.structure(again) == jax.tree.structure(made)
    shapes = state_lib.abstract_contrastive(spec, OPTIMIZER)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), shapes) == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), made)


def test_the_queue_begins_with_unit_vectors_of_the_seed():
    first, same, other = (state_lib.create_contrastive(_zeros(), _spec('moco'), OPTIMIZER, seed) for seed in (1, 1, 2))
    np.testing.assert_allclose(np.linalg.norm(first.queue, axis=-1), 1, rtol=1e-6)
    np.testing.assert_array_equal(first.queue, same.queue)
    assert np.abs(np.asarray(first.queue) - other.queue).max() > 0.1 and int(first.queue_pointer) == 0
    assert first.queue.sharding.spec == jax.sharding.PartitionSpec(partitioning.MESH_AXES, None)


def test_the_momentum_encoder_is_float32_whatever_the_parameters_are():
    made = state_lib.create_contrastive(_zeros(), _spec('moco', param_dtype='bfloat16'), OPTIMIZER)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(made.params)} == {'bfloat16'}
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(made.momentum_encoder)} == {'float32'}


def test_buffers_are_its_own():
    given = jax.tree.map(jax.numpy.asarray, _zeros())
    made = state_lib.create_contrastive(given, _spec('moco'), OPTIMIZER)
    jax.tree.map(lambda leaf: leaf.delete(), (made.params, made.momentum_encoder))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(given))
