"""Twenty steps of joint training against the original's own, in every recorded run (fixtures/parity/README.md)."""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from atlas_jax import partitioning, types
from atlas_jax.conversion import hf_names
from atlas_jax.models import atlas
from atlas_jax.nn import layer_scan
from atlas_jax.steps import buckets
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training import train_step
from atlas_jax.training.optimizer import OptimizerConfig
from tests.testing import loaded, streams

pytestmark = pytest.mark.optimized

FIXTURES = pathlib.Path(__file__).parents[1] / 'fixtures' / 'parity'
PASSAGES, WIDTH, QUERY_WIDTH = 5, 48, 20


def _recorded_run(number: str) -> dict:
    return next(run for run in json.loads((FIXTURES / 'training.json').read_text()) if str(run['run']) == number)


def _spec(reader_config, retriever_config, n_context=PASSAGES, accumulation_steps=1, **distill) -> spec_lib.StepSpec:
    full = (buckets.Capacity(3 * PASSAGES * WIDTH, WIDTH),)
    config = atlas.AtlasConfig(reader_config, retriever_config, n_context=n_context)
    distill = spec_lib.DistillConfig(temperature_gold=0.1, temperature_score=0.1, retriever_n_context=PASSAGES, **distill)
    return spec_lib.StepSpec(config, atlas.Segments((), (), ()), partitioning.make_mesh(devices=jax.devices()[:1]), read=full,
                             scored=full if n_context < PASSAGES else (), embedded=full, distill=distill,
                             step=spec_lib.StepConfig(accumulation_steps))


def _batch(recorded, number: int) -> tuple[types.Batch, types.ReaderInputs]:
    def lengths(name):
        return jnp.asarray(recorded[name][number].sum(axis=-1), jnp.int32)

    targets = np.where(recorded['target_mask'][number] > 0, recorded['target_ids'][number], 0)
    batch = types.Batch(
        retriever_query_tokens=jnp.asarray(recorded['query_ids'][number]), retriever_query_lengths=lengths('query_mask'),
        reader_query_tokens=jnp.zeros((3, 1), jnp.int32), reader_query_lengths=jnp.zeros(3, jnp.int32),
        decoder_target_tokens=jnp.asarray(targets), decoder_loss_weights=jnp.asarray(recorded['target_mask'][number], jnp.float32),
        example_ids=jnp.arange(3, dtype=jnp.int32))
    inputs = types.ReaderInputs(
        reader_tokens=jnp.asarray(recorded['reader_ids'][number]), reader_lengths=lengths('reader_mask'),
        retriever_tokens=jnp.asarray(recorded['passage_ids'][number]), retriever_lengths=lengths('passage_mask'),
        truncated_passages=None)
    return batch, inputs


@pytest.fixture(scope='module')
def setting():
    reader_config, reader = loaded.t5(FIXTURES / 'reader_v11')
    retriever_config, retriever = loaded.contriever(FIXTURES / 'contriever')
    # Atlas trained with the second-moment norm; a Hugging Face folder cannot say so.
    retriever_config = dataclasses.replace(retriever_config, layer_norm='second_moment')
    # layers together: fewer arrays, a shorter program
    return reader_config, retriever_config, layer_scan.stack_layers({'reader': reader, 'retriever': retriever})


def _step(spec, config):
    optimizer = train_step.optimizer_for(spec, config)

    @functools.partial(jax.jit, compiler_options=streams.QUICK_TO_COMPILE)
    def step(params, moments, updates_done, *batch_and_inputs):
        gradients, metrics = train_step.accumulate(
            lambda part, _: train_step.loss_and_gradients(params, *part, spec, updates_done=updates_done), batch_and_inputs, spec)
        updates, moments = optimizer.update(gradients, moments, params)
        return optax.apply_updates(params, updates), moments, metrics

    return step, optimizer


def _config(options) -> OptimizerConfig:
    return OptimizerConfig(learning_rate=options['lr'], retriever_learning_rate=options['lr_retriever'], schedule=options['scheduler'],
                           warmup_steps=options['warmup_steps'], total_steps=options['total_steps'], clip=options['clip'],
                           weight_decay=options['weight_decay'], beta2=options['beta2'], epsilon=options['epsilon'])


