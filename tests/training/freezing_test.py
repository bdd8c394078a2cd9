"""An optimiser that waits keeps parameters, moments and its counters, and follows the schedule of the whole run."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from atlas_jax.training import optimizer

CONFIG = optimizer.OptimizerConfig(learning_rate=0.1, retriever_learning_rate=0.2, warmup_steps=2, total_steps=7, schedule='linear')


def _run(transformation, params, updates):
    moments, history = transformation.init(params), []
    update = jax.jit(transformation.update)
    for _ in range(updates):
        gradients = jax.tree.map(lambda leaf: leaf + 1.0, params)
        changes, moments = update(gradients, moments, params)
        params = optax.apply_updates(params, changes)
        history.append(params)
    return history, moments


def test_nothing_moves_until_it_sets_in():
    params = {'reader': jnp.ones(3), 'retriever': jnp.full(5, 2.0)}
    history, _ = _run(optimizer.make_optimizer(CONFIG, freeze_retriever_steps=3), params, 5)
    for after in history[:3]:
        np.testing.assert_array_equal(after['retriever'], params['retriever'])
    assert (history[3]['retriever'] < 2).all() and (history[0]['reader'] < 1).all()
    # A first step of Adam is the learning rate in size, here the schedule's at the fourth update, and the decay.
    rate = 0.2 * float(optimizer.schedule_factor(CONFIG, 3))
    np.testing.assert_allclose(history[3]['retriever'], 2.0 - rate * (1 + CONFIG.weight_decay * 2.0), rtol=1e-4)


def test_moments_wait_too():
    frozen = optimizer.frozen_for(optax.scale_by_adam(), 2)
    _, moments = _run(frozen, jnp.ones(3), 2)
    jax.tree.map(np.testing.assert_array_equal, moments.inner, optax.scale_by_adam().init(jnp.ones(3)))
    assert int(moments.updates_done) == 2


def test_no_steps_is_the_transformation_itself():
    inner = optax.sgd(0.1)
    assert optimizer.frozen_for(inner, 0) is inner


def test_the_passage_encoder_goes_with_the_retriever():
    params = {name: jnp.ones(3) for name in ('reader', 'retriever', 'passage_encoder')}
    after, _ = _run(optimizer.make_optimizer(CONFIG), params, 2)
    np.testing.assert_array_equal(after[-1]['passage_encoder'], after[-1]['retriever'])
    assert not np.array_equal(after[-1]['reader'], after[-1]['retriever'])
    still, _ = _run(optimizer.make_optimizer(CONFIG, train_retriever=False), params, 2)
    np.testing.assert_array_equal(still[-1]['passage_encoder'], 1)
