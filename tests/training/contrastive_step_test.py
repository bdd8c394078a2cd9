"""The contrastive step: chunks give the whole batch's update, momentum follows its schedule, and normalisation is in the loss alone."""

import dataclasses

import jax
import numpy as np
import pytest

from atlas_jax import partitioning, types
from atlas_jax.models import contriever
from atlas_jax.nn import layer_scan
from atlas_jax.training import contrastive, contrastive_step
from atlas_jax.training import state as state_lib
from atlas_jax.training.optimizer import OptimizerConfig
from tests.testing import tiny

MESH = partitioning.make_mesh(devices=jax.devices()[:1])
OPTIMIZER = OptimizerConfig(retriever_learning_rate=1e-2, schedule='fixed', warmup_steps=0, total_steps=10, epsilon=1e-4)
RETRIEVER = dataclasses.replace(tiny.RETRIEVER, num_layers=1)  # every program here is compiled
LENGTHS = np.array([5, 9, 16])


def _spec(dropout_rate=0.0, **options):
    given = contrastive.ContrastiveConfig(**{'queue_size': 12, 'momentum': 0.9, 'temperature': 0.5, **options})
    config = dataclasses.replace(RETRIEVER, dropout_rate=dropout_rate)
    spec = contrastive.make_contrastive_spec(config, MESH, (LENGTHS, LENGTHS), (16, 16), 6, given)
    return dataclasses.replace(spec, queries=spec.queries[-1:], passages=spec.passages[-1:])


def _batch():
    generator = np.random.default_rng(0)

    def rows(*shape):
        lengths = generator.integers(3, 17, shape).astype(np.int32)
        return np.where(np.arange(16) < lengths[..., None], generator.integers(9, 97, (*shape, 16)), 0).astype(np.int32), lengths

    numbers = np.arange(6, dtype=np.int32)
    return types.ContrastiveBatch(*rows(6), *rows(6, 1), numbers[:, None], numbers[:, None], numbers)


def _init(config, key):
    return layer_scan.stack_layers(contriever.init_params(config, key))


def _state(spec):
    return state_lib.create_contrastive({'retriever': tiny.init(_init, RETRIEVER)}, spec, contrastive_step.optimizer_for(OPTIMIZER))


def _after(spec, batch):
    state, metrics = contrastive_step.make_contrastive_step(spec, OPTIMIZER, seed=3)(_state(spec), batch)
    return jax.device_get(state), {name: float(value) for name, value in metrics.items()}


def test_chunks_make_the_whole_batchs_update():
    # tests/multidevice compares chunks with negatives from the batch.
    spec, batch = _spec(normalize_query=True), _batch()
    whole, figures = _after(spec, batch)
    parts, found = _after(_spec(normalize_query=True, chunks=3), batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), parts, whole)
    assert found['loss'] == pytest.approx(figures['loss'], rel=1e-6) and found['accuracy'] == figures['accuracy']
    assert found['retriever_tokens'] == batch.query_lengths.sum() + batch.passage_lengths.sum()
    # Three passes over what has a gradient, one over keys.
    assert found['model_flops'] == pytest.approx(figures['model_flops']) and found['model_flops'] > 0
    started = _state(spec)
    np.testing.assert_array_equal(whole.queue[6:], started.queue[6:])
    assert np.abs(whole.queue[:6] - started.queue[:6]).max() > 0.1 and whole.queue_pointer == 6
    # A tenth of the way that the encoder went.
    jax.tree.map(lambda slow, fast, start: np.testing.assert_allclose(slow - start, 0.1 * (fast - start), atol=1e-6),
                 whole.momentum_encoder, whole.params['retriever'], started.params['retriever'])


def test_momentum_is_constant_or_rises_to_one():
    constant, cosine = _spec(), _spec(momentum_schedule='cosine')
    assert [float(contrastive_step.momentum_at(constant, 10, step)) for step in (0, 7)] == pytest.approx([0.9, 0.9])
    found = [float(contrastive_step.momentum_at(cosine, 10, step)) for step in (0, 5, 10, 12)]
    assert found == pytest.approx([0.9, 0.95, 1.0, 1.0])


def test_dropout_is_another_in_every_chunk_and_on_either_side():
    spec = _spec(dropout_rate=0.1, chunks=2)
    chunks = contrastive_step._chunks(spec, _batch(), jax.random.key(0))
    assert chunks['query_tokens'].shape == (2, 1, 3, 16) and chunks['passage_lengths'].shape == (2, 1, 3)
    assert not np.array_equal(*np.asarray(chunks['key']))
