"""The answer step: retrieval and assembly as in training, then decoding with a cache, in one
compiled program.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from atlas_jax import decoding, types
from atlas_jax.decoding import decoders
from atlas_jax.models import fid
from atlas_jax.steps import buckets, listening, quotes, read, retrieve
from atlas_jax.steps import evidence as evidence_lib
from atlas_jax.steps.compile import compile_step
from atlas_jax.steps.spec import StepSpec

AnswerStep = Callable[..., 'Answered']
Params = dict[str, Any]

# Steps made so far. A step with room for more tokens serves another batch of the same size, which
# then need not compile. It does not serve smaller batches: their padding rows would cost time.
_MADE: dict[tuple[StepSpec, int, decoding.DecodingConfig, evidence_lib.Wanted, bytes, bool],
            AnswerStep] = {}


class Answered(struct.PyTreeNode):
    """The answers to a batch, and the passages they were read from.

    tokens     [batch, num_return_sequences, max_length - 1] int32  best first; up to and including
                                                                    eos, then padding
    scores     [batch, num_return_sequences] float32  log likelihood / length ** length_penalty;
                                                      None if greedy
    retrieved  Retrieved with top_k = n_context; None in a closed book
    attention  [batch, n_context] float32  share of the cross attention that each passage got while
                                           the best sequence was written; sums to 1
    evidence   evidence for the best sequence; None if not requested
    """

    tokens: jax.Array
    scores: jax.Array | None
    retrieved: types.Retrieved | None
    attention: jax.Array
    evidence: evidence_lib.Evidence | None = None


class _Quoting(NamedTuple):
    """Arguments of `quotes.first`."""

    allowed: jax.Array
    word_starts: bytes


def make_answer_step(spec: StepSpec, config: decoding.DecodingConfig | None = None,
                     wanted: evidence_lib.Wanted = 'nothing', word_starts: bytes = b'',
                     heard: bool = False) -> AnswerStep:
    """Returns the compiled step `(params, batch, knowledge, retrieved=None) -> Answered`.

    It ignores the batch's targets. Sequences begin with the batch's decoder prompts, if it has any.
    `retrieved` are passages that a searcher of the host found. Re-ranking uses
    `params['passage_encoder']` if there is one.

    Args:
      spec: static side of the step.
      config: how it decodes; None is greedy.
      wanted: the evidence to compute.
      word_starts: the tokenizer's word starts, which `config.quote` needs.
      heard: reports passages and tokens to a listener (steps/listening.py); beams report no tokens.

    Raises:
      ConfigError: min_length is not less than max_length.
    """
    # One more: the start token is not a target token.
    config = (config
              or decoding.DecodingConfig()).with_max_length(spec.config.inputs.target_limit + 1)
    return compile_step(answer_step, spec, config, wanted,
                        word_starts if config.quote and not spec.closed_book else b'', heard)


def step_for(spec: StepSpec, batch_size: int, config: decoding.DecodingConfig,
             wanted: evidence_lib.Wanted = 'nothing', word_starts: bytes = b'',
             heard: bool = False) -> AnswerStep:
    """Returns a compiled answer step for `spec`: an earlier one if its capacities are large enough,
    else a new one.
    """
    for (made_for, *made_as), step in _MADE.items():
        if made_as == [batch_size, config, wanted, word_starts, heard] and _has_room(
                made_for, spec):
            return step
    made = make_answer_step(spec, config, wanted, word_starts, heard)
    return _MADE.setdefault((spec, batch_size, config, wanted, word_starts, heard), made)


def _has_room(larger: StepSpec, spec: StepSpec) -> bool:
    """Returns whether a step made for `larger` serves `spec`: everything but the capacities is
    equal, and these hold as many tokens.
    """
    same = dataclasses.replace(larger, read=()) == dataclasses.replace(spec, read=())
    last, wanted = larger.read[-1], spec.read[-1]
    return same and last.stream_tokens >= wanted.stream_tokens and last.longest >= wanted.longest


def answer_step(spec: StepSpec, config: decoding.DecodingConfig, wanted: evidence_lib.Wanted,
                word_starts: bytes, heard: bool, params: Params, batch: types.Batch,
                knowledge: types.Knowledge | None,
                retrieved: types.Retrieved | None = None) -> Answered:
    """Retrieves, reads and decodes, in graph; `make_answer_step` compiles it."""
    inputs = retrieve.retrieve_and_assemble(params['retriever'], batch, knowledge, spec, retrieved,
                                            params.get('passage_encoder'))
    if heard and inputs.retrieved is not None:
        listening.tell_found(inputs.retrieved)
    level = read.capacity_level(inputs, spec)
    quoting = _Quoting(quotes.quotable(inputs, batch), word_starts) if word_starts else None
    branches = [
        functools.partial(_read, inputs=inputs, prefix=_prefix(batch), spec=spec, config=config,
                          wanted=wanted, quoting=quoting, heard=heard, capacity=capacity)
        for capacity in spec.read]
    decoded, evidence = jax.lax.switch(level, branches, params['reader'])
    # Total attention to the passages, [batch, n], or to their tokens, [batch, n, width].
    best = decoded.records[:, 0]
    if best.ndim == 3:
        best = best.sum(axis=-1)
    # An example without passages has the sum 0; its shares must be 0, not NaN.
    shares = best / jnp.maximum(best.sum(axis=-1, keepdims=True), 1e-9)
    return Answered(tokens=decoded.tokens, scores=decoded.scores, retrieved=inputs.retrieved,
                    attention=shares, evidence=evidence)


def _read(params: Any, inputs: types.ReaderInputs, prefix: decoders.Prefix | None, spec: StepSpec,
          config: decoding.DecodingConfig, wanted: evidence_lib.Wanted, quoting: _Quoting | None,
          heard: bool, capacity: buckets.Capacity,
          ) -> tuple[decoders.Decoded, evidence_lib.Evidence | None]:
    """Encodes and decodes at one capacity. The records are the attention to each passage, [batch,
    sequences, n], or to its tokens, [batch, sequences, n, longest].
    """
    batch_size, _, width = inputs.reader_tokens.shape
    reader, sizes = spec.reader, spec.config.reader
    passages = read.encode(params, inputs.reader_tokens, inputs.reader_lengths, spec, capacity,
                           None)
    keys_values, key_mask = fid.fuse(*passages, batch_size)
    # Once: the beams of an example share them.
    by_step_params, by_step = reader.step_by_step(params, keys_values, key_mask)

    def tokens_to_logits(token: jax.Array, position: jax.Array,
                         cache: Any) -> tuple[jax.Array, Any, jax.Array]:
        decoded: Any = reader.apply({'params': by_step_params}, token, position, cache, by_step,
                                    key_mask, method='decode_step')
        logits, cache, shares = decoded
        # [rows, keys] to [rows, n, longest]
        shares = shares.reshape(len(token), spec.passages_read, -1)
        return logits, cache, shares if wanted == 'passages' else shares.sum(axis=-1)

    cache = reader.init_cache(batch_size * config.num_beams, types.required(config.max_length) - 1)
    special = decoders.SpecialTokens(sizes.decoder_start_id, sizes.eos_id, sizes.pad_id)
    # Quotes are looked for in all beams, however many are returned.
    searched = config if quoting is None else dataclasses.replace(
        config, num_return_sequences=config.num_beams)
    decoded = decoding.decode(tokens_to_logits, cache, batch_size, searched, special, prefix,
                              listening.tell_decoded if heard else None)
    if quoting is not None:
        decoded = quotes.first(decoded, inputs.reader_tokens, quoting.allowed, quoting.word_starts,
                               sizes.eos_id)
        decoded = jax.tree.map(lambda each: each[:, :config.num_return_sequences], decoded)
    if wanted == 'nothing':
        return decoded, None
    by_answer = evidence_lib.of_answer(params, decoded.tokens[:, 0],
                                       None if prefix is None else prefix.lengths, passages, spec,
                                       wanted)
    if wanted == 'likelihood':
        return decoded, evidence_lib.Evidence(*by_answer)
    # One width for all capacities: the branches of a switch have equal shapes.
    decoded = decoded.replace(records=evidence_lib.of_width(decoded.records, width))
    attention = evidence_lib.token_shares(decoded.records[:, 0])
    return decoded, evidence_lib.Evidence(*by_answer, token_attention=attention,
                                          reader_tokens=inputs.reader_tokens)


def _prefix(batch: types.Batch) -> decoders.Prefix | None:
    if batch.decoder_prompt_tokens is None:
        return None
    return decoders.Prefix(batch.decoder_prompt_tokens,
                           types.required(batch.decoder_prompt_lengths))
