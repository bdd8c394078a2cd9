"""The train step on a tiny Atlas: one program, on the device, the same at every stream capacity."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import errors, partitioning, types
from atlas_jax.steps import read, retrieve
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training import joint_loss, state, train_step
from atlas_jax.training.optimizer import OptimizerConfig
from tests.testing import streams, tiny

OPTIMIZER = OptimizerConfig(learning_rate=1e-2, retriever_learning_rate=1e-2, schedule='fixed', warmup_steps=0, total_steps=10)
_jit = functools.partial(jax.jit, compiler_options=streams.QUICK_TO_COMPILE)
_retrieve = _jit(retrieve.retrieve_and_assemble, static_argnums=3)


def _mesh():
    return partitioning.make_mesh(devices=jax.devices()[:1])


def _spec(known, batch_size=4, n_context=3, dropout_rate=0.0, levels=3, **distill):
    """`levels`: how many of the capacities, from the largest down; each is compiled."""
    config = tiny.config(n_context)
    config = dataclasses.replace(config, reader=dataclasses.replace(config.reader, dropout_rate=dropout_rate))
    spec = spec_lib.make_step_spec(config, tiny.SEGMENTS, _mesh(), tiny.lengths(known), batch_size,
                              spec_lib.DistillConfig(temperature_gold=0.1, temperature_score=0.1, **distill))
    return dataclasses.replace(spec, read=spec.read[-levels:], scored=spec.scored[-levels:], embedded=spec.embedded[-levels:])


def _params():
    return tiny.params()


def _state(spec):
    return state.create(_params(), spec, train_step.optimizer_for(spec, OPTIMIZER))


def _device(tree):
    return jax.tree.map(jnp.asarray, tree)


@pytest.mark.parametrize(('mode', 'levels'), [('joint', 2), ('query_side', 1), ('frozen', 1)])
def test_one_program_on_the_device(mode, levels):
    known = _device(tiny.knowledge())
    spec = _spec(known, retriever_training=mode, levels=levels)
    step = train_step.make_train_step(spec, OPTIMIZER)
    current = _state(spec)
    text = step.lower(current, _device(tiny.batch(4)), known).compile().as_text()
    assert not [word for word in ('callback', 'infeed', 'outfeed') if word in text]
    for seed in range(3):
        current, metrics = step(current, _device(tiny.batch(4, seed)), known)
        assert np.isfinite(float(metrics['loss']))
    assert step._cache_size() == 1
    assert int(current.step) == 3


@pytest.mark.parametrize('mode, n_context, scored', [('joint', 3, 3), ('query_side', 3, 2), ('joint', 2, 5)])
def test_every_capacity_gives_the_same_losses_and_gradients(mode, n_context, scored):
    """All of them once; where the retriever's passages or those that are scored differ, the smallest and the largest: each is compiled."""
    known = _device(tiny.knowledge())
    spec = _spec(known, n_context=n_context, retriever_n_context=scored, retriever_training=mode)
    params, batch = _params(), _device(tiny.batch(4, seed=5))
    inputs = _retrieve(params['retriever'], batch, known, spec)
    lowest = int(read.capacity_level(inputs, spec))
    differentiate = _jit(jax.value_and_grad(joint_loss.joint_loss, has_aux=True), static_argnums=(3, 4))
    levels = range(lowest, len(spec.read)) if (mode, n_context) == ('joint', 3) else (lowest, len(spec.read) - 1)
    results = [differentiate(params, batch, inputs, spec, level) for level in levels]
    assert len({(spec.read[level], spec.scored[level:level + 1]) for level in levels}) > 1
    for (loss, metrics), gradients in results[1:]:
        np.testing.assert_allclose(loss, results[0][0][0], rtol=1e-5)
        np.testing.assert_allclose(metrics['gold_scores'], results[0][0][1]['gold_scores'], rtol=1e-4)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-5 * max(np.abs(b).max(), 1e-3)), gradients, results[0][1])


def test_the_flat_layout_equals_each_passage_on_its_own():
    """No passage sees another: keys and values of a stream are those of the passages encoded one at a time."""
    known = _device(tiny.knowledge())
    spec = _spec(known)
    params, batch = _params(), _device(tiny.batch(4))
    inputs = _retrieve(params['retriever'], batch, known, spec)
    inputs = inputs.replace(reader_tokens=inputs.reader_tokens[:, :3], reader_lengths=inputs.reader_lengths[:, :3])
    encode = _jit(read.encode, static_argnums=(3, 4))
    together, mask = encode(params['reader'], inputs.reader_tokens, inputs.reader_lengths, spec, spec.read[-1], None)
    tokens, lengths = inputs.reader_tokens.reshape(12, 1, -1), inputs.reader_lengths.reshape(12, 1)
    for i in range(12):
        alone, _ = encode(params['reader'], tokens[i:i + 1], lengths[i:i + 1], spec,
                          dataclasses.replace(spec.read[-1], stream_tokens=spec.read[-1].longest), None)
        real = int(lengths[i, 0])
        assert int(mask[i].sum()) == real
        for rows, rows_alone in zip(together, alone, strict=True):  # keys, values: [layers, passages, longest, heads, head_dim]
            np.testing.assert_allclose(rows[:, i, :real], rows_alone[:, 0, :real], atol=2e-5)


