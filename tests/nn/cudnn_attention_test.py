"""The arguments of cuDNN's attention: the same function with `implementation='xla'` on the CPU, compared with attention written out.

The kernel runs on a GPU only. tests/steps/compile_test.py checks that every step lowered for CUDA contains it.
"""

import dataclasses
import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from atlas_jax import partitioning
from atlas_jax.models import t5
from atlas_jax.nn import attention, cudnn_attention, flash_attention, token_stream
from tests.testing import streams, tiny

LONGEST, NUM_HEADS, HEAD_DIM = 14, 3, 8
LENGTHS = np.array([13, 0, 5, 14], np.int32)  # padded, empty and full passages
CONFIG = t5.T5Config(vocab_size=31, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=24, num_encoder_layers=2, num_decoder_layers=1)
REAL = (np.arange(LONGEST) < LENGTHS[:, None])[..., None]  # [passages, longest, 1]


def _operands(biased, dtype=jnp.float32):
    generator = np.random.default_rng(0)
    shape = (len(LENGTHS), LONGEST, NUM_HEADS * HEAD_DIM)
    query, key, value, weights = (jnp.asarray(generator.standard_normal(shape), dtype) for _ in range(4))
    bias = jnp.asarray(generator.standard_normal((NUM_HEADS, LONGEST, LONGEST)), jnp.float32)
    # Nothing reads the rows past a passage's end; the streams' gather gives zero gradients there.
    return (query / HEAD_DIM**0.5, key, value, *([bias] if biased else [])), jnp.where(REAL, weights, 0)


def _by_xla(query, key, value, bias=None):
    return cudnn_attention.attend(query, key, value, bias, jnp.asarray(LENGTHS), num_heads=NUM_HEADS, implementation='xla')


def _plain(query, key, value, bias=0.0):
    query, key, value = (rows.reshape(*rows.shape[:-1], NUM_HEADS, HEAD_DIM) for rows in (query, key, value))
    logits = jnp.einsum('pqhd,pkhd->phqk', query, key) + bias
    weights = attention.masked_softmax(logits, REAL[:, None, None, :, 0])
    return jnp.einsum('phqk,pkhd->pqhd', weights, value).reshape(len(LENGTHS), LONGEST, -1)


@pytest.mark.parametrize('biased', [True, False])
def test_equals_attention_written_out(biased):
    operands, weights = _operands(biased)
    found = _by_xla(*operands)
    assert streams.error(found, jnp.where(REAL, _plain(*operands), 0)) < 1e-5
    np.testing.assert_array_equal(found[1], 0)  # a passage without tokens
    numbers = tuple(range(len(operands)))
    gradients = [jax.grad(lambda *given, attend=attend: jnp.sum(attend(*given) * weights), numbers)(*operands)
                 for attend in (_by_xla, _plain)]
    assert len(gradients[0]) == 3 + biased
    for found, expected in zip(*gradients, strict=True):
        assert np.isfinite(found).all() and np.abs(expected).max() > 0.1 and streams.error(found, expected) < 1e-5


def _encoder_loss(flash, params, dtype='float32', deterministic=True):
    config = dataclasses.replace(CONFIG, dtype=dtype)
    tokens = jnp.arange(24, dtype=jnp.int32).reshape(1, 3, 8) + 3
    stream = token_stream.pack(tokens, jnp.array([[8, 0, 5]], jnp.int32), stream_tokens=16, longest=8)
    with partitioning.on_mesh(partitioning.make_mesh(devices=jax.devices()[:1]), 'gpu'):
        encoded = t5.T5(config, flash=flash).apply({'params': params}, stream, deterministic, method='encode',
                                                   rngs={'dropout': jax.random.key(0)})
    return jnp.sum((encoded[:, :13]**3).astype(jnp.float32))


def test_an_encoder_that_attends_so_has_the_same_gradients(monkeypatch):
    calls = []

    def by_xla(*operands, num_heads):
        calls.append(num_heads)
        return attend(*operands, num_heads=num_heads, implementation='xla')

    attend = cudnn_attention.attend
    monkeypatch.setattr(cudnn_attention, 'attend', by_xla)
    monkeypatch.setattr(cudnn_attention, 'fits', lambda *_: True)  # float32, so that rounding hides no error
    params = tiny.init(t5.init_params, CONFIG)
    found, expected = (jax.tree.leaves_with_path(jax.jit(jax.grad(functools.partial(_encoder_loss, flash)))(params))
                       for flash in (True, False))
    assert calls
    for (path, one), (_, other) in zip(found, expected, strict=True):
        assert not np.any(other) or streams.error(one, other) < 1e-5, path
    assert any('relpos' in str(path) and np.any(leaf) for path, leaf in found)


@pytest.fixture
def cudnn(monkeypatch):
    """Makes jax believe that cuDNN is installed, so that its kernels can be traced."""
    version = type('Versions', (), {'cudnn_get_version': staticmethod(lambda: 91000)})
    monkeypatch.setattr(fused_attention_stablehlo, 'cuda_versions', version)


def _exported(function, *arguments):
    unchecked = [jax.export.DisabledSafetyCheck.custom_call('ALL')]
    return jax.export.export(jax.jit(function), platforms=['cuda'], disabled_checks=unchecked)(*arguments).mlir_module()


def test_cudnn_gets_lengths_and_one_bias_and_gives_its_gradient(cudnn):
    operands, weights = _operands(True, jnp.bfloat16)

    def gradients(*given):
        return jax.grad(lambda *given: jnp.sum(cudnn_attention.attend(
            *given, jnp.asarray(LENGTHS), num_heads=NUM_HEADS).astype(jnp.float32) * weights), (0, 1, 2, 3))(*given)

    text = _exported(gradients, *operands)
    calls = [line for line in text.splitlines() if '__cudnn$fmha' in line]
    backward, = (line for line in calls if '@__cudnn$fmhaScaleBiasSoftmaxBackward' in line)
    assert len(calls) == 2 and all('PADDING' in line and r'\22fmha_scale\22: 1.0' in line for line in calls)
    bias = f'tensor<1x{NUM_HEADS}x{LONGEST}x{LONGEST}xbf16>'
    takes, gives = backward.rsplit('->', 1)
    # No bias for each passage, forward or backward, and lengths of queries and keys.
    assert bias in takes and bias in gives and takes.count(f'tensor<{len(LENGTHS)}xi32>') == 2
    assert f'{len(LENGTHS)}x{NUM_HEADS}x{LONGEST}x{LONGEST}x' not in text


@pytest.mark.parametrize('dtype, deterministic, by_cudnn', [('bfloat16', True, True), ('bfloat16', False, False), ('float32', True, False)])
def test_the_encoder_attends_plainly_in_float32_and_under_dropout(cudnn, dtype, deterministic, by_cudnn):
    text = _exported(jax.grad(functools.partial(_encoder_loss, True, dtype=dtype, deterministic=deterministic)),
                     tiny.init(t5.init_params, CONFIG))
    assert ('__cudnn$fmhaScaleBiasSoftmaxBackward' in text) == by_cudnn


def test_a_stream_of_the_door_is_cudnns_on_a_gpu(cudnn):
    operands, _ = _operands(True, jnp.bfloat16)
    *rows, bias = (operand[None] for operand in operands)  # one stream

    def attend(*given):
        with partitioning.on_mesh(partitioning.make_mesh(devices=jax.devices()[:1]), 'gpu'):
            return flash_attention.attend(*given, jnp.asarray(LENGTHS[None]), num_heads=NUM_HEADS)

    assert '@__cudnn$fmhaScaleBiasSoftmax' in _exported(attend, *rows, bias)
