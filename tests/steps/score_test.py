"""The score step on a tiny Atlas: every choice as if it were scored alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax import partitioning
from atlas_jax.models import fid, t5
from atlas_jax.steps import read, retrieve
from atlas_jax.steps import score as score_step
from atlas_jax.steps import spec as spec_lib
from tests.testing import tiny

# 3 examples, 4 choices of up to 3 tokens after a shared one; the second example has two choices only
CHOICES = np.array([[[5, 11, 1, 0], [5, 12, 1, 0], [5, 13, 14, 1], [5, 15, 1, 0]],
                    [[5, 21, 22, 1], [5, 23, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
                    [[5, 31, 1, 0], [5, 32, 1, 0], [5, 33, 1, 0], [5, 34, 1, 0]]], np.int32)
LETTERS = (CHOICES > 0) & (np.arange(4) == 1)


def test_every_choice_as_if_scored_alone():
    known = jax.tree.map(jnp.asarray, tiny.knowledge())
    mesh = partitioning.make_mesh(devices=jax.devices()[:1])
    spec = spec_lib.make_step_spec(tiny.config(), tiny.SEGMENTS, mesh, tiny.lengths(known), batch_size=3)
    params = tiny.params()
    batches = [jax.tree.map(jnp.asarray, dataclasses.replace(tiny.batch(3), choice_tokens=CHOICES, choice_weights=weights))
               for weights in ((CHOICES > 0).astype(np.float32), LETTERS.astype(np.float32))]
    step = score_step.make_score_step(spec)
    text = step.lower(params, batches[0], known).as_text()
    assert not [word for word in ('callback', 'infeed', 'outfeed') if word in text]
    whole, letters = (np.asarray(step(params, batch, known).log_likelihoods) for batch in batches)
    assert step._cache_size() == 1

    @jax.jit
    def decode(params, tokens):
        inputs = retrieve.retrieve_and_assemble(params['retriever'], batches[0], known, spec)
        passages = read.encode(params['reader'], inputs.reader_tokens, inputs.reader_lengths, spec, spec.read[-1], None)
        return spec.reader.apply({'params': params['reader']}, t5.shift_right(tokens), *fid.fuse(*passages, 3), method='decode')

    first_logits = np.asarray(decode(params, CHOICES[:, 0]))
    for choice in range(4):
        tokens = CHOICES[:, choice]
        logits = np.asarray(decode(params, tokens))
        taken = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), tokens[..., None], axis=-1)[..., 0]
        is_choice = (tokens > 0).any(axis=-1)
        np.testing.assert_allclose(whole[:, choice], np.where(is_choice, (taken * (tokens > 0)).sum(axis=-1), -np.inf), rtol=1e-5)
    # letters alone: the original's probabilities, a softmax over the letters' logits after the first token
    real = LETTERS.any(axis=-1)
    by_letter = np.where(real, np.take_along_axis(first_logits[:, 1], CHOICES[:, :, 1], axis=-1), -np.inf)
    np.testing.assert_allclose(jax.nn.softmax(letters), jax.nn.softmax(by_letter), rtol=1e-4)
    assert np.isneginf(letters[~real]).all()