def test_accumulated_steps_follow_the_original(setting):
    """Run 17: an update after every second batch, gradients summed and not divided, clipped as the sum."""
    reader_config, retriever_config, params = setting
    run, recorded = _recorded_run('17'), np.load(FIXTURES / 'inputs.npz')
    assert run['options']['accumulation_steps'] == 2
    step, optimizer = _step(_spec(reader_config, retriever_config, accumulation_steps=2), _config(run['options']))
    moments = optimizer.init(params)
    with jax.default_matmul_precision('highest'):
        for number in range(0, 20, 2):
            pair = [_batch(recorded, (number + i) % 4) for i in range(2)]
            params, moments, metrics = step(params, moments, number // 2, *jax.tree.map(lambda *parts: jnp.concatenate(parts), *pair))
            for name in ('reader_loss', 'retriever_loss'):
                expected = np.mean(run[f'{name}_f64'][number:number + 2])
                assert float(metrics[name]) == pytest.approx(expected, rel=1e-4, abs=1e-6), (number, name)
            last = run['steps'][number + 1]
            assert float(metrics['gradient_norm']) * last['scale'] == pytest.approx(last['grad_norm_scaled'], rel=1e-4), number
    _compare_parameters(params, run, reader_config, retriever_config)


@pytest.mark.parametrize('run_number', ['0', '12', '13', '14', '18'])
def test_twenty_steps_follow_the_original(setting, run_number):
    """pdist, loop, emdr, adist, and pdist with the retriever frozen in the first four updates."""
    reader_config, retriever_config, params = setting
    run, recorded = _recorded_run(run_number), np.load(FIXTURES / 'inputs.npz')
    options, config = run['options'], _config(run['options'])
    freeze = max(options['freeze_retriever_steps'], 0)
    spec = _spec(reader_config, retriever_config, gold_score_mode=options['gold_score_mode'], freeze_retriever_steps=freeze)
    step, optimizer = _step(spec, config)
    moments = optimizer.init(params)
    with jax.default_matmul_precision('highest'):
        for number in range(20):
            params, moments, metrics = step(params, moments, number, *_batch(recorded, number % 4))
            if number < freeze:
                metrics.pop('retriever_loss')  # it does not count
                assert run['retriever_loss_f64'][number] is None
            for name in set(metrics) & {'reader_loss', 'retriever_loss'}:
                assert float(metrics[name]) == pytest.approx(run[f'{name}_f64'][number], rel=1e-4, abs=1e-6), (number, name)
            scale = run['steps'][number]['scale']
            assert float(metrics['gradient_norm']) * scale == pytest.approx(run['grad_norm_scaled_f64'][number], rel=1e-4), number
    _compare_parameters(params, run, reader_config, retriever_config)


def _compare_parameters(params, run, reader_config, retriever_config):
    tables = {'reader': hf_names.table(reader_config), 'retriever': hf_names.table(retriever_config)}
    compared = 0
    params = layer_scan.unstack_layers(params)
    for part, table in tables.items():
        flat = hf_names.flatten(params[part])
        for name, entry in table.items():
            key = f'reader.{entry.name}' if part == 'reader' else f'retriever.contriever.{entry.name}'
            total, norm = run['final_param_sum_and_norm'][key]
            value = np.asarray(flat[name], np.float64)
            assert np.linalg.norm(value) == pytest.approx(norm, rel=1e-4), key
            # A sum cancels: it is judged on the scale of the norm.
            assert value.sum() == pytest.approx(total, abs=1e-4 * norm * np.sqrt(value.size)), key
            compared += 1
    assert compared > 100


def _metrics(setting, n_context=PASSAGES):
    reader_config, retriever_config, params = setting
    spec = _spec(reader_config, retriever_config, n_context)
    # The gradients are left out, and with them most of the program.
    metrics = jax.jit(lambda *arguments: train_step.loss_and_gradients(*arguments, spec)[1], compiler_options=streams.QUICK_TO_COMPILE)
    with jax.default_matmul_precision('highest'):
        return metrics(params, *_batch(np.load(FIXTURES / 'inputs.npz'), 0))


@pytest.fixture(scope='module')
def all_read(setting):
    """Returns the metrics of a step that reads every passage it scores."""
    return _metrics(setting)


@pytest.mark.parametrize('n_context', [1, 3])
def test_gold_scores_do_not_depend_on_how_many_passages_are_read(setting, all_read, n_context):
    """Passages that are only scored go through a stream of their own, with the same scores."""
    found = _metrics(setting, n_context)
    assert float(found['retriever_loss']) == pytest.approx(float(all_read['retriever_loss']), rel=1e-5)
    assert float(found['reader_loss']) != pytest.approx(float(all_read['reader_loss']), rel=1e-5)
