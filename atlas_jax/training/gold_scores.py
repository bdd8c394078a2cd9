"""Gold scores: what the reader thinks of each passage, for the retriever to learn. No gradient flows into them."""

from typing import Any

import jax
import jax.numpy as jnp

from atlas_jax import types
from atlas_jax.losses import attention_scores, distill, reader_xent
from atlas_jax.models import fid
from atlas_jax.steps import retrieve
from atlas_jax.steps import spec as spec_lib

Array = jax.Array
Rows = tuple[Any, Array]  # keys and values, and the mask, of fid.encode_passages


def encode(params: Any, tokens: Array, lengths: Array, spec: spec_lib.StepSpec, capacity, dropout_key: Array | None) -> Rows:
    """Encodes passages [batch, n, width] in the flat layout and projects them once to every decoder layer's keys and values.

    Returns:
      (keys, values), each [layers, batch * n, longest, heads, head_dim], and the mask [batch * n, longest] bool.
    """
    stream = retrieve.pack(tokens, lengths, spec, capacity.stream_tokens, capacity.longest)
    return fid.encode_passages(spec.reader, params, stream, dropout_key)


def scored_passages(params: Any, read: Rows, inputs: types.ReaderInputs, spec: spec_lib.StepSpec, level: int) -> Rows:
    """The passages that are scored, encoded.

    Those that are read share the training forward's states, unless the gold scores are to be exact; the others are encoded here, forward
    only and without dropout.
    """
    batch, here = inputs.reader_tokens.shape[0], spec.encoded_for_gold
    if here.start == here.stop:
        return fid.first_passages(*read, batch, spec.passages_scored)
    encoded = encode(params, inputs.reader_tokens[:, here], inputs.reader_lengths[:, here], spec, spec.scored[level], None)
    return fid.join_passages(read, encoded, batch) if here.start else encoded


def passage_log_likelihoods(params: Any, scored: Rows, batch: types.Batch, decoder_inputs: Array, spec: spec_lib.StepSpec) -> Array:
    """Of each target token given one passage alone, the logits divided by the gold temperature: [batch, n, target_length] (emdr)."""
    logits = fid.passage_logits(spec.reader, params, *scored, decoder_inputs)
    return -_nll(logits / spec.distill.temperature_gold, batch)


def gold_scores(params: Any, scored: Rows, batch: types.Batch, decoder_inputs: Array, inputs: types.ReaderInputs,
                spec: spec_lib.StepSpec) -> Array:
    """[batch, n] float32 in every mode but emdr and those that take the training forward's attention (`attended`).

    Args:
      params: the reader's.
      scored: of `scored_passages`.
      batch, decoder_inputs: targets, and targets shifted right.
      inputs: the assembled passages.
      spec: static side of the step.
    """
    if spec.distill.attention is not None:
        statistic = spec.distill.attention
        keys_values, mask = fid.fuse(*scored, decoder_inputs.shape[0])
        _, recorded = spec.reader.apply({'params': params}, decoder_inputs, keys_values, mask, record=(statistic.kind,),
                                        method='decode_recording')
        return attended(recorded, statistic, batch, inputs, spec)
    if spec.distill.gold_score_mode == 'loop':
        logits = fid.leave_one_out_logits(spec.reader, params, *scored, decoder_inputs)
        return distill.loop_gold_scores(_nll(logits, batch), batch.decoder_loss_weights)
    logits = fid.passage_logits(spec.reader, params, *scored, decoder_inputs)
    return distill.pdist_gold_scores(_nll(logits, batch), batch.decoder_loss_weights)


def attended(recorded: dict[str, Array], statistic: attention_scores.Statistic, batch: types.Batch, inputs: types.ReaderInputs,
             spec: spec_lib.StepSpec) -> Array:
    """Recorded attention to the first passages of each example as one score a passage.

    Args:
      recorded: of `T5.decode_recording`, [layers, batch, target_length, n * longest] each.
      statistic: which of it, and how it is reduced.
      batch: targets, and the queries.
      inputs: the assembled passages, n or more of each example.
      spec: static side of the step.

    Returns:
      [batch, n] float32.
    """
    attention, limit = recorded[statistic.kind], spec.config.inputs.text_max_tokens
    n = spec.passages_scored or spec.passages_read
    attention = attention.reshape(*attention.shape[:3], n, -1)
    longest, width = attention.shape[-1], inputs.reader_tokens.shape[-1]
    tokens = jnp.pad(inputs.reader_tokens[:, :n], ((0, 0), (0, 0), (0, max(longest - width, 0))))[..., :longest]
    token_mask = jnp.arange(longest) < inputs.reader_lengths[:, :n, None]
    masks = {}
    if statistic.reduction == 'nosep':
        masks['eos_mask'] = tokens == spec.config.reader.eos_id
    elif statistic.reduction == 'woquery':
        masks['query_mask'] = query_mask(tokens, batch.reader_query_tokens, batch.reader_query_lengths)
    return attention_scores.passage_scores(attention, statistic.reduction, batch.decoder_loss_weights, token_mask, padded_tokens=limit,
                                           **masks)


def query_mask(tokens: Array, query_tokens: Array, query_lengths: Array) -> Array:
    """Where the query stands in its reader inputs: the first place that reads like it.

    Args:
      tokens: [batch, n, width] int32.
      query_tokens: [batch, query_width] int32, query_lengths: [batch] int32.

    Returns:
      [batch, n, width] bool; False everywhere for an empty query, or one that was cut.
    """
    width, query_width = tokens.shape[-1], query_tokens.shape[-1]
    padded = jnp.pad(tokens, ((0, 0), (0, 0), (0, query_width)), constant_values=-1)

    def compare(i: Array, same: Array) -> Array:
        here = jax.lax.dynamic_slice_in_dim(padded, i, width, axis=-1)  # [batch, n, width], i tokens further on
        return same & ((here == query_tokens[:, i, None, None]) | (i >= query_lengths[:, None, None]))

    starts_here = jax.lax.fori_loop(0, query_width, compare, jnp.ones(tokens.shape, bool))
    offsets = jnp.arange(width) - jnp.argmax(starts_here, axis=-1, keepdims=True)
    inside = (offsets >= 0) & (offsets < query_lengths[:, None, None])
    return inside & jnp.any(starts_here, axis=-1, keepdims=True)


def _nll(logits: Array, batch: types.Batch) -> Array:
    """Of each target token, [batch, n, target_length]."""
    targets = jnp.broadcast_to(batch.decoder_target_tokens[:, None], logits.shape[:-1])
    return reader_xent.token_nll(logits, targets)
