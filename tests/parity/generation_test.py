"""Generated tokens: every recorded generation of the original, and transformers' own on random models of both versions.

Compiled quickly, unlike other comparisons: every choice of options is a program, and tokens are the same or they are not.
"""

import functools
import json

import jax
import numpy as np
import pytest

from atlas_jax import decoding
from atlas_jax.decoding import decoders
from atlas_jax.models import fid, t5
from atlas_jax.nn import layer_scan
from tests.testing import loaded, streams

PARITY = streams.FIXTURES / 'parity'
RECORDED = json.loads((PARITY / 'generation_v11.json').read_text())
LOOP, UNROLLED = 1, 24  # layers in one turn of the loop
# Unrolled, every layer has parameters, keys and values of its own: greedy and with beams. What a record asks of lengths and scores comes
# after the logits.
CASES = [(LOOP, number) for number in range(len(RECORDED['records']))] + [(UNROLLED, number) for number in (3, 11)]


@pytest.fixture(scope='module', autouse=True)
def highest_precision():
    with jax.default_matmul_precision('highest'):
        yield


@functools.partial(jax.jit, static_argnums=(0, 1))
def _generate(model: t5.T5, config: decoding.DecodingConfig, params, keys_values, mask, prefix=None) -> decoders.Decoded:
    def tokens_to_logits(token, position, cache):
        logits, cache, _ = model.apply({'params': params}, token, position, cache, keys_values, mask, method='decode_step')
        return logits, cache, ()

    cache = model.init_cache(len(mask) * config.num_beams, config.max_length - 1)
    return decoding.decode(tokens_to_logits, cache, len(mask), config, decoders.SpecialTokens(), prefix)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _read(model: t5.T5, params, stream, batch: int):
    keys_values, mask = fid.fuse(*fid.encode_passages(model, params, stream), batch)
    return *model.step_by_step(params, keys_values, mask), mask


@pytest.fixture(scope='module')
def recorded_reader():
    """The recorded reader with batch 0 encoded, by layers in one turn of the loop, and the forced prefixes."""
    config, params = loaded.t5(PARITY / 'reader_v11')
    inputs = np.load(PARITY / 'inputs.npz')
    ids, lengths = inputs['reader_ids'][0].reshape(-1, 48), inputs['reader_mask'][0].sum(axis=-1).reshape(-1)
    params, stream = layer_scan.stack_layers(params), streams.flat(ids, lengths, streams=3)
    prompts = list(RECORDED['prompts'].values())
    prefix = decoders.Prefix(np.array([[*ids, *[0] * (3 - len(ids))] for ids in prompts], np.int32),
                              np.array([len(ids) for ids in prompts], np.int32))
    models = {unroll: t5.T5(config, unroll=unroll) for unroll in (LOOP, UNROLLED)}
    return {unroll: (model, *_read(model, params, stream, 3)) for unroll, model in models.items()}, prefix


@pytest.mark.parametrize('unroll, number', CASES)
def test_recorded(recorded_reader, unroll, number):
    by_unroll, prefix = recorded_reader
    model, params, keys_values, mask = by_unroll[unroll]
    record = RECORDED['records'][number]
    assert record['batch'] == 0 and record['same_in_float64']
    beams = record['num_beams']
    assert unroll == LOOP or (beams, record['prefix'], record['min_length']) in [(1, True, 6), (3, True, 6)]
    config = decoding.DecodingConfig(num_beams=beams, length_penalty=record['length_penalty'], min_length=record['min_length'] or 0,
                                     max_length=record['max_length'], num_return_sequences=beams)
    decoded = jax.device_get(_generate(model, config, params, keys_values, mask, prefix if record['prefix'] else None))
    np.testing.assert_array_equal(decoded.tokens[:, 0], np.array(record['sequences'])[:, 1:])
    if beams > 1:
        np.testing.assert_array_equal(decoded.tokens, np.array(record['all_beams'])[:, :, 1:])
        assert streams.error(decoded.scores, record['all_beam_scores_float64']) <= 1e-5


VOCAB, LENGTHS = 17, np.array([[9, 0, 13], [4, 11, 0], [1, 7, 2], [13, 13, 13], [5, 3, 8]])


