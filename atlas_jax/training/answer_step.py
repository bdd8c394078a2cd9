"""The answer step: the train step's retrieval and assembly, then greedy decoding with a cache, in one jitted program."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from atlas_jax import types
from atlas_jax.decoding import greedy
from atlas_jax.training import joint_loss, retrieve, train_step
from atlas_jax.training import spec as spec_lib

AnswerStep = Callable[..., 'Answered']


@struct.dataclass
class Answered:
    """What the reader said of each example, and from where.

    tokens     [batch, target_max_tokens] int32    eos and padding included
    retrieved  Retrieved with top_k = n_context; None in a closed book
    attention  [batch, n_context] float32          share of the decoder's cross attention that each passage got; sums to 1
    """

    tokens: jax.Array
    retrieved: types.Retrieved | None
    attention: jax.Array


def make_answer_step(spec: spec_lib.StepSpec) -> AnswerStep:
    """The jitted step `(params, batch, knowledge) -> Answered`; the batch's targets are not looked at."""
    def answer_step(params, batch: types.Batch, knowledge: types.Knowledge | None) -> Answered:
        inputs = retrieve.retrieve_and_assemble(params['retriever'], batch, knowledge, spec)
        level = train_step.capacity_level(inputs, spec)
        branches = [lambda params, size=size: _read(params, inputs, spec, size) for size in spec.read]
        tokens, attention = jax.lax.switch(level, branches, params['reader'])
        return Answered(tokens=tokens, retrieved=inputs.retrieved, attention=attention)

    return jax.jit(answer_step)


def _read(params, inputs: types.ReaderInputs, spec: spec_lib.StepSpec, capacity):
    batch_size = inputs.reader_tokens.shape[0]
    rows, mask = joint_loss.passage_keys_values(params, inputs.reader_tokens, inputs.reader_lengths, spec, capacity, None)
    keys_values, key_mask = joint_loss.fuse(rows, mask, batch_size)
    reader, config, variables = spec.reader, spec.config.reader, {'params': params}
    length = spec.config.inputs.target_max_tokens

    def tokens_to_logits(token, position, cache):
        return reader.apply(variables, token, position, cache, keys_values, key_mask, method='decode_step')

    cache = reader.init_cache(batch_size, length)
    tokens = greedy.greedy(tokens_to_logits, cache, batch_size, length + 1, config.decoder_start_id, config.eos_id, config.pad_id)
    return tokens, _passage_attention(params, tokens, keys_values, key_mask, spec)


def _passage_attention(params, tokens: jax.Array, keys_values, key_mask: jax.Array, spec: spec_lib.StepSpec) -> jax.Array:
    """Share of cross attention by passage [batch, n], averaged over layers, heads and generated tokens."""
    config = spec.config.reader
    start = jnp.full_like(tokens[:, :1], config.decoder_start_id)
    inputs = jnp.concatenate([start, tokens[:, :-1]], axis=1)
    _, sown = spec.reader.apply({'params': params}, inputs, keys_values, key_mask, method='decode', mutable=['intermediates'])
    attention = sown['intermediates']['decoder']['cross_attention'][0]  # [layers, batch, heads, target_length, keys]
    real = (tokens != config.pad_id)[:, None, :, None]
    by_key = jnp.sum(jnp.where(real, attention, 0), axis=(0, 2, 3))  # [batch, keys]
    mass = by_key.reshape(tokens.shape[0], spec.passages_read, -1).sum(axis=-1)  # [batch, n]
    return mass / jnp.maximum(mass.sum(axis=-1, keepdims=True), 1e-9)
