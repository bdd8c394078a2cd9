"""Generated tokens: every recorded generation of the original, and transformers' own on random models of both versions."""

import functools
import json

import jax
import numpy as np
import pytest

from atlas_jax import decoding
from atlas_jax.conversion import hf
from atlas_jax.decoding import sequences
from atlas_jax.models import fid, t5
from atlas_jax.nn import attention
from tests.testing import streams

PARITY = streams.FIXTURES / 'parity'
RECORDED = json.loads((PARITY / 'generation_v11.json').read_text())


@pytest.fixture(scope='module', autouse=True)
def highest_precision():
    with jax.default_matmul_precision('highest'):
        yield


@functools.partial(jax.jit, static_argnums=(0, 1))
def _generate(model: t5.T5, config: decoding.DecodingConfig, params, keys_values, mask, prefix=None) -> sequences.Decoded:
    def tokens_to_logits(token, position, cache):
        logits, cache, _ = model.apply({'params': params}, token, position, cache, keys_values, mask, method='decode_step')
        return logits, cache, ()

    cache = model.init_cache(len(mask) * config.num_beams, config.max_length - 1)
    return decoding.decode(tokens_to_logits, cache, len(mask), config, sequences.SpecialTokens(), prefix)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _read(model: t5.T5, params, stream, batch: int):
    keys_values, mask = fid.fuse(*fid.encode_passages(model, params, stream), batch)
    return attention.by_head(keys_values), mask


@pytest.fixture(scope='module')
def recorded_reader():
    """The recorded reader with batch 0 encoded, and the forced prefixes."""
    config, params = hf.load_t5(PARITY / 'reader_v11')
    inputs = np.load(PARITY / 'inputs.npz')
    ids, lengths = inputs['reader_ids'][0].reshape(-1, 48), inputs['reader_mask'][0].sum(axis=-1).reshape(-1)
    model = t5.T5(config)
    prompts = list(RECORDED['prompts'].values())
    prefix = sequences.Prefix(np.array([[*ids, *[0] * (3 - len(ids))] for ids in prompts], np.int32),
                              np.array([len(ids) for ids in prompts], np.int32))
    return model, params, *_read(model, params, streams.flat(ids, lengths, streams=3), 3), prefix


@pytest.mark.parametrize('number', range(len(RECORDED['records'])))
def test_recorded(recorded_reader, number):
    model, params, keys_values, mask, prefix = recorded_reader
    record = RECORDED['records'][number]
    assert record['batch'] == 0 and record['same_in_float64']
    beams = record['num_beams']
    config = decoding.DecodingConfig(num_beams=beams, length_penalty=record['length_penalty'], min_length=record['min_length'] or 0,
                                     max_length=record['max_length'], num_return_sequences=beams)
    decoded = jax.device_get(_generate(model, config, params, keys_values, mask, prefix if record['prefix'] else None))
    np.testing.assert_array_equal(decoded.tokens[:, 0], np.array(record['sequences'])[:, 1:])
    if beams > 1:
        np.testing.assert_array_equal(decoded.tokens, np.array(record['all_beams'])[:, :, 1:])
        assert streams.error(decoded.scores, record['all_beam_scores_float64']) <= 1e-5