def test_a_passage_at_the_limit_and_an_overflowing_one_are_kept_whole_and_counted():
    known = tiny.knowledge()
    known = known.replace(index=known.index.replace(valid=np.arange(56) < 3))  # an ordinary passage, the empty one, the overlong one
    spec = _spec(known)
    batch = _device(tiny.batch(4))
    inputs = _retrieve(_params()['retriever'], batch, _device(known), spec)
    assert int(inputs.reader_lengths.max()) == tiny.INPUTS.text_max_tokens
    assert int(inputs.truncated_passages) == 4  # the overlong passage, once in each example
    ends = jnp.take_along_axis(inputs.reader_tokens, inputs.reader_lengths[..., None] - 1, axis=-1)
    assert bool((ends == 1)[inputs.reader_lengths > 0].all())  # eos survives the cut
    level = int(read.capacity_level(inputs, spec))
    assert spec.read[level].stream_tokens >= int(inputs.reader_lengths.sum())


def test_fewer_valid_rows_than_passages_asked():
    known = tiny.knowledge()
    known = _device(known.replace(index=known.index.replace(valid=np.arange(56) < 2)))
    spec = _spec(known, retriever_n_context=5, levels=1)
    current, metrics = train_step.make_train_step(spec, OPTIMIZER)(_state(spec), _device(tiny.batch(4)), known)
    assert np.isfinite(float(metrics['loss'])) and float(metrics['retriever_loss']) > 0
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(current.params))


def test_fillers_change_nothing():
    known = _device(tiny.knowledge())
    whole, filled = tiny.batch(3, seed=2), tiny.batch(4, seed=9, fillers=1)
    filled = jax.tree.map(lambda filled, whole: np.concatenate([whole, filled[3:]]), filled, whole)
    results = []
    for batch, size in ((whole, 3), (filled, 4)):
        spec = _spec(known, batch_size=size, levels=1)
        inputs = _retrieve(_params()['retriever'], _device(batch), known, spec)
        results.append(_jit(train_step.loss_and_gradients, static_argnums=3)(_params(), _device(batch), inputs, spec))
    np.testing.assert_allclose(results[0][1]['reader_loss'], results[1][1]['reader_loss'], rtol=1e-5)
    np.testing.assert_allclose(results[0][1]['retriever_loss'], results[1][1]['retriever_loss'], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), results[0][0], results[1][0])


def test_query_side_training_keeps_the_passage_encoder():
    known = _device(tiny.knowledge())
    spec = _spec(known, retriever_training='query_side', levels=1)
    before = _params()
    after, _ = train_step.make_train_step(spec, OPTIMIZER)(_state(spec), _device(tiny.batch(4)), known)
    jax.tree.map(np.testing.assert_array_equal, after.passage_encoder, before['retriever'])
    assert _moved(after.params['retriever'], before['retriever']) and _moved(after.params['reader'], before['reader'])


def test_frozen_training_moves_the_reader_alone():
    known = _device(tiny.knowledge())
    spec = _spec(known, retriever_training='frozen', levels=1)
    after, metrics = train_step.make_train_step(spec, OPTIMIZER)(_state(spec), _device(tiny.batch(4)), known)
    assert not _moved(after.params['retriever'], _params()['retriever']) and _moved(after.params['reader'], _params()['reader'])
    assert 'retriever_loss' not in metrics


def test_closed_book_reads_the_query_alone():
    known = tiny.knowledge()
    spec = _spec(known, n_context=0, levels=1)
    step = train_step.make_train_step(spec, OPTIMIZER)
    _, metrics = step(_state(spec), _device(tiny.batch(4)), None)
    assert int(metrics['reader_tokens']) == int(tiny.batch(4).reader_query_lengths.sum()) + 4  # and eos


def test_dropout_differs_by_step_and_repeats_by_seed():
    known = _device(tiny.knowledge())
    spec = _spec(known, dropout_rate=0.2, levels=1)
    step = train_step.make_train_step(spec, dataclasses.replace(OPTIMIZER, learning_rate=0.0, retriever_learning_rate=0.0))
    losses = []
    for _ in range(2):
        current = _state(spec)
        for _ in range(2):
            current, metrics = step(current, _device(tiny.batch(4)), known)
            losses.append(float(metrics['reader_loss']))
    assert losses[0] == losses[2] and losses[1] == losses[3] and losses[0] != losses[1]


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(errors.ConfigError, match='batch_size 3 does not divide'):
        mesh = partitioning.make_abstract_mesh((1, 2, 1))
        spec_lib.make_step_spec(tiny.config(), tiny.SEGMENTS, mesh, tiny.lengths(tiny.knowledge()), 3)


def _moved(after, before) -> bool:
    return any(not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True))


def test_a_kernel_that_does_not_hold_the_inputs_is_refused():
    config = dataclasses.replace(tiny.config(), inputs=dataclasses.replace(tiny.INPUTS, text_max_tokens=600))
    lengths = types.TokenLengths(np.array([700]), np.array([30]), np.array([11]))
    with pytest.raises(errors.ConfigError, match='does not hold reader inputs of 600 tokens with 2 heads of 7'):
        spec_lib.make_step_spec(config, tiny.SEGMENTS, _mesh(), lengths, 4, step=spec_lib.StepConfig(attention='flash'))
    assert spec_lib.make_step_spec(config, tiny.SEGMENTS, _mesh(), lengths, 4).flash is False  # auto, on a CPU


def test_an_empty_place_is_never_what_the_reader_ranks_first():
    # Gold scores of missing passages are 0, above every log-likelihood.
    assert float(joint_loss._agreement(jnp.array([[2., 1., -jnp.inf]]), jnp.array([[-1., -3., 0.]]))) == 1.0
