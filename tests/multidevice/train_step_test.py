"""The same training on 1 and on 8 devices, on every mesh: losses and parameters within float32 rounding."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from atlas_jax import errors, partitioning, types
from atlas_jax.models import contriever, parameters
from atlas_jax.nn import layer_scan
from atlas_jax.steps import answer as answer_step
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training import contrastive, contrastive_step, state, train_step
from atlas_jax.training.optimizer import OptimizerConfig
from tests.testing import tiny

# Adam divides a gradient by its own size: with the default epsilon of 1e-6 the last digit of a gradient near zero decides a parameter.
OPTIMIZER = OptimizerConfig(learning_rate=1e-3, retriever_learning_rate=1e-3, schedule='fixed', warmup_steps=0, total_steps=10,
                            epsilon=1e-4)
# Each compiles a step, with so many capacities.
CASES = [('joint', (1, 2, 4), 2), ('query_side', (2, 2, 2), 1), pytest.param('joint', (1, 8, 1), 1, marks=pytest.mark.exhaustive),
         pytest.param('query_side', (2, 2, 2), 2, marks=pytest.mark.exhaustive)]
ACCUMULATION = {'joint': 1, 'query_side': 2}


def _mesh(shape):
    return partitioning.make_mesh(shape, jax.devices()[:int(np.prod(shape))])


def _spec(mesh, distill=None, step=None, levels=1):
    spec = spec_lib.make_step_spec(tiny.config(), tiny.SEGMENTS, mesh, tiny.lengths(tiny.knowledge()), 8, distill, step)
    # With two capacities the step has a choice; each is compiled.
    return dataclasses.replace(spec, read=spec.read[-levels:], embedded=spec.embedded[-levels:], scored=spec.scored[-levels:])


def _knowledge(mesh):
    return jax.device_put(tiny.knowledge(), partitioning.sharding(mesh, 'passages'))


def _batch(mesh, size, seed=0):
    return jax.device_put(tiny.batch(size, seed), partitioning.batch_sharding(mesh, size))


def _run(shape, mode, levels, steps=3):
    mesh = _mesh(shape)
    accumulation = ACCUMULATION[mode]
    # Layers are computed again where there is a mesh, and not on one device: the gradients are the same.
    layout = spec_lib.StepConfig(accumulation, remat='full' if mesh.size > 1 and accumulation > 1 else 'none')
    spec = _spec(mesh, spec_lib.DistillConfig(temperature_gold=0.1, temperature_score=0.1, retriever_n_context=5, retriever_training=mode),
                 layout, levels)
    params = tiny.params()
    current = state.create(params, spec, train_step.optimizer_for(spec, OPTIMIZER))
    step, known = train_step.make_train_step(spec, OPTIMIZER), _knowledge(mesh)
    losses = []
    for seed in range(steps):
        current, metrics = step(current, _batch(mesh, 8 * accumulation, seed), known)
        losses.append([float(metrics['reader_loss']), float(metrics['retriever_loss'])])
    assert step._cache_size() == 1
    return np.array(losses), current


@functools.cache
def _alone(mode):
    return _run((1, 1, 1), mode, levels=1)


@pytest.mark.parametrize('mode, shape, levels', CASES)
def test_training_equals_one_device(mode, shape, levels):
    losses, current = _alone(mode)
    found, state_found = _run(shape, mode, levels)
    np.testing.assert_allclose(found, losses, rtol=2e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * max(np.abs(b).max(), 1e-2)),
                 jax.device_get(state_found.params), jax.device_get(current.params))


@pytest.mark.exhaustive  # the default run has two slices with a mesh larger than the batch, below
def test_two_slices_train_as_one_device(monkeypatch):
    # Every other device is in the same slice, so that `data` takes other devices than without slices.
    monkeypatch.setattr(partitioning, '_slice_of', lambda device: device.id % 2)
    assert {device.id % 2 for device in _mesh((2, 2, 2)).devices[0].flat} == {0}
    test_training_equals_one_device('joint', (2, 2, 2), levels=1)


def test_parameters_and_moments_are_spread():
    _, current = _run((1, 2, 4), 'joint', levels=2, steps=1)
    kernel = current.params['reader']['encoder']['layers']['mlp']['wo']['kernel']  # [layers, mlp, embed]; 31 does not divide over model
    assert kernel.sharding.spec == jax.sharding.PartitionSpec(None, None, 'fsdp')
    moments = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(current.optimizer_state)
               if 'token_embedder' in jax.tree_util.keystr(path)]
    assert moments and not any(leaf.sharding.is_fully_replicated for leaf in moments)


def test_answers_equal_one_device():
    params = tiny.params()
    results = []
    for shape in [(1, 1, 1), (1, 8, 1)]:
        mesh = _mesh(shape)
        step = answer_step.make_answer_step(_spec(mesh))
        placed = jax.device_put(params, parameters.param_shardings(tiny.config(), mesh))
        answered = step(placed, _batch(mesh, 8), _knowledge(mesh))
        results.append(jax.device_get(answered))
    np.testing.assert_array_equal(results[0].tokens, results[1].tokens)
    np.testing.assert_array_equal(results[0].retrieved.passage_ids, results[1].retrieved.passage_ids)
    np.testing.assert_allclose(results[0].attention, results[1].attention, atol=1e-5)


@pytest.mark.parametrize('slices', [2, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_a_mesh_larger_than_the_batch_equals_one_device(slices, monkeypatch):
    monkeypatch.setattr(partitioning, '_slice_of', lambda device: device.id % slices)
    # Four examples on eight devices: each has its passages in two streams, and both devices of `model` decode it.
    config = dataclasses.replace(tiny.config(4), reader=dataclasses.replace(tiny.READER, mlp_dim=32))
    distill = spec_lib.DistillConfig(temperature_gold=0.1, temperature_score=0.1, retriever_n_context=6)
    params = tiny.init(tiny.init_params, config)
    results = []
    for shape in [(1, 1, 1), (2, 2, 2)]:
        mesh = _mesh(shape)
        spec = spec_lib.make_step_spec(config, tiny.SEGMENTS, mesh, tiny.lengths(tiny.knowledge()), 4, distill)
        spec = dataclasses.replace(spec, read=spec.read[-1:], embedded=spec.embedded[-1:], scored=spec.scored[-1:])
        current = state.create(jax.tree.map(np.copy, params), spec, train_step.optimizer_for(spec, OPTIMIZER))
        current, metrics = train_step.make_train_step(spec, OPTIMIZER)(current, _batch(mesh, 4), _knowledge(mesh))
        results.append(jax.device_get((metrics['reader_loss'], metrics['retriever_loss'], current.params)))
    np.testing.assert_allclose(results[1][:2], results[0][:2], rtol=2e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * max(np.abs(b).max(), 1e-2)), results[1][2], results[0][2])


def test_a_batch_that_divides_nowhere_is_refused():
    with pytest.raises(errors.ConfigError, match=r'batch_size 4 does not divide over 8 devices; its passages \(2, 3, 5 an'):
        spec_lib.make_step_spec(tiny.config(3), tiny.SEGMENTS, _mesh((2, 2, 2)), tiny.lengths(tiny.knowledge()), 4,
                           spec_lib.DistillConfig(retriever_n_context=5))


def _one_layer(config, key):
    return layer_scan.stack_layers(contriever.init_params(config, key))


def _contrastive(mesh, method, chunks):
    options = contrastive.ContrastiveConfig(method=method, queue_size=48, momentum=0.9, temperature=0.5, chunks=chunks)
    lengths = np.array([5, 9, 16])
    retriever = dataclasses.replace(tiny.RETRIEVER, num_layers=1)  # each of these programs is compiled
    spec = contrastive.make_contrastive_spec(retriever, mesh, (lengths, lengths), (16, 16), 16, options)
    spec = dataclasses.replace(spec, queries=spec.queries[-1:], passages=spec.passages[-1:])
    optimizer = contrastive_step.optimizer_for(OPTIMIZER)
    current = state.create_contrastive({'retriever': tiny.init(_one_layer, retriever)}, spec, optimizer)
    step, losses = contrastive_step.make_contrastive_step(spec, OPTIMIZER), []
    for seed in range(4):  # the fourth batch takes the place of the first in the queue
        generator = np.random.default_rng(seed)
        lengths = generator.integers(3, 17, (2, 16)).astype(np.int32)
        tokens = np.where(np.arange(16) < lengths[..., None], generator.integers(9, 97, (2, 16, 16)), 0).astype(np.int32)
        numbers = np.arange(16, dtype=np.int32)
        batch = types.ContrastiveBatch(tokens[0], lengths[0], tokens[1][:, None], lengths[1][:, None], numbers[:, None], numbers[:, None],
                                       numbers)
        current, metrics = step(current, jax.device_put(batch, partitioning.batch_sharding(mesh, 16)))
        losses.append(float(metrics['loss']))
    assert step._cache_size() == 1
    return np.array(losses), current


@pytest.mark.parametrize(('method', 'chunks'), [('moco', 1), ('inbatch', 2)])
def test_contrastive_training_equals_one_device(method, chunks):
    alone, expected = _contrastive(_mesh((1, 1, 1)), method, 1)
    losses, current = _contrastive(_mesh((1, 2, 4)), method, chunks)
    np.testing.assert_allclose(losses, alone, rtol=1e-6)
    items = [jax.device_get(state.contrastive_items(each)) for each in (current, expected)]
    found, wanted = [(params, moments.get('momentum_encoder'), moments.get('queue')) for params, moments in items]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, wanted)
    if method == 'moco':
        assert not current.queue.sharding.is_fully_replicated and current.queue.addressable_shards[0].data.shape == (6, 22)
        assert int(current.queue_pointer) == 16
