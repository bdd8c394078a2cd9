"""The reader's forward pass over retrieved passages. Training, answering, scoring and evaluation share it; gradients flow through it."""

from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp

from atlas_jax import types
from atlas_jax.losses import attention_scores
from atlas_jax.models import fid, t5
from atlas_jax.steps import buckets, retrieve
from atlas_jax.steps.spec import StepSpec

Array = jax.Array
EncodedPassages = tuple[t5.Readable, Array]  # keys and values, and the mask, of fid.encode_passages


def capacity_level(inputs: types.ReaderInputs, spec: StepSpec) -> Array:
    """Returns the smallest level of spec's capacities at which all streams fit, scalar int32."""
    def by_stream(lengths: Array) -> Array:
        return lengths.reshape(spec.streams, -1)  # [batch, n] -> [streams, passages]

    # One level for all kinds of streams: a switch over all combinations would compile each of them.
    streams = [(by_stream(inputs.reader_lengths[:, :spec.passages_read]), spec.read)]
    if spec.scored:
        streams.append((by_stream(inputs.reader_lengths[:, spec.encoded_for_gold]), spec.scored))
    if spec.embedded:
        assert inputs.retriever_lengths is not None  # a step that embeds passages has their tokens
        streams.append((by_stream(inputs.retriever_lengths), spec.embedded))
    return buckets.level(streams)


def encode(params: Any, tokens: Array, lengths: Array, spec: StepSpec, capacity: buckets.Capacity,
           dropout_key: Array | None) -> EncodedPassages:
    """Encodes passages in the flat layout and projects them once to every decoder layer's keys and values.

    Args:
      params: the reader's.
      tokens: [batch, n, width] int32, assembled reader inputs.
      lengths: [batch, n] int32; 0 marks an empty slot.
      spec: static side of the step.
      capacity: size of the stream; everything fits.
      dropout_key: None switches dropout off.

    Returns:
      (keys, values), each [layers, batch * n, longest, heads, head_dim], and the mask [batch * n, longest] bool.
    """
    # Nothing is lost here: the caller has picked a capacity that fits (`capacity_level`).
    stream = retrieve.pack(tokens, lengths, spec, capacity.stream_tokens, capacity.longest)
    return fid.encode_passages(spec.reader, params, stream, dropout_key)


def decode_recording(params: Any, decoder_inputs: Array, passages: EncodedPassages, spec: StepSpec, kinds: Sequence[str] = (),
                     dropout_key: Array | None = None) -> tuple[Array, dict[str, Array]]:
    """Reads an example's passages together and decodes given tokens.

    Args:
      params: the reader's.
      decoder_inputs: [batch, target_length] int32, targets shifted right.
      passages: of `encode`.
      spec: static side of the step.
      kinds: of cross attention to record (losses/attention_scores.py); a kind that is left out costs nothing.
      dropout_key: None switches dropout off.

    Returns:
      Logits [batch, target_length, vocab] float32, and by kind the attention [layers, batch, target_length, n * longest].
    """
    rngs = None if dropout_key is None else {'dropout': dropout_key}
    read = spec.reader.apply({'params': params}, decoder_inputs, *fid.fuse(*passages, decoder_inputs.shape[0]), dropout_key is None,
                             record=tuple(kinds), rngs=rngs, method='decode_recording')
    # Linen's apply is typed as a union with (output, variables), which it gives only where variables are mutable.
    return cast(tuple[Array, dict[str, Array]], read)


def decode_both(params: Any, decoder_inputs: Array, passages: EncodedPassages, spec: StepSpec, kinds: Sequence[str], beside: t5.Beside,
                dropout_key: Array | None = None) -> tuple[tuple[Array, dict[str, Array]], tuple[Array, dict[str, Array]]]:
    """Decodes as `decode_recording`, and beside it a second reading of the same passages without dropout and without gradient.

    One loop over the decoder's layers serves both: weights are gathered, and keys and values made, once.

    Args:
      params, decoder_inputs, passages, spec, kinds, dropout_key: as of `decode_recording`.
      beside: the second reading, of fid.alone or fid.together.

    Returns:
      What `decode_recording` returns, of either reading; the second's logits are [groups, target_length, vocab].
    """
    rngs = None if dropout_key is None else {'dropout': dropout_key}
    read = spec.reader.apply({'params': params}, decoder_inputs, *fid.fuse(*passages, decoder_inputs.shape[0]), dropout_key is None,
                             tuple(kinds), beside, rngs=rngs, method='decode_both')
    return cast(Any, read)


def attended(recorded: dict[str, Array], statistic: attention_scores.Statistic, batch: types.Batch, inputs: types.ReaderInputs,
             spec: StepSpec) -> Array:
    """Reduces recorded attention to the first passages of each example to one score a passage.

    Args:
      recorded: of `decode_recording`, [layers, batch, target_length, n * longest] each.
      statistic: which of it, and how it is reduced.
      batch: targets, and the queries.
      inputs: the assembled passages, n or more of each example.
      spec: static side of the step.

    Returns:
      [batch, n] float32.
    """
    attention, limit = recorded[statistic.kind], spec.config.inputs.text_max_tokens
    # An evaluation scores nothing, so it looks at what it reads.
    n = spec.passages_scored or spec.passages_read
    attention = attention.reshape(*attention.shape[:3], n, -1)  # [layers, batch, target_length, n, longest]
    longest, width = attention.shape[-1], inputs.reader_tokens.shape[-1]
    tokens = jnp.pad(inputs.reader_tokens[:, :n], ((0, 0), (0, 0), (0, max(longest - width, 0))))[..., :longest]
    # Padding inside a row got no attention, but reductions by rank would count its zeros.
    token_mask = jnp.arange(longest) < inputs.reader_lengths[:, :n, None]
    masks = {}
    if statistic.reduction == 'nosep':
        # nosep keeps the end of sequence alone, as the original does (docs/design.md, section 6).
        masks['eos_mask'] = tokens == spec.config.reader.eos_id
    elif statistic.reduction == 'woquery':
        masks['query_mask'] = query_mask(tokens, batch.reader_query_tokens, batch.reader_query_lengths)
    return attention_scores.passage_scores(attention, statistic.reduction, batch.decoder_loss_weights, token_mask, padded_tokens=limit,
                                           **masks)


def query_mask(tokens: Array, query_tokens: Array, query_lengths: Array) -> Array:
    """Marks where the query stands in its reader inputs: the first place that reads like it.

    Args:
      tokens: [batch, n, width] int32.
      query_tokens: [batch, query_width] int32.
      query_lengths: [batch] int32.

    Returns:
      [batch, n, width] bool; False everywhere for an empty query, or one that was cut.
    """
    width, query_width = tokens.shape[-1], query_tokens.shape[-1]
    padded = jnp.pad(tokens, ((0, 0), (0, 0), (0, query_width)), constant_values=-1)

    def compare(i: Array, same: Array) -> Array:
        here = jax.lax.dynamic_slice_in_dim(padded, i, width, axis=-1)  # [batch, n, width], i tokens further on
        return same & ((here == query_tokens[:, i, None, None]) | (i >= query_lengths[:, None, None]))

    # Token by token over all places at once: [batch, n, width, query_width] would not fit for long queries.
    starts_here = jax.lax.fori_loop(0, query_width, compare, jnp.ones(tokens.shape, bool))
    offsets = jnp.arange(width) - jnp.argmax(starts_here, axis=-1, keepdims=True)
    inside = (offsets >= 0) & (offsets < query_lengths[:, None, None])
    return inside & jnp.any(starts_here, axis=-1, keepdims=True)
