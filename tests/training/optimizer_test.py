"""Schedules against the recorded ones of the original; the optimiser against its definition."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.training import optimizer

FIXTURES = pathlib.Path(__file__).parents[1] / 'fixtures' / 'parity'
RECORDED = json.loads((FIXTURES / 'schedulers.json').read_text())


@pytest.mark.parametrize('record', RECORDED, ids=lambda record: f'{record["scheduler"]}-{record["warmup"]}-{record["total"]}')
def test_schedule_equals_the_recorded_one(record):
    if record['ratio'] != 0.1:
        pytest.fail('the recorded ratio is not the one the schedules are built on')
    config = optimizer.OptimizerConfig(schedule=record['scheduler'], warmup_steps=record['warmup'], total_steps=record['total'])
    for step, expected in record['lr_factor']:
        if record['scheduler'] == 'cosine' and step > record['total']:
            expected = 0.1  # the original's turns negative past its end; ours is held
        factor = float(optimizer.schedule_factor(config, step))
        if isinstance(expected, str):  # the original divides by zero where the warm-up is as long as the run
            assert 'ZeroDivisionError' in expected and 0.1 <= factor <= 1
        else:
            assert factor == pytest.approx(expected, abs=2e-6), step


def test_first_update_is_a_signed_step_with_decay():
    config = optimizer.OptimizerConfig(learning_rate=0.5, retriever_learning_rate=0.25, schedule='fixed', warmup_steps=0, total_steps=3,
                                       weight_decay=0.1, clip=0.0)
    params = {'reader': {'w': jnp.array([2.0, -3.0])}, 'retriever': {'w': jnp.array([5.0])}}
    gradients = {'reader': {'w': jnp.array([1.0, -1.0])}, 'retriever': {'w': jnp.array([7.0])}}
    transformation = optimizer.make_optimizer(config)
    updates, _ = transformation.update(gradients, transformation.init(params), params)
    np.testing.assert_allclose(updates['reader']['w'], [-0.5 * (1 + 0.2), -0.5 * (-1 - 0.3)], rtol=1e-5)
    np.testing.assert_allclose(updates['retriever']['w'], [-0.25 * (1 + 0.5)], rtol=1e-5)


@pytest.mark.parametrize('length, expected', [(5.0, 1.0), (0.5, 0.5), (0.0, 0.0)])
def test_clip_is_joint_over_reader_and_retriever(length, expected):
    """Gradients of (.6, .8) * length: shortened to 1, left alone when shorter, and nothing bad of none."""
    config = optimizer.OptimizerConfig(clip=1.0, schedule='fixed', warmup_steps=0)
    params = {'reader': {'w': jnp.zeros(1)}, 'retriever': {'w': jnp.zeros(1)}}
    transformation = optimizer.make_optimizer(config)
    gradients = {'reader': {'w': jnp.array([0.6 * length])}, 'retriever': {'w': jnp.array([0.8 * length])}}
    _, state = transformation.update(gradients, transformation.init(params), params)
    mu = state[1].inner_states['reader'].inner_state[0].mu['reader']['w']
    np.testing.assert_allclose(mu, [0.1 * 0.6 * expected], rtol=1e-5)


def test_an_untrained_retriever_stays_as_it_is():
    transformation = optimizer.make_optimizer(optimizer.OptimizerConfig(schedule='fixed', warmup_steps=0), train_retriever=False)
    params = {'reader': {'w': jnp.ones(1)}, 'retriever': {'w': jnp.ones(1)}}
    updates, _ = transformation.update(params, transformation.init(params), params)
    assert float(updates['retriever']['w'][0]) == 0.0 != float(updates['reader']['w'][0])


@pytest.mark.parametrize('schedule', optimizer.SCHEDULES)
def test_a_schedule_of_another_length_than_the_run(schedule):
    short = optimizer.OptimizerConfig(schedule=schedule, warmup_steps=2, total_steps=10)
    longer, shorter = (dataclasses.replace(short, total_steps=total, scheduler_steps=10) for total in (40, 5))
    for step in (0, 1, 4, 9, 10, 30):
        expected = float(optimizer.schedule_factor(short, step))
        assert float(optimizer.schedule_factor(longer, step)) == float(optimizer.schedule_factor(shorter, step)) == expected
    assert schedule == 'fixed' or float(optimizer.schedule_factor(dataclasses.replace(short, scheduler_steps=20), 9)) > .4


@pytest.mark.parametrize('change, word', [({'scheduler_steps': 0}, 'scheduler_steps is 0; it must be at least 1, or None'),
                                          ({'schedule': 'step'}, 'linear, cosine, fixed'), ({'total_steps': 0}, 'total_steps'),
                                          ({'clip': -1.0}, 'clip'), ({'learning_rate': float('inf')}, 'learning_rate is inf'),
                                          ({'beta2': 1.0}, 'beta2 is 1.0; it must be at least 0 and below 1'), ({'beta1': -0.1}, 'beta1'),
                                          ({'epsilon': 0.0}, 'epsilon'), ({'weight_decay': float('nan')}, 'weight_decay')])
def test_wrong_values_name_the_field(change, word):
    with pytest.raises(errors.ConfigError, match=word):
        optimizer.OptimizerConfig(**change)


def _update(config, params, gradients, steps=1):
    transformation = optimizer.make_optimizer(config)
    state = transformation.init(params)
    for step in range(steps):
        updates, state = transformation.update(gradients, state, params)
        params = optimizer.apply_updates(params, updates, jax.random.key(step))
    return params, state


def test_adafactor_keeps_rows_and_columns_and_steps_by_the_learning_rate():
    config = optimizer.OptimizerConfig(optimizer='adafactor', learning_rate=0.5, retriever_learning_rate=0.25, schedule='fixed',
                                       warmup_steps=0, weight_decay=0.1, clip=0.0)
    params = {name: {'w': jnp.full((131, 137), 2.0)} for name in ('reader', 'retriever')}
    after, state = _update(config, params, jax.tree.map(lambda leaf: 3 * leaf, params))
    # The first update has a root mean square of 1; the decay comes with the learning rate, as in AdamW.
    np.testing.assert_allclose(after['reader']['w'], 2.0 - 0.5 * (1 + 0.1 * 2.0), rtol=1e-5)
    np.testing.assert_allclose(after['retriever']['w'], 2.0 - 0.25 * (1 + 0.1 * 2.0), rtol=1e-5)
    assert max(leaf.size for leaf in jax.tree.leaves(state)) == 137


def test_bfloat16_weights_do_not_lose_small_updates():
    config = optimizer.OptimizerConfig(learning_rate=1e-4, retriever_learning_rate=1e-4, schedule='fixed', warmup_steps=0, weight_decay=0.0)
    params = {name: {'w': jnp.ones((7, 997), jnp.bfloat16)} for name in ('reader', 'retriever')}
    after, state = _update(config, params, jax.tree.map(jnp.ones_like, params), steps=10)
    assert after['reader']['w'].dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(state) if leaf.ndim} == {jnp.dtype('float32')}
    # 1 - 10 x 1e-4: a quarter of the way to the next bfloat16 below 1, where rounding to the nearest would not move at all.
    assert float(after['reader']['w'].astype(jnp.float32).mean()) == pytest.approx(1 - 1e-3, abs=1e-4)
