"""Checkpoints as others wrote them give the numbers that others recorded: T5X's logits, the original's logits and embeddings."""

import functools

import jax
import numpy as np
import pytest

from atlas_jax.models import contriever, t5
from atlas_jax.nn import token_stream
from tests.testing import fusion, loaded, streams

pytestmark = pytest.mark.optimized

ORIGINAL, T5X = streams.FIXTURES / 'parity', streams.FIXTURES / 't5x'
TOLERANCE = 1e-5


@pytest.fixture(scope='module', autouse=True)
def highest_precision():
    with jax.default_matmul_precision('highest'):
        yield


@functools.lru_cache(4)
def _programs(config):
    """Compiled once for both layouts, whose sizes are the same."""
    model = t5.T5(config)
    return jax.jit(functools.partial(model.apply, method='encode')), jax.jit(functools.partial(fusion.fid_logits, model))


@pytest.mark.parametrize('name', ['t5_1_1', 't5_1_1_scan'])
@pytest.mark.parametrize('case', ['a', 'b'])
def test_t5x(name, case):
    """2e-5 absolute, as T5X is float32 itself; case b reaches the last position buckets."""
    config, params = loaded.reader(T5X / name)
    recorded = np.load(T5X / name / 'io.npz')
    tokens, mask = recorded[f'{case}_encoder_input_tokens'], recorded[f'{case}_encoder_mask'] > 0
    encode, logits = _programs(config)
    stream = streams.flat(tokens, mask.sum(axis=-1))
    rows = np.asarray(token_stream.to_rows(stream, encode({'params': params}, stream))).reshape(*tokens.shape, -1)
    np.testing.assert_allclose(rows[mask], recorded[f'{case}_t5x_encoder_out'][mask], atol=2e-5, rtol=0)
    stream = streams.padded(tokens, mask.sum(axis=-1))
    found = np.asarray(logits(params, stream, recorded[f'{case}_decoder_input_tokens']))
    real = recorded[f'{case}_decoder_mask'] > 0
    np.testing.assert_allclose(found[real], recorded[f'{case}_t5x_logits'][real], atol=2e-5, rtol=0)


def test_original_reader():
    config, params = loaded.reader(ORIGINAL / 'atlas_checkpoint')
    inputs = np.load(ORIGINAL / 'inputs.npz')
    ids, mask = inputs['reader_ids'][0], inputs['reader_mask'][0]
    stream = streams.flat(ids.reshape(-1, ids.shape[-1]), mask.sum(axis=-1).reshape(-1), streams=3)
    found = _programs(config)[1](params, stream, inputs['decoder_input_ids'][0])
    assert streams.error(found, np.load(ORIGINAL / 'atlas_checkpoint' / 'expected.npz')['tied_v11_logits_b0']) <= TOLERANCE


def test_original_retriever():
    config, params = loaded.retriever(ORIGINAL / 'atlas_checkpoint')
    embed = jax.jit(contriever.Contriever(config).apply)
    inputs, recorded = np.load(ORIGINAL / 'inputs.npz'), np.load(ORIGINAL / 'atlas_checkpoint' / 'expected.npz')
    for what, name in (('query', 'query_emb'), ('passage', 'passage_emb')):
        ids, mask = inputs[f'{what}_ids'][0], inputs[f'{what}_mask'][0]
        stream = streams.flat(ids.reshape(-1, ids.shape[-1]), mask.reshape(-1, ids.shape[-1]).sum(axis=-1))
        assert streams.error(embed({'params': params}, stream)[0], recorded[f'tied_v11_{name}_b0']) <= TOLERANCE
