"""The answer step: the train step's retrieval and assembly, then decoding with a cache, in one jitted program."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from atlas_jax import decoding, partitioning, types
from atlas_jax.decoding import decoders
from atlas_jax.models import fid
from atlas_jax.steps import retrieve
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training import gold_scores, train_step

AnswerStep = Callable[..., 'Answered']


@struct.dataclass
class Answered:
    """What the reader said of each example, and from where.

    tokens     [batch, num_return_sequences, max_length - 1] int32  best first; up to and including eos, then padding
    scores     [batch, num_return_sequences] float32  log likelihood / length ** length_penalty; None if greedy
    retrieved  Retrieved with top_k = n_context; None in a closed book
    attention  [batch, n_context] float32  share of the cross attention that each passage got while the best sequence was written; sums to 1
    """

    tokens: jax.Array
    scores: jax.Array | None
    retrieved: types.Retrieved | None
    attention: jax.Array


def make_answer_step(spec: spec_lib.StepSpec, config: decoding.DecodingConfig | None = None) -> AnswerStep:
    """The jitted step `(params, batch, knowledge, retrieved=None) -> Answered`; the batch's targets are not looked at.

    The batch's decoder prompts, if it has any, are what the sequences begin with. `retrieved` is what a searcher of the host has found.
    Re-ranking takes `params['passage_encoder']` where there is one. Without a config it decodes greedily.

    Raises ConfigError where min_length is not less than max_length.
    """
    config = (config or decoding.DecodingConfig()).with_max_length(spec.config.inputs.target_max_tokens + 1)

    def answer_step(params, batch: types.Batch, knowledge: types.Knowledge | None, retrieved: types.Retrieved | None = None) -> Answered:
        inputs = retrieve.retrieve_and_assemble(params['retriever'], batch, knowledge, spec, retrieved, params.get('passage_encoder'))
        level = train_step.capacity_level(inputs, spec)
        branches = [lambda params, size=size: _read(params, inputs, _prefix(batch), spec, config, size) for size in spec.read]
        decoded = jax.lax.switch(level, branches, params['reader'])
        best = decoded.records[:, 0]  # attention in all by passage, [batch, n]
        shares = best / jnp.maximum(best.sum(axis=-1, keepdims=True), 1e-9)
        return Answered(tokens=decoded.tokens, scores=decoded.scores, retrieved=inputs.retrieved, attention=shares)

    return jax.jit(partitioning.on_mesh(spec.mesh)(answer_step))


def _read(params, inputs: types.ReaderInputs, prefix: decoders.Prefix | None, spec: spec_lib.StepSpec, config: decoding.DecodingConfig,
          capacity) -> decoders.Decoded:
    """Encodes and decodes at one capacity; the records are the attention to each passage, [batch, sequences, n]."""
    batch_size, reader, sizes = inputs.reader_tokens.shape[0], spec.reader, spec.config.reader
    passages = gold_scores.encode(params, inputs.reader_tokens, inputs.reader_lengths, spec, capacity, None)
    keys_values, key_mask = fid.fuse(*passages, batch_size)
    params, keys_values = reader.step_by_step(params, keys_values, key_mask)  # once: the beams of an example share them

    def tokens_to_logits(token, position, cache):
        logits, cache, shares = reader.apply({'params': params}, token, position, cache, keys_values, key_mask, method='decode_step')
        return logits, cache, shares.reshape(len(token), spec.passages_read, -1).sum(axis=-1)  # [rows, keys] to [rows, n]

    cache = reader.init_cache(batch_size * config.num_beams, config.max_length - 1)
    special = decoders.SpecialTokens(sizes.decoder_start_id, sizes.eos_id, sizes.pad_id)
    return decoding.decode(tokens_to_logits, cache, batch_size, config, special, prefix)


def _prefix(batch: types.Batch) -> decoders.Prefix | None:
    if batch.decoder_prompt_tokens is None:
        return None
    return decoders.Prefix(batch.decoder_prompt_tokens, batch.decoder_prompt_lengths)
