"""Gold scores of every mode: shared and exact, more and fewer passages scored than read, with and without dropout."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import errors, partitioning, types
from atlas_jax.models import t5
from atlas_jax.steps import buckets, read
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training import gold_scores, joint_loss
from tests.testing import streams, tiny

MODES = ('pdist', 'loop', 'adist', 'evalscorestop5')
# 5 passages: one is empty and one was not found
LENGTHS = np.array([[31, 0, 17, 37, 5], [7, 37, 11, 2, 0]])


def _spec(n_context, scored, mode='pdist', dropout_rate=0.0, gold='shared', **distill):
    config = tiny.config(n_context)
    config = dataclasses.replace(config, reader=dataclasses.replace(config.reader, dropout_rate=dropout_rate))
    spec = spec_lib.StepSpec(
        config, tiny.SEGMENTS, partitioning.make_mesh(devices=jax.devices()[:1]), read=(buckets.Capacity(2 * n_context * 40, 40),),
        distill=spec_lib.DistillConfig(mode, 0.1, 0.1, scored, gold_scores=gold, **distill))
    here = spec.encoded_for_gold
    full = (buckets.Capacity(max(2 * (here.stop - here.start) * 37, 1), 37),)
    return dataclasses.replace(spec, scored=full if here.stop > here.start else (), embedded=(buckets.Capacity(2 * 5 * 40, 40),))


def _inputs():
    generator = np.random.default_rng(0)
    batch = jax.tree.map(jnp.asarray, tiny.batch(2, seed=3))
    tokens = np.where(np.arange(37) < LENGTHS[..., None], generator.integers(9, 97, (2, 5, 37)), 0)
    # every passage begins with the query, as far as it goes, and ends in eos
    query = np.asarray(batch.reader_query_tokens)[:, None]
    tokens[..., :11] = np.where((query > 0) & (np.arange(11) < LENGTHS[..., None]), query, tokens[..., :11])
    np.put_along_axis(tokens, np.maximum(LENGTHS - 1, 0)[..., None], np.where(LENGTHS > 0, 1, 0)[..., None], axis=-1)
    found = np.where(LENGTHS > 0, 1.0, -np.inf)
    return batch, types.ReaderInputs(
        reader_tokens=jnp.asarray(tokens, jnp.int32), reader_lengths=jnp.asarray(LENGTHS),
        retrieved=types.Retrieved(scores=jnp.asarray(found), passage_ids=jnp.zeros((2, 5), jnp.int32)),
        retriever_tokens=jnp.asarray(tokens % 97, jnp.int32), retriever_lengths=jnp.asarray(LENGTHS))


@functools.cache
def _params():
    return tiny.params()


def _all_modes(params, batch, inputs, read_spec, key=None):
    """Gold scores of every mode from one encoding: {mode: [batch, n]}, and emdr's by token."""
    decoder_inputs = t5.shift_right(batch.decoder_target_tokens)
    n = read_spec.passages_read
    passages = read.encode(params, inputs.reader_tokens[:, :n], inputs.reader_lengths[:, :n], read_spec, read_spec.read[0], key)
    scored = gold_scores.scored_passages(params, passages, inputs, read_spec, 0)
    found = {}
    for mode in MODES:
        spec = dataclasses.replace(read_spec, distill=dataclasses.replace(read_spec.distill, gold_score_mode=mode))
        judged = gold_scores.judge(params, scored, decoder_inputs, spec)
        found[mode] = gold_scores.gold_scores(judged, batch, inputs, spec)
    alone, _ = gold_scores.judge(params, scored, decoder_inputs, read_spec)
    found['emdr'] = gold_scores.passage_log_likelihoods(alone, batch, read_spec)
    return found


_run = jax.jit(_all_modes, static_argnums=3, compiler_options=streams.QUICK_TO_COMPILE)


@pytest.fixture(scope='module')
def expected():
    """All five passages read and scored."""
    return _run(_params()['reader'], *_inputs(), _spec(5, 5))


@pytest.mark.parametrize('n_context, gold', [(2, 'shared'), (2, 'exact')])
def test_scored_passages_do_not_depend_on_how_many_are_read(expected, n_context, gold):
    found = _run(_params()['reader'], *_inputs(), _spec(n_context, 5, gold=gold))
    for mode, values in expected.items():
        assert values.shape[:2] == (2, 5)
        np.testing.assert_allclose(found[mode], values, rtol=1e-4, atol=1e-6, err_msg=mode)


def test_fewer_passages_are_scored_than_read(expected):
    """A passage alone is worth the same; left out of three, or attended to among three, it is not."""
    found = _run(_params()['reader'], *_inputs(), _spec(5, 3))
    for mode in ('pdist', 'emdr'):
        np.testing.assert_allclose(found[mode], expected[mode][:, :3], rtol=1e-4)
    for mode in ('loop', 'adist'):
        assert found[mode].shape == (2, 3) and not np.allclose(found[mode], expected[mode][:, :3], rtol=1e-3)


