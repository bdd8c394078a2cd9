"""Fusion-in-Decoder: a T5 whose decoder reads many passages encoded one by one. Source: Izacard and
Grave 2021, arXiv 2007.01282.

One encoder pass and one projection to keys and values serve every reading of the passages: an
example's passages fused (`fuse`), or each passage alone for gold scores (the rows of
`encode_passages`).

Streams hold whole examples, in order, each with its passages one after another. Stream s starts
with example s * batch / streams, so [streams, passages] is [batch * n_context] in the order of the
examples.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax import types
from atlas_jax.models import readings, t5
from atlas_jax.nn import token_stream

Array = jax.Array


def fuse(rows: readings.Readable, mask: Array, batch: int,
         n_context: int | None = None) -> tuple[readings.Readable, Array]:
    """Groups the passages of each example for one reading.

    Args:
      rows, mask: the result of `encode_passages`.
      batch: number of examples; divides the number of passages.
      n_context: reads the first n_context passages of each example; None reads all.

    Returns:
      Rows, each [layers, batch * n_context, longest, heads, head_dim]; and the mask [batch,
      n_context * longest] bool, by which a decoder reads an example's rows together.

    Raises ValueError: batch does not divide the number of passages, or an example has fewer than
    n_context.
    """
    if mask.shape[0] % batch or (n_context is not None and mask.shape[0] // batch < n_context):
        raise ValueError(f'{mask.shape[0]} passages for {batch} examples of '
                         f'{n_context or "equally many"} passages')
    if n_context is not None and n_context < mask.shape[0] // batch:
        rows, mask = first_passages(rows, mask, batch, n_context)
    # Only the mask is reshaped: layers group their keys and values by it, one layer at a time
    # (attention.grouped).
    return rows, mask.reshape(batch, -1)


def first_passages(rows: readings.Readable, mask: Array, batch: int,
                   n: int) -> tuple[readings.Readable, Array]:
    """Keeps the first `n` passages of each of `batch` examples.

    Args:
      rows, mask: the result of `encode_passages`, with batch * (n or more) passages.

    Returns:
      Rows and mask of batch * n passages.
    """
    kept = token_stream.first_rows(mask, batch, n)
    if isinstance(rows, readings.EncodedStates):
        return rows.replace(examples=batch, first=n), kept
    # vmap over the layers
    return jax.tree.map(jax.vmap(lambda values: token_stream.first_rows(values, batch, n)),
                        rows), kept


def join_passages(first: tuple[readings.Readable, Array], second: tuple[readings.Readable, Array],
                  batch: int) -> tuple[readings.Readable, Array]:
    """Lays each example's passages of `first` before those of `second`.

    Args:
      first, second: results of `encode_passages`, rows and mask, with batch * n and batch * more
        passages; their widths may differ.
      batch: number of examples.

    Returns:
      Rows and mask of batch * (n + more) passages, as wide as the wider input.
    """
    mask = token_stream.join_rows(first[1], second[1], batch)
    if isinstance(first[0], readings.EncodedStates):
        assert isinstance(second[0], readings.EncodedStates)  # the same reader encoded both
        return readings.EncodedStates(first[0].states + second[0].states,
                                first[0].streams + second[0].streams, examples=batch), mask
    return jax.tree.map(jax.vmap(lambda one, other: token_stream.join_rows(one, other, batch)),
                        first[0], second[0]), mask


def encode_passages(reader: t5.T5, params: Any, stream: types.TokenStream,
                    dropout_key: Array | None = None) -> tuple[readings.Readable, Array]:
    """Encodes passages for the decoder, one row a passage.

    Args:
      params: the reader's parameters.
      dropout_key: None switches dropout off.

    Returns:
      Keys and values in rows, each [layers, streams * passages, longest, heads, head_dim], zeros
      past a passage's end. With remat 'full': the encoder's states, which layers project to such
      rows. And the mask of real tokens, [streams * passages, longest] bool.
    """
    # Only the encoder needs the key: the projection to keys and values has no dropout.
    rngs = None if dropout_key is None else {'dropout': dropout_key}
    encoded = _apply(reader, params, stream, dropout_key is None, rngs=rngs, method='encode')
    mask = token_stream.row_mask(stream)
    return _apply(reader, params, encoded, stream,
                  method='cross_keys_values'), mask.reshape(-1, stream.longest)


def alone(mask: Array, batch: int, n: int) -> readings.Beside:
    """Describes a second reading: the first `n` passages of each example one by one.

    Args:
      mask: the mask of `encode_passages`, with batch * (n or more) passages.
      batch: number of examples.
      n: number of passages of each example that are read.
    """
    return readings.Beside(token_stream.first_rows(mask, batch, n), batch, n)


def together(mask: Array, batch: int, n: int, record: Sequence[str]) -> readings.Beside:
    """Describes a second reading: the first `n` passages of each example together.

    Args:
      mask, batch, n: see `alone`.
      record: kinds of attention to record; see `t5.T5.decode_recording`.
    """
    return readings.Beside(
        token_stream.first_rows(mask, batch, n).reshape(batch, -1), batch, n, tuple(record))


def passage_logits(reader: t5.T5, params: Any, rows: readings.Readable, mask: Array,
                   decoder_input_tokens: Array) -> Array:
    """Computes logits with the decoder seeing one passage at a time, without dropout.

    Args:
      rows, mask: the result of `encode_passages`, the same number of passages for each example.
      decoder_input_tokens: [batch, target_length] int32.

    Returns:
      [batch, passages of an example, target_length, vocab] float32.
    """
    batch = decoder_input_tokens.shape[0]
    n_context = mask.shape[0] // batch
    # The decoder reads every passage as an example of its own. [batch * n_context, target_length]
    repeated = jnp.repeat(decoder_input_tokens, n_context, axis=0)
    logits = _apply(reader, params, repeated, rows, mask, method='decode')
    return logits.reshape(batch, n_context, *logits.shape[1:])


def leave_one_out(reader: t5.T5, params: Any, rows: readings.Readable, mask: Array,
                  decoder_input_tokens: Array, of: Callable[[Array], Array] = lambda logits: logits,
                  whole: bool = False, at_once: int = 1) -> Array:
    """Computes logits with the decoder seeing all passages of an example but one, without dropout.
    Each passage is left out in turn.

    All readings share the keys and values. `at_once` readings run at a time, which bounds the
    memory of attention.

    Args:
      rows, mask: the result of `encode_passages`, the same number of passages for each example.
      decoder_input_tokens: [batch, target_length] int32.
      of: maps the logits [batch, target_length, vocab] of a reading to the values to keep [batch,
        ...]; keeps the logits by default.
      whole: adds a first reading of all passages.
      at_once: number of readings that run together; with few tokens they take about as long as one.

    Returns:
      [batch, passages of an example, ...]; by default [..., target_length, vocab] float32. With
      `whole` the reading of all passages comes first.
    """
    batch, longest = decoder_input_tokens.shape[0], mask.shape[-1]
    n = mask.shape[0] // batch
    keys_values, fused_mask = fuse(rows, mask, batch)

    def without(left_out: Array) -> Array:
        others = jnp.repeat(jnp.arange(n) != left_out, longest)  # [n * longest]
        return of(
            _apply(reader, params, decoder_input_tokens, keys_values, fused_mask & others,
                   method='decode'))

    # The last turn is filled with readings of all passages, so that one program serves every turn.
    left_out = np.arange(-1 if whole else 0, n)  # -1 reads all passages
    turns = jnp.asarray(
        np.pad(left_out, (0, -len(left_out) % at_once), constant_values=-1).reshape(-1, at_once))
    read = jax.lax.map(
        jax.vmap(without) if at_once > 1 else lambda one: without(one[0])[None], turns)
    # [turns, at_once, batch, ...] with the examples first
    return jnp.moveaxis(read.reshape(-1, *read.shape[2:])[:n + whole], 0, 1)


def _apply(reader: t5.T5, params: Any, *inputs: Any, method: str,
           rngs: dict[str, Array] | None = None) -> Any:
    """Calls a method of the reader. Its results have no type: flax declares that state may come
    with them.
    """
    return reader.apply({'params': params}, *inputs, method=method, rngs=rngs)
