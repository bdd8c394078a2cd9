"""The interpreted attention kernel, compared with attention written out: outputs, every gradient, masks, dropout, several devices."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import partitioning
from atlas_jax.nn import attention, flash_attention
from tests.testing import streams

STREAMS, LONGEST = 2, 13
LENGTHS = np.array([[13, 0, 5], [1, 7, 11]], np.int32)
SIZES = [(3, 5), (4, 64), (2, 128)]  # all heads in one program; two in each; one in each


def _operands(num_heads, head_dim, biased=True, dtype=np.float32):
    generator = np.random.default_rng(0)
    shape = (*LENGTHS.shape, LONGEST, num_heads * head_dim)
    query, key, value, weights = (jnp.asarray(generator.standard_normal(shape), dtype) for _ in range(4))
    bias = jnp.asarray(generator.standard_normal((num_heads, LONGEST, LONGEST)), jnp.float32) if biased else None
    return (query / head_dim**0.5, key, value, bias), weights


def _flash(operands, num_heads, seeds=None, rate=0.0):
    *rows, bias = operands
    bias = None if bias is None else flash_attention.one_per_stream(bias, STREAMS)
    return flash_attention.attend(*rows, bias, jnp.asarray(LENGTHS), seeds, num_heads=num_heads, dropout_rate=rate)


def _plain(operands, num_heads, kept=1.0):
    """Attention in a few lines; `kept` [streams, passages, heads, longest, longest] multiplies the probabilities."""
    *rows, bias = operands
    query, key, value = (row.reshape(*row.shape[:-1], num_heads, -1) for row in rows)
    logits = jnp.einsum('sPqhd,sPkhd->sPhqk', query, key, preferred_element_type=jnp.float32) + (0.0 if bias is None else bias)
    mask = (jnp.arange(LONGEST) < LENGTHS[..., None])[:, :, None, None]
    weights = attention.masked_softmax(logits, mask) * kept
    return jnp.einsum('sPhqk,sPkhd->sPqhd', weights.astype(value.dtype), value).reshape(rows[0].shape)


def _gradients(attend, operands, weights):
    given = tuple(leaf for leaf in operands if leaf is not None)
    rest = (None,) * (len(operands) - len(given))
    return jax.grad(lambda *given: jnp.sum((attend((*given, *rest)) * weights).astype(jnp.float32)), tuple(range(len(given))))(*given)


@pytest.mark.parametrize(('num_heads', 'head_dim'), SIZES)
@pytest.mark.parametrize('biased', [True, False])
def test_equals_attention_written_out(num_heads, head_dim, biased):
    operands, weights = _operands(num_heads, head_dim, biased)
    found, expected = _flash(operands, num_heads), _plain(operands, num_heads)
    assert streams.error(found, expected) < 2e-6
    np.testing.assert_array_equal(found[0, 1], 0)  # a passage without tokens
    pairs = zip(*(_gradients(lambda operands, attend=attend: attend(operands, num_heads), operands, weights)
                  for attend in (_flash, _plain)), strict=True)
    for found, expected in pairs:
        assert found.dtype == expected.dtype and streams.error(found, expected) < 5e-6


def test_bfloat16_stays_within_its_rounding():
    operands, weights = _operands(4, 64, dtype=jnp.bfloat16)
    exact, exact_weights = _operands(4, 64)
    assert streams.error(_flash(operands, 4), _plain(exact, 4)) < 2e-2
    found = _gradients(lambda operands: _flash(operands, 4), operands, weights)
    expected = _gradients(lambda operands: _plain(operands, 4), exact, exact_weights)
    assert [leaf.dtype for leaf in found] == [jnp.bfloat16] * 3 + [jnp.float32]
    assert all(streams.error(*pair) < 3e-2 for pair in zip(found, expected, strict=True))


def test_what_lies_behind_a_passage_does_not_matter():
    (query, key, value, bias), _ = _operands(2, 128)
    behind = (np.arange(LONGEST) >= LENGTHS[..., None])[..., None]
    junk = (query, jnp.where(behind, 1e3, key), jnp.where(behind, -1e3, value), bias)
    np.testing.assert_array_equal(_flash(junk, 2), _flash((query, key, value, bias), 2))


def _dropped(num_heads, head_dim, rate, seeds):
    """The dropout factors of the probabilities [streams, passages, heads, longest, longest], read from the kernel.

    Each run shows one token of a passage: its logit is far above the others, and values are one.
    """
    def see(seen):
        query = jnp.zeros((*LENGTHS.shape, LONGEST, num_heads * head_dim))
        bias = jnp.zeros((num_heads, LONGEST, LONGEST)).at[:, :, seen].set(100.0)
        return _flash((query, query, jnp.ones_like(query), bias), num_heads, seeds, rate)

    rows = jnp.moveaxis(jax.lax.map(see, jnp.arange(LONGEST)), 0, -1).reshape(*LENGTHS.shape, LONGEST, num_heads, head_dim, LONGEST)
    return jnp.moveaxis(rows[..., 0, :], -2, -3)


def test_dropout_has_the_right_gradient_and_scale():
    num_heads, head_dim, rate = 4, 64, 0.3
    operands, weights = _operands(num_heads, head_dim)
    seeds = jnp.arange(6, dtype=jnp.int32).reshape(LENGTHS.shape)
    kept = _dropped(num_heads, head_dim, rate, seeds)
    mask = np.arange(LONGEST) < LENGTHS[..., None, None, None]
    kept = np.where(mask, kept, 0.0)
    values = kept[np.broadcast_to(mask, kept.shape)]
    assert np.all(np.isclose(values, 0, atol=1e-6) | np.isclose(values, 1 / (1 - rate), rtol=1e-5))
    kept = np.where(kept > 0.5, np.float32(1 / (1 - rate)), np.float32(0))
    found = _flash(operands, num_heads, seeds, rate)
    assert streams.error(found, _plain(operands, num_heads, kept)) < 2e-6
    assert streams.error(_flash(operands, num_heads), found) > 0.1  # without dropout the result differs
    pairs = zip(_gradients(lambda operands: _flash(operands, num_heads, seeds, rate), operands, weights),
                _gradients(lambda operands: _plain(operands, num_heads, kept), operands, weights), strict=True)
    assert all(streams.error(*pair) < 5e-6 for pair in pairs)


@pytest.mark.parametrize('rate', [0.1, 0.5])
def test_dropout_keeps_its_share_independently(rate):
    def kept(seed, head, longest=256):
        position = jnp.arange(longest)
        return np.asarray(flash_attention.keeps(rate, jnp.int32(seed), head, position[:, None] * longest + position), np.float64)

    drawn = {(seed, head): kept(seed, head) for seed in (0, 1, 2, -7) for head in (0, 1, 5)}
    spread = (rate * (1 - rate))**0.5
    for one in drawn.values():
        error = spread / one.size**0.5
        assert abs(one.mean() - (1 - rate)) < 4.5 * error
        for axis in (0, 1):  # no query and no key is favoured, and neighbours are independent
            assert np.abs(one.mean(axis=axis) - (1 - rate)).max() < 5 * spread / one.shape[axis]**0.5
            assert abs(np.corrcoef(np.roll(one, 1, axis).ravel(), one.ravel())[0, 1]) < 4.5 / one.size**0.5
    pairs = np.corrcoef([one.ravel() for one in drawn.values()]) - np.eye(len(drawn))
    assert np.abs(pairs).max() < 4.5 / one.size**0.5


def test_says_what_fits_on_the_chip():
    sizes = [(512, 64, 64), (512, 128, 128), (360, 12, 32), (520, 128, 128), (512, 12, 32)]
    # dtype and dropout do not matter
    for dtype, rate in (('float32', 0.1), ('bfloat16', 0.0)):
        assert [flash_attention.fits(*size, dtype, rate, 'tpu') for size in sizes] == [True, True, True, False, False]


def test_takes_what_cudnn_takes_on_a_gpu():
    def fits(longest=512, head_dim=64, dtype='bfloat16', rate=0.0):
        with partitioning.on_mesh(partitioning.make_mesh(devices=jax.devices()[:1]), 'gpu'):
            return flash_attention.fits(longest, 12, head_dim, dtype, rate)

    assert fits() and fits(longest=1024) and fits(head_dim=128)
    assert not fits(longest=511) and not fits(head_dim=60) and not fits(head_dim=136) and not fits(dtype='float32') and not fits(rate=0.1)


def test_is_one_kernel_on_a_tpu_and_no_array_of_logits_exists():
    operands, weights = _operands(4, 64, dtype=jnp.bfloat16)
    seeds = jnp.zeros(LENGTHS.shape, jnp.int32)
    traced = jax.jit(lambda *given: _gradients(lambda operands: _flash(operands, 4, seeds, 0.1), given, weights)).trace(*operands)
    text = traced.lower(lowering_platforms=('tpu',)).as_text()
    assert text.count('@tpu_custom_call') == 2  # forward and backward, functions that the streams share
    outside = re.sub(r'backend_config = "[^"]*"', '', text)
    assert 'dot_general' not in outside and not re.search(rf'tensor<(\d+x)?3x4x{LONGEST}x{LONGEST}x', outside)