def test_dropout_of_the_training_forward_is_in_shared_scores_and_not_in_exact_ones(expected):
    key = jax.random.key(5)
    exact = _run(_params()['reader'], *_inputs(), _spec(5, 5, dropout_rate=0.3, gold='exact'), key)
    shared = _run(_params()['reader'], *_inputs(), _spec(5, 5, dropout_rate=0.3), key)
    for mode, values in expected.items():
        there = (LENGTHS > 0)[..., None] if mode == 'emdr' else LENGTHS > 0
        np.testing.assert_allclose(exact[mode], values, rtol=1e-4, atol=1e-6, err_msg=mode)
        assert not np.allclose(np.where(there, shared[mode], 0), np.where(there, values, 0), rtol=1e-2, atol=1e-5), mode


_loss = jax.jit(joint_loss.joint_loss, static_argnums=(3, 4), compiler_options=streams.QUICK_TO_COMPILE)


def _losses(spec, key=None, updates_done=None):
    return _loss(_params(), *_inputs(), spec, 0, key, updates_done)


def test_std_takes_the_training_forward_and_scores_what_is_read(expected):
    spec = _spec(5, 2, mode='stdnormssum')
    assert (spec.passages_scored, spec.scored) == (5, ())
    _, metrics = _losses(spec)
    np.testing.assert_allclose(metrics['gold_scores'], expected['adist'], rtol=1e-4, atol=1e-8)
    _, dropped = _losses(_spec(5, 2, mode='stdnormssum', dropout_rate=0.3), jax.random.key(1))
    assert not np.allclose(dropped['gold_scores'], expected['adist'], rtol=1e-2, atol=0)


def test_emdr_in_the_joint_loss_and_a_retriever_that_waits(expected):
    spec = _spec(5, 5, mode='emdr', freeze_retriever_steps=3)
    (waiting, metrics), (loss, _) = (_losses(spec, None, updates) for updates in (2, 3))
    assert float(waiting) == pytest.approx(float(metrics['reader_loss']), rel=1e-6)
    assert float(loss) == pytest.approx(float(metrics['reader_loss'] + metrics['retriever_loss']), rel=1e-6)
    weights = np.asarray(tiny.batch(2, seed=3).decoder_loss_weights)
    mean = (np.asarray(expected['emdr']) * weights[:, None]).sum(axis=-1) / weights.sum(axis=-1)[:, None]
    np.testing.assert_allclose(metrics['gold_scores'], mean, rtol=1e-4)


@pytest.mark.parametrize('mode, scored', [
    ('pdist', 3), ('emdr', 5), *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in [('pdist', 5), ('adist', 3)])])
def test_the_teacher_reads_beside_the_training_forward_as_it_would_alone(monkeypatch, mode, scored):
    """The same loss and gradients as from two readings: with dropout in the one that trains, and none in the teacher's."""
    spec, key = _spec(5, scored, mode, dropout_rate=0.2), jax.random.key(7)
    batch, inputs = _inputs()
    inputs = inputs.replace(retriever_tokens=inputs.retriever_tokens[:, :scored], retriever_lengths=inputs.retriever_lengths[:, :scored])

    def run():
        gradient = jax.jit(jax.value_and_grad(joint_loss.joint_loss, has_aux=True), static_argnums=(3, 4),
                           compiler_options=streams.QUICK_TO_COMPILE)
        return gradient(_params(), batch, inputs, spec, 0, key)

    both, texts = run(), []
    monkeypatch.setattr(gold_scores, 'beside_training', lambda *_: texts.append('apart'))
    apart = run()
    assert texts == ['apart']
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(apart[1]))
    for a, b in zip(jax.tree.leaves(both), jax.tree.leaves(apart), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * max(largest, 1))


def test_names_and_aliases():
    for alias, name in (('ppmean', 'pdist'), ('evalnormssum', 'adist'), ('evalnormsum', 'adist'), ('adist', 'adist')):
        assert spec_lib.DistillConfig(alias).gold_score_mode == name
    assert len(spec_lib.GOLD_SCORE_MODES) == 4 + 48
    for name in spec_lib.GOLD_SCORE_MODES:
        assert spec_lib.DistillConfig(name).gold_score_mode == name
    assert spec_lib.DistillConfig('adist').attention == spec_lib.DistillConfig('stdnormssum').attention
    assert spec_lib.DistillConfig('loop').attention is None and not spec_lib.DistillConfig('adist').from_training_forward


@pytest.mark.parametrize('field, value, valid', [('gold_score_mode', 'adists', 'pdist, emdr, loop, file, adist, evalscoressum'),
                                                 ('gold_scores', 'both', 'shared, exact'), ('retriever_training', 'tied', 'joint, untied'),
                                                 ('freeze_retriever_steps', -1, 'at least 0'), ('retriever_n_context', 0, 'at least 1')])
def test_a_wrong_value_lists_the_valid_ones(field, value, valid):
    with pytest.raises(errors.ConfigError, match=f'{field} is.*{valid}'):
        spec_lib.DistillConfig(**{field: value})


def test_levels_count_the_passages_that_are_encoded_for_gold_scores():
    _, inputs = _inputs()
    small, large = buckets.Capacity(100, 40), buckets.Capacity(400, 40)
    for gold, level in (('shared', 0), ('exact', 1)):
        spec = dataclasses.replace(_spec(4, 5, gold=gold), read=(large,) * 2, scored=(small, large), embedded=(large,) * 2)
        assert int(read.capacity_level(inputs, spec)) == level
