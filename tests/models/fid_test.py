"""Fusion: which passages an example reads, and that layout changes nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.losses import reader_xent
from atlas_jax.models import fid, t5
from tests.testing import fusion, streams, tiny

CONFIG = t5.T5Config(vocab_size=41, emb_dim=22, num_heads=3, head_dim=5, mlp_dim=29, num_encoder_layers=1, num_decoder_layers=2,
                     dropout_rate=0.0)
MODEL = t5.T5(CONFIG)
PARAMS = streams.perturbed(tiny.init(t5.init_params, CONFIG))
LENGTHS = [5, 0, 7, 3, 7, 1, 0, 0, 0, 2, 6, 4]  # 4 examples of 3 passages, the third without any
TOKENS = streams.random_passages(LENGTHS, 41, 7)
TARGETS = np.random.default_rng(1).integers(2, 41, (4, 5))
DECODER_INPUTS = t5.shift_right(TARGETS)


@functools.partial(jax.jit, static_argnames='n_context')
def _logits(stream, n_context=None):
    return fusion.fid_logits(MODEL, PARAMS, stream, DECODER_INPUTS, n_context)


def test_every_layout_gives_the_same_logits():
    expected = _logits(streams.padded(TOKENS, LENGTHS))
    assert expected.shape == (4, 5, 41)
    for count, longest in ((1, 7), (2, 7), (4, 11)):
        found = _logits(streams.flat(TOKENS, LENGTHS, streams=count, longest=longest))
        assert streams.error(found, expected) <= 1e-5


def test_every_layout_gives_the_same_gradients():
    def loss(params, stream):
        return reader_xent.token_nll(fusion.fid_logits(MODEL, params, stream, DECODER_INPUTS), TARGETS).mean()

    gradient = jax.jit(jax.grad(loss))
    expected = gradient(PARAMS, streams.padded(TOKENS, LENGTHS))
    found = gradient(PARAMS, streams.flat(TOKENS, LENGTHS, streams=2))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert streams.error(a, b) <= 5e-5


def test_examples_read_their_own_passages_only():
    changed = TOKENS.copy()
    changed[3:6] = np.where(changed[3:6] > 0, 40, 0)  # tokens of the second example
    before, after = (np.asarray(_logits(streams.flat(tokens, LENGTHS))) for tokens in (TOKENS, changed))
    assert not np.allclose(before[1], after[1])
    np.testing.assert_allclose(before[[0, 2, 3]], after[[0, 2, 3]], rtol=1e-5, atol=1e-5)


def test_n_context_reads_the_first_passages():
    first_two = np.array([True, True, False] * 4)
    expected = _logits(streams.flat(TOKENS[first_two], np.array(LENGTHS)[first_two]))
    assert streams.error(_logits(streams.flat(TOKENS, LENGTHS), n_context=2), expected) <= 1e-5


def test_fused_order_of_passages_does_not_matter():
    order = np.array([2, 0, 1, 5, 3, 4, 8, 6, 7, 11, 9, 10])
    permuted = _logits(streams.flat(TOKENS[order], np.array(LENGTHS)[order]))
    assert streams.error(permuted, _logits(streams.flat(TOKENS, LENGTHS))) <= 1e-5


def test_one_passage_at_a_time_equals_reading_it_alone():
    @jax.jit
    def one_at_a_time(stream):
        return fid.passage_logits(MODEL, PARAMS, *fid.encode_passages(MODEL, PARAMS, stream), DECODER_INPUTS)

    alone = one_at_a_time(streams.flat(TOKENS, LENGTHS, streams=2))
    assert alone.shape == (4, 3, 5, 41)
    for j in range(3):
        expected = _logits(streams.flat(TOKENS[j::3], LENGTHS[j::3]))
        assert streams.error(alone[:, j], expected) <= 1e-5


def test_leaving_one_out_equals_reading_the_others():
    """One reading for each passage; leaving out an empty passage changes nothing."""
    @jax.jit
    def one_left_out(stream):
        return fid.leave_one_out(MODEL, PARAMS, *fid.encode_passages(MODEL, PARAMS, stream), DECODER_INPUTS)

    found = one_left_out(streams.padded(TOKENS, LENGTHS))
    assert found.shape == (4, 3, 5, 41)
    for j in range(3):
        lengths = np.where(np.arange(12) % 3 == j, 0, LENGTHS)
        assert streams.error(found[:, j], _logits(streams.padded(TOKENS, lengths))) <= 1e-5


@pytest.mark.parametrize('at_once', [1, 3, 4])
def test_readings_at_once_are_those_one_by_one(at_once):
    rows, mask = fid.encode_passages(MODEL, PARAMS, streams.padded(TOKENS, LENGTHS))
    kept = []

    def of(logits):
        kept.append(logits.shape)
        return logits[:, -1]

    found = fid.leave_one_out(MODEL, PARAMS, rows, mask, DECODER_INPUTS, of, whole=True, at_once=at_once)
    assert found.shape == (4, 4, 41) and set(kept) == {(4, 5, 41)}
    whole, others = _logits(streams.padded(TOKENS, LENGTHS))[:, -1], fid.leave_one_out(MODEL, PARAMS, rows, mask, DECODER_INPUTS)[:, :, -1]
    assert streams.error(found[:, 0], whole) <= 1e-5 and streams.error(found[:, 1:], others) <= 1e-5


def test_first_and_joined_passages():
    rows, mask = fid.encode_passages(MODEL, PARAMS, streams.flat(TOKENS, LENGTHS))
    (keys, values), first_mask = fid.first_passages(rows, mask, 4, 2)
    of_two = np.array([0, 1, 3, 4, 6, 7, 9, 10])
    np.testing.assert_array_equal(keys, rows[0][:, of_two])
    np.testing.assert_array_equal(first_mask, mask[of_two])
    last = jax.tree.map(lambda values: values[:, 2::3, :6], rows), mask[2::3, :6]  # narrower by one
    (joined_keys, joined_values), joined_mask = fid.join_passages(((keys, values), first_mask), last, 4)
    np.testing.assert_array_equal(joined_mask, np.where(np.arange(7) < 6, mask, mask & (np.arange(12) % 3 < 2)[:, None]))
    np.testing.assert_array_equal(joined_values[:, 2::3, :6], rows[1][:, 2::3, :6])
    np.testing.assert_array_equal(np.delete(np.asarray(joined_keys), np.s_[2::3], axis=1), keys)


def test_a_stream_without_tokens_has_finite_gradients():
    stream = streams.flat(np.zeros((4, 7), int), [0] * 4)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(fusion.fid_logits(MODEL, p, stream, DECODER_INPUTS)**2)))(PARAMS)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(('batch', 'n_context'), [(5, None), (4, 4)])
def test_passages_must_divide_among_examples(batch, n_context):
    rows = (jnp.zeros((2, 12, 7, 3, 5)),) * 2
    with pytest.raises(ValueError, match='12 passages'):
        fid.fuse(rows, jnp.ones((12, 7), bool), batch, n_context)


def test_dropout_needs_a_key():
    config = t5.T5Config(**{**CONFIG.__dict__, 'dropout_rate': 0.4})
    stream = streams.flat(TOKENS, LENGTHS)
    run = jax.jit(lambda key: fusion.fid_logits(t5.T5(config), PARAMS, stream, DECODER_INPUTS, dropout_key=key))
    assert streams.error(run(None), _logits(stream)) <= 1e-5
    assert not np.allclose(run(jax.random.key(1)), run(jax.random.key(2)))