def _oracle(version: str, seed: int, transformers, torch):
    """A random model whose answers are of many lengths, in float64."""
    torch.manual_seed(seed)
    config = transformers.T5Config(vocab_size=VOCAB, d_model=24, d_kv=7, num_heads=3, d_ff=29, num_layers=2, num_decoder_layers=2,
                                   feed_forward_proj='relu' if version == '1.0' else 'gated-gelu', decoder_start_token_id=0,
                                   pad_token_id=0, eos_token_id=1, tie_word_embeddings=version == '1.0')
    model = transformers.T5ForConditionalGeneration(config)
    with torch.no_grad():
        if version == '1.1':
            model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCAB, 24) / 2)
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and 'shared' not in name and 'lm_head' not in name:
                parameter.mul_(2)
        (model.lm_head.weight if version == '1.1' else model.shared.weight)[1].mul_(2)  # eos
    return model.eval().double()


def _their_tokens(oracle, tokens, config: decoding.DecodingConfig, prefixes, transformers, torch) -> np.ndarray:
    """[batch, num_return_sequences, max_length - 1] of `generate` over the fused passages."""
    ids = torch.from_numpy(tokens).long()
    mask = (torch.arange(tokens.shape[-1]) < torch.from_numpy(LENGTHS.reshape(-1, 1))).long()
    states = oracle.encoder(input_ids=ids, attention_mask=torch.where(mask.sum(1, keepdim=True) > 0, mask, 1)).last_hidden_state
    fused = transformers.modeling_outputs.BaseModelOutput(states.reshape(len(LENGTHS), -1, states.shape[-1]))

    def allowed(example, sequence):
        place = len(sequence) - 1
        return [prefixes[example][place]] if place < len(prefixes[example]) else list(range(VOCAB))

    out = oracle.generate(encoder_outputs=fused, attention_mask=mask.reshape(len(LENGTHS), -1), do_sample=False, early_stopping=False,
                          num_beams=config.num_beams, length_penalty=config.length_penalty, min_length=config.min_length,
                          max_length=config.max_length, num_return_sequences=config.num_return_sequences,
                          prefix_allowed_tokens_fn=allowed if prefixes else None)
    out = out.numpy().reshape(len(LENGTHS), config.num_return_sequences, -1)[:, :, 1:]
    out = np.where(np.cumsum(out == 1, axis=-1) - (out == 1) > 0, 0, out)  # it pads with eos where pad_token_id is 0
    return np.pad(out, ((0, 0), (0, 0), (0, config.max_length - 1 - out.shape[-1])))


@pytest.mark.torch
@pytest.mark.parametrize('version, beams, length_penalty, min_length, prefixes', [
    ('1.0', 2, 0.0, 0, None), ('1.0', 5, 0.0, 4, None), ('1.1', 3, 0.6, 0, [[5, 3], [], [2], [], [9, 9, 4]]), ('1.1', 4, 2.0, 3, None)])
def test_transformers(version, beams, length_penalty, min_length, prefixes, tmp_path):
    """Later versions of transformers stop a little earlier and count an open sequence one token shorter; without a length penalty that
    changes nothing, and with these it changes none of the answers.
    """
    torch, transformers = pytest.importorskip('torch'), pytest.importorskip('transformers')
    tokens = streams.random_passages(LENGTHS.reshape(-1), VOCAB, 13)
    config = decoding.DecodingConfig(num_beams=beams, length_penalty=length_penalty, min_length=min_length, max_length=11)
    prefix = None if prefixes is None else decoders.Prefix(np.array([[*ids, 0, 0, 0][:3] for ids in prefixes], np.int32),
                                                            np.array([len(ids) for ids in prefixes], np.int32))
    ended = []
    for seed in range(3):
        oracle = _oracle(version, seed, transformers, torch)
        expected = _their_tokens(oracle, tokens, config, prefixes, transformers, torch)
        oracle.float().save_pretrained(tmp_path / str(seed))
        sizes, params = loaded.t5(tmp_path / str(seed))
        model = t5.T5(sizes)
        decoded = _generate(model, config, *_read(model, params, streams.flat(tokens, LENGTHS.reshape(-1)), len(LENGTHS)), prefix)
        np.testing.assert_array_equal(decoded.tokens, expected)
        ended += (expected == 1).any(axis=-1).reshape(-1).tolist()
    assert any(ended) and not all(ended)
