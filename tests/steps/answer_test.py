"""The answer step on a tiny Atlas: one program, beams with a forced prefix, scores and attribution."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import decoding, errors, partitioning
from atlas_jax.models import fid, t5
from atlas_jax.steps import answer as answer_step
from atlas_jax.steps import read, retrieve
from atlas_jax.steps import spec as spec_lib
from tests.testing import streams, tiny

CONFIG = decoding.DecodingConfig(num_beams=3, length_penalty=0.7, min_length=3, max_length=8, num_return_sequences=2)
PROMPTS = np.array([[11, 12], [0, 0], [13, 0], [17, 19]], np.int32)
PROMPT_LENGTHS = np.array([2, 0, 1, 2], np.int32)


def _spec(known):
    mesh = partitioning.make_mesh(devices=jax.devices()[:1])
    return spec_lib.make_step_spec(tiny.config(), tiny.SEGMENTS, mesh, tiny.lengths(known), batch_size=4)


@pytest.fixture(scope='module')
def answered():
    """Spec, parameters, batch, knowledge, and the answers of a step with beams and prefixes; eos is made likely enough to come."""
    known = jax.tree.map(jnp.asarray, tiny.knowledge())
    spec = _spec(known)
    params = jax.tree.map(jnp.asarray, streams.perturbed(tiny.params()))
    head = params['reader']['decoder']['logits_dense']
    head['kernel'] = head['kernel'].at[:, 1].multiply(3)
    batch = dataclasses.replace(tiny.batch(4), decoder_prompt_tokens=PROMPTS, decoder_prompt_lengths=PROMPT_LENGTHS)
    batch = jax.tree.map(jnp.asarray, batch)
    step = answer_step.make_answer_step(spec, CONFIG)
    text = step.lower(params, batch, known).as_text()
    assert not [word for word in ('callback', 'infeed', 'outfeed') if word in text]
    results = [jax.device_get(step(params, batch, known)) for _ in range(2)]
    assert step._cache_size() == 1
    jax.tree.map(np.testing.assert_array_equal, *results)
    return spec, params, batch, known, results[0]


def test_shapes_and_prefixes(answered):
    found = answered[-1]
    assert found.tokens.shape == (4, 2, 7) and found.scores.shape == (4, 2) and found.attention.shape == (4, 3)
    for row, length in enumerate(PROMPT_LENGTHS):
        np.testing.assert_array_equal(found.tokens[row, :, :length], [PROMPTS[row, :length]] * 2)
    assert (found.scores[:, 0] > found.scores[:, 1]).all()
    ended = (found.tokens == tiny.READER.eos_id).any(axis=-1)
    assert ended.any() and not ended.all()
    assert (np.argmax(found.tokens == 1, axis=-1)[ended] >= CONFIG.min_length - 1).all()


def test_scores_and_attention_are_those_of_the_sequences(answered):
    """Decoding the returned sequences all at once gives the same log likelihoods, and the best one's attention."""
    spec, params, batch, known, found = answered

    @jax.jit
    def decode(params, tokens):
        inputs = retrieve.retrieve_and_assemble(params['retriever'], batch, known, spec)
        passages = read.encode(params['reader'], inputs.reader_tokens, inputs.reader_lengths, spec, spec.read[-1], None)
        return spec.reader.apply({'params': params['reader']}, t5.shift_right(tokens), *fid.fuse(*passages, 4), record=('probs',),
                                 method='decode_recording')

    logits, recorded = decode(params, found.tokens.reshape(8, 7))
    log_likelihoods = np.asarray(jax.nn.log_softmax(logits)).reshape(4, 2, 7, -1)
    is_eos = found.tokens == 1
    steps = np.where(is_eos.any(axis=-1), is_eos.argmax(axis=-1) + 1, 7)  # eos included
    inside = np.arange(7) < steps[..., None]
    summed = np.where(inside, np.take_along_axis(log_likelihoods, found.tokens[..., None], axis=-1)[..., 0], 0).sum(axis=-1)
    lengths = np.where(is_eos.any(axis=-1), steps, 8)  # the start token counts, eos does not
    np.testing.assert_allclose(found.scores, summed / lengths**CONFIG.length_penalty, rtol=1e-5)
    probabilities = np.asarray(recorded['probs']).sum(axis=0).reshape(4, 2, 7, 3, -1).sum(axis=-1)  # [batch, sequences, steps, n]
    expected = np.where(inside[:, 0, :, None], probabilities[:, 0], 0).sum(axis=1)
    np.testing.assert_allclose(found.attention, expected / expected.sum(axis=-1, keepdims=True), rtol=1e-4)
    assert found.attention.std(axis=-1).min() > 1e-3  # not all alike


def test_no_room_between_min_length_and_the_longest_target():
    with pytest.raises(errors.ConfigError, match='min_length is 6; it must be less than max_length, 6'):
        answer_step.make_answer_step(_spec(tiny.knowledge()), decoding.DecodingConfig(min_length=6))
