"""The evaluation step: likelihoods of targets, attention to passages, fillers, one program."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import errors, partitioning
from atlas_jax.losses import attention_scores
from atlas_jax.steps import eval as eval_step
from atlas_jax.steps import retrieve
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training import joint_loss
from tests.testing import streams, tiny

STATISTICS = ('normssum', 'probsavg', 'probswoquery', 'probsnosep')


def _spec(known, n_context=3, size=4, **options):
    mesh = partitioning.make_mesh(devices=jax.devices()[:1])
    spec = spec_lib.make_step_spec(tiny.config(n_context), tiny.SEGMENTS, mesh, tiny.lengths(known), size, **options)
    return dataclasses.replace(spec, read=spec.read[-1:], embedded=spec.embedded[-1:])  # one capacity: half the compilation


def _params():
    return tiny.params()


def test_likelihoods_and_attention_are_those_of_training():
    known, params = jax.tree.map(jnp.asarray, tiny.knowledge()), _params()
    batch = jax.tree.map(jnp.asarray, tiny.batch(4, seed=5, fillers=1))
    step = eval_step.make_eval_step(_spec(known), STATISTICS)
    evaluated = step(params, batch, known)
    np.testing.assert_array_equal(evaluated.target_tokens, batch.decoder_loss_weights.sum(axis=-1))
    assert evaluated.target_tokens[-1] == 0 and evaluated.nll[-1] == 0
    assert set(evaluated.attention) == set(STATISTICS) <= set(attention_scores.STATISTICS)
    assert {values.shape for values in evaluated.attention.values()} == {evaluated.retrieved.scores.shape} == {(4, 3)}
    spec = _spec(known, distill=spec_lib.DistillConfig('stdnormssum'))
    inputs = jax.jit(retrieve.retrieve_and_assemble, static_argnums=3)(params['retriever'], batch, known, spec)
    loss = jax.jit(joint_loss.joint_loss, static_argnums=(3, 4), compiler_options=streams.QUICK_TO_COMPILE)
    _, metrics = loss(params, batch, inputs, spec, len(spec.read) - 1)
    assert float(evaluated.nll.sum() / evaluated.target_tokens.sum()) == pytest.approx(float(metrics['reader_loss']), rel=1e-5)
    np.testing.assert_allclose(evaluated.attention['normssum'], metrics['gold_scores'], rtol=1e-4, atol=1e-8)
    # what lies beyond the query, and the part of it on eos, are part of the whole
    lengths = np.asarray(inputs.reader_lengths)
    whole = np.asarray(evaluated.attention['probsavg']) * lengths / 256
    assert (evaluated.attention['probsnosep'] < evaluated.attention['probswoquery'])[:3].all()
    assert (np.asarray(evaluated.attention['probswoquery']) < whole)[:3].all()
    step(params, jax.tree.map(jnp.asarray, tiny.batch(4, seed=6)), known)
    assert step._cache_size() == 1


def test_closed_book_and_one_example():
    known = tiny.knowledge()
    evaluated = eval_step.make_eval_step(_spec(known, n_context=0, size=1))(_params(), jax.tree.map(jnp.asarray, tiny.batch(1)), None)
    assert evaluated.retrieved is None and evaluated.attention == {} and np.isfinite(evaluated.nll).all()


def test_an_unknown_statistic_is_refused():
    with pytest.raises(errors.ConfigError, match='"probsmean"; choose from scoressum, scoresavg'):
        eval_step.make_eval_step(_spec(tiny.knowledge()), ['probssum', 'probsmean'])
