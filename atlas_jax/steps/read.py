"""The reader's forward pass over retrieved passages. Training, answering, scoring and evaluation
share it; gradients flow through it.
"""

from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp

from atlas_jax import types
from atlas_jax.losses import attention_scores
from atlas_jax.models import fid, readings
from atlas_jax.steps import buckets, retrieve
from atlas_jax.steps.spec import StepSpec

Array = jax.Array
# keys and values, and their mask, from fid.encode_passages
EncodedPassages = tuple[readings.Readable, Array]


def capacity_level(inputs: types.ReaderInputs, spec: StepSpec) -> Array:
    """Returns the smallest level of spec's capacities at which all streams fit, scalar int32."""
    def by_stream(lengths: Array) -> Array:
        return lengths.reshape(spec.streams, -1)  # [batch, n] -> [streams, passages]

    # One level for all kinds of streams: a switch would compile every combination.
    streams = [(by_stream(inputs.reader_lengths[:, :spec.passages_read]), spec.read)]
    if spec.scored:
        streams.append((by_stream(inputs.reader_lengths[:, spec.encoded_for_gold]), spec.scored))
    if spec.embedded:
        streams.append((by_stream(types.required(inputs.retriever_lengths)), spec.embedded))
    return buckets.level(streams)


def encode(params: Any, tokens: Array, lengths: Array, spec: StepSpec, capacity: buckets.Capacity,
           dropout_key: Array | None) -> EncodedPassages:
    """Encodes passages in the flat layout, and projects them once to the keys and values of every
    decoder layer.

    Args:
      params: the reader's parameters.
      tokens: [batch, n, width] int32, assembled reader inputs.
      lengths: [batch, n] int32; 0 marks an empty slot.
      spec: static side of the step.
      capacity: size of the stream; all passages must fit (`capacity_level`).
      dropout_key: key for dropout; None switches dropout off.

    Returns:
      (keys, values), each [layers, batch * n, longest, heads, head_dim], and the mask [batch * n,
      longest] bool.
    """
    stream = retrieve.pack(tokens, lengths, spec, capacity.stream_tokens, capacity.longest)
    return fid.encode_passages(spec.reader, params, stream, dropout_key)


def decode_recording(params: Any, decoder_inputs: Array, passages: EncodedPassages, spec: StepSpec,
                     kinds: Sequence[str] = (),
                     dropout_key: Array | None = None) -> tuple[Array, dict[str, Array]]:
    """Reads an example's passages together and decodes given tokens.

    Args:
      params: the reader's parameters.
      decoder_inputs: [batch, target_length] int32, targets shifted right.
      passages: passages from `encode`.
      spec: static side of the step.
      kinds: kinds of cross attention to record (losses/attention_scores.py).
      dropout_key: key for dropout; None switches dropout off.

    Returns:
      Logits [batch, target_length, vocab] float32, and the attention [layers, batch, target_length,
      n * longest] by kind.
    """
    rngs = None if dropout_key is None else {'dropout': dropout_key}
    read = spec.reader.apply({'params': params}, decoder_inputs,
                             *fid.fuse(*passages, decoder_inputs.shape[0]), dropout_key is None,
                             record=tuple(kinds), rngs=rngs, method='decode_recording')
    # Linen types apply as a union with (output, variables), which only mutable variables return.
    return cast(tuple[Array, dict[str, Array]], read)


def decode_both(
    params: Any, decoder_inputs: Array, passages: EncodedPassages, spec: StepSpec,
    kinds: Sequence[str], beside: readings.Beside, dropout_key: Array | None = None
) -> tuple[tuple[Array, dict[str, Array]], tuple[Array, dict[str, Array]]]:
    """Decodes like `decode_recording`, with a second reading of the same passages that has neither
    dropout nor gradient.

    Both share one loop over the decoder's layers, so that weights are gathered, and keys and values
    made, once.

    Args:
      params, decoder_inputs, passages, spec, kinds, dropout_key: see `decode_recording`.
      beside: the second reading, from fid.alone or fid.together.

    Returns:
      Logits and attention of each reading, as `decode_recording` returns them. The logits of the
      second are [groups, target_length, vocab].
    """
    rngs = None if dropout_key is None else {'dropout': dropout_key}
    read = spec.reader.apply({'params': params}, decoder_inputs,
                             *fid.fuse(*passages, decoder_inputs.shape[0]), dropout_key is None,
                             tuple(kinds), beside, rngs=rngs, method='decode_both')
    return cast(Any, read)


def attended(recorded: dict[str, Array], statistic: attention_scores.Statistic, batch: types.Batch,
             inputs: types.ReaderInputs, spec: StepSpec) -> Array:
    """Reduces the recorded attention to one score for each of an example's first passages.

    Args:
      recorded: attention from `decode_recording`, [layers, batch, target_length, n * longest] each.
      statistic: kind of attention, and how it is reduced.
      batch: targets and queries.
      inputs: the assembled passages, n or more per example.
      spec: static side of the step.

    Returns:
      [batch, n] float32.
    """
    attention, limit = recorded[statistic.kind], spec.config.inputs.text_max_tokens
    # An evaluation scores no passages; it reports those it reads.
    n = spec.passages_scored or spec.passages_read
    # [layers, batch, target_length, n, longest]
    attention = attention.reshape(*attention.shape[:3], n, -1)
    longest, width = attention.shape[-1], inputs.reader_tokens.shape[-1]
    tokens = jnp.pad(inputs.reader_tokens[:, :n],
                     ((0, 0), (0, 0), (0, max(longest - width, 0))))[..., :longest]
    # Padding inside a row has no attention, but reductions by rank would count its zeros.
    token_mask = jnp.arange(longest) < inputs.reader_lengths[:, :n, None]
    masks = {}
    if statistic.reduction == 'nosep':
        # nosep keeps the end of sequence only, as the original does (docs/design.md, section 6).
        masks['eos_mask'] = tokens == spec.config.reader.eos_id
    elif statistic.reduction == 'woquery':
        masks['query_mask'] = query_mask(tokens, batch.reader_query_tokens,
                                         batch.reader_query_lengths)
    return attention_scores.passage_scores(attention, statistic.reduction,
                                           batch.decoder_loss_weights, token_mask,
                                           padded_tokens=limit, **masks)


def query_mask(tokens: Array, query_tokens: Array, query_lengths: Array) -> Array:
    """Marks the query in its reader inputs, at the first place where it occurs.

    Args:
      tokens: [batch, n, width] int32.
      query_tokens: [batch, query_width] int32.
      query_lengths: [batch] int32.

    Returns:
      [batch, n, width] bool; False everywhere for an empty or a truncated query.
    """
    width, query_width = tokens.shape[-1], query_tokens.shape[-1]
    padded = jnp.pad(tokens, ((0, 0), (0, 0), (0, query_width)), constant_values=-1)

    def compare(i: Array, same: Array) -> Array:
        # [batch, n, width], shifted by i tokens
        here = jax.lax.dynamic_slice_in_dim(padded, i, width, axis=-1)
        return same & ((here == query_tokens[:, i, None, None]) |
                       (i >= query_lengths[:, None, None]))

    # Token by token: [batch, n, width, query_width] would not fit in memory for long queries.
    starts_here = jax.lax.fori_loop(0, query_width, compare, jnp.ones(tokens.shape, bool))
    offsets = jnp.arange(width) - jnp.argmax(starts_here, axis=-1, keepdims=True)
    inside = (offsets >= 0) & (offsets < query_lengths[:, None, None])
    return inside & jnp.any(starts_here, axis=-1, keepdims=True)
