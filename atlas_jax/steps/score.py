"""The score step: how likely the reader finds each of an example's choices, with one encoder pass
for all.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from atlas_jax import types
from atlas_jax.losses import reader_xent
from atlas_jax.models import fid, t5
from atlas_jax.steps import buckets, read, retrieve
from atlas_jax.steps.compile import compile_step
from atlas_jax.steps.spec import StepSpec

ScoreStep = Callable[..., 'Scored']
Params = dict[str, Any]


class Scored(struct.PyTreeNode):
    """The likelihood of each example's choices, and the passages that were read.

    log_likelihoods  [batch, choices] float32  summed over the tokens that choice_weights count;
                                               -inf marks unused choices
    retrieved        Retrieved with top_k = n_context; None in a closed book
    """

    log_likelihoods: jax.Array
    retrieved: types.Retrieved | None


def make_score_step(spec: StepSpec) -> ScoreStep:
    """Returns the compiled step `(params, batch, knowledge, retrieved=None) -> Scored`, for batches
    with choices.

    The choices share the passages' encoder states, keys and values; the decoder reads all choices
    at once. With weights on the choice's letter only, a softmax over the choices equals the
    original's: it compares the logits of the letters after `<extra_id_0>`, and an example's choices
    share the normaliser over the vocabulary.
    """
    return compile_step(score_step, spec)


def score_step(spec: StepSpec, params: Params, batch: types.Batch,
               knowledge: types.Knowledge | None,
               retrieved: types.Retrieved | None = None) -> Scored:
    """Retrieves and scores every choice, in graph; `make_score_step` compiles it."""
    inputs = retrieve.retrieve_and_assemble(params['retriever'], batch, knowledge, spec, retrieved,
                                            params.get('passage_encoder'))
    level = read.capacity_level(inputs, spec)
    branches = [
        functools.partial(_score, inputs=inputs, batch=batch, spec=spec, capacity=capacity)
        for capacity in spec.read]
    log_likelihoods = jax.lax.switch(level, branches, params['reader'])
    return Scored(log_likelihoods=log_likelihoods, retrieved=inputs.retrieved)


def _score(params: Any, inputs: types.ReaderInputs, batch: types.Batch, spec: StepSpec,
           capacity: buckets.Capacity) -> jax.Array:
    """Returns log likelihoods [batch, choices] float32 at one capacity."""
    # [batch, choices, choice_length]
    targets, weights = types.required(batch.choice_tokens), types.required(batch.choice_weights)
    passages = read.encode(params, inputs.reader_tokens, inputs.reader_lengths, spec, capacity,
                           None)
    # Once for all choices: the encoder takes most of the time.
    keys_values, key_mask = fid.fuse(*passages, len(targets))
    # Choices are in the batch dimension; in `decode` an example's choices read the same keys.
    decoder_inputs = t5.shift_right(targets, spec.config.reader.decoder_start_id).reshape(
        -1, targets.shape[-1])
    logits = spec.reader.apply({'params': params}, decoder_inputs, keys_values, key_mask,
                               method='decode')
    # [batch * choices, choice_length] to [batch, choices, choice_length]
    nll = reader_xent.token_nll(logits,
                                targets.reshape(decoder_inputs.shape)).reshape(targets.shape)
    return jnp.where(jnp.any(weights > 0, axis=-1), -jnp.sum(nll * weights, axis=-1), -jnp.inf)
