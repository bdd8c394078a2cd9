"""Fusion-in-Decoder: a T5 whose decoder reads many passages encoded one by one. Source: Izacard and Grave 2021, arXiv 2007.01282.

One encoder pass and one projection to keys and values serve every reading of the passages: fused, an example's passages side by side
(`fuse`), or each passage alone, as gold scores want it (the rows of `encode_passages` as they are).

Streams hold whole examples: with `streams` streams and `batch` examples, stream s holds examples s * batch / streams and on, in order,
each with its passages one after another; [streams, passages] is [batch * n_context] in the order of the examples.
"""

from typing import Any

import jax
import jax.numpy as jnp

from atlas_jax import types
from atlas_jax.models import t5
from atlas_jax.nn import token_stream

Array = jax.Array


def fuse(rows: t5.Readable, mask: Array, batch: int, n_context: int | None = None) -> tuple[t5.Readable, Array]:
    """Lays the passages of an example side by side.

    Args:
      rows, mask: as `encode_passages` returns them.
      batch: number of examples; divides the number of passages.
      n_context: reads the first n_context passages of each example; None reads all.

    Returns:
      Each [layers, batch * n_context, longest, heads, head_dim]; and the mask [batch, n_context * longest] bool, by which a decoder reads
      an example's rows together.

    Raises ValueError: the passages do not divide among the examples, or an example has fewer than n_context.
    """
    if mask.shape[0] % batch or (n_context is not None and mask.shape[0] // batch < n_context):
        raise ValueError(f'{mask.shape[0]} passages for {batch} examples of {n_context or "equally many"} passages')
    if n_context is not None and n_context < mask.shape[0] // batch:
        rows, mask = first_passages(rows, mask, batch, n_context)
    # Only the mask takes a new shape: layers group their keys and values by it, one layer at a time (attention.grouped).
    return rows, mask.reshape(batch, -1)


def first_passages(rows: t5.Readable, mask: Array, batch: int, n: int) -> tuple[t5.Readable, Array]:
    """Keeps the first `n` passages of each of `batch` examples.

    Args:
      rows, mask: as `encode_passages` returns them, of batch * (n or more) passages.

    Returns:
      The same of batch * n passages.
    """
    def first(values: Array) -> Array:
        by_example = values.reshape(batch, -1, *values.shape[1:])[:, :n]  # [batch, n, longest, ...]
        return by_example.reshape(-1, *values.shape[1:])  # [batch * n, longest, ...]

    return jax.tree.map(jax.vmap(first), rows), first(mask)  # vmap over the layers, which come first


def join_passages(first: tuple[t5.Readable, Array], second: tuple[t5.Readable, Array], batch: int) -> tuple[t5.Readable, Array]:
    """Lays each example's passages of `first` before those of `second`.

    Args:
      first, second: rows and mask as `encode_passages` returns them, of batch * n and batch * more passages; their widths may differ.
      batch: number of examples.

    Returns:
      The same of batch * (n + more) passages, as wide as the wider one.
    """
    longest = max(first[1].shape[-1], second[1].shape[-1])

    def join(values: Array, more: Array) -> Array:
        # [batch, n, longest, ...] and [batch, more, longest, ...]
        by_example = [_widen(part, longest).reshape(batch, -1, longest, *part.shape[2:]) for part in (values, more)]
        return jnp.concatenate(by_example, axis=1).reshape(-1, longest, *values.shape[2:])  # [batch * (n + more), longest, ...]

    return jax.tree.map(jax.vmap(join), first[0], second[0]), join(first[1], second[1])


def _widen(values: Array, longest: int) -> Array:
    """Pads [passages, width, ...] to [passages, longest, ...] with zeros."""
    return jnp.pad(values, ((0, 0), (0, longest - values.shape[1]), *((0, 0),) * (values.ndim - 2)))


def encode_passages(reader: t5.T5, params: Any, stream: types.TokenStream,
                    dropout_key: Array | None = None) -> tuple[t5.Readable, Array]:
    """Encodes passages and makes what the decoder reads of them, one row a passage.

    Args:
      params: the reader's.
      dropout_key: None switches dropout off.

    Returns:
      Rows: keys and values, each [layers, streams * passages, longest, heads, head_dim], or with remat 'full' the encoder's states
      [1, streams * passages, longest, embed]; zeros past a passage's end. And the mask of real tokens, [streams * passages, longest] bool.
    """
    def rows(values: Array) -> Array:
        gathered = token_stream.to_rows(stream, values)
        return gathered.reshape(-1, *gathered.shape[2:])  # [streams * passages, longest, ...]

    # The encoder alone takes the key: the projection to keys and values has no dropout.
    rngs = None if dropout_key is None else {'dropout': dropout_key}
    encoded = _apply(reader, params, stream, dropout_key is None, rngs=rngs, method='encode')
    mask = token_stream.row_mask(stream)
    return _apply(reader, params, encoded, rows, method='cross_keys_values'), mask.reshape(-1, stream.longest)


def passage_logits(reader: t5.T5, params: Any, rows: t5.Readable, mask: Array, decoder_input_tokens: Array) -> Array:
    """Computes logits with the decoder seeing one passage at a time, without dropout.

    Args:
      rows, mask: as `encode_passages` returns them; as many passages for each example.
      decoder_input_tokens: [batch, target_length] int32.

    Returns:
      [batch, passages of an example, target_length, vocab] float32.
    """
    batch = decoder_input_tokens.shape[0]
    n_context = mask.shape[0] // batch
    # every passage is an example of its own to the decoder
    repeated = jnp.repeat(decoder_input_tokens, n_context, axis=0)  # [batch * n_context, target_length]
    logits = _apply(reader, params, repeated, rows, mask, method='decode')
    return logits.reshape(batch, n_context, *logits.shape[1:])


def leave_one_out_logits(reader: t5.T5, params: Any, rows: t5.Readable, mask: Array, decoder_input_tokens: Array) -> Array:
    """Computes logits with the decoder seeing all passages of an example but one, each left out in turn, without dropout.

    All readings share the keys and values. They run one after another, so that attention needs room for one reading.

    Args:
      rows, mask: as `encode_passages` returns them; as many passages for each example.
      decoder_input_tokens: [batch, target_length] int32.

    Returns:
      [batch, passages of an example, target_length, vocab] float32.
    """
    batch, longest = decoder_input_tokens.shape[0], mask.shape[-1]
    n = mask.shape[0] // batch
    keys_values, fused_mask = fuse(rows, mask, batch)

    def without(left_out: Array) -> Array:
        others = jnp.repeat(jnp.arange(n) != left_out, longest)  # [n * longest]
        return _apply(reader, params, decoder_input_tokens, keys_values, fused_mask & others, method='decode')

    # [n, batch, target_length, vocab] with the examples first
    return jnp.moveaxis(jax.lax.map(without, jnp.arange(n)), 0, 1)


def _apply(reader: t5.T5, params: Any, *inputs: Any, method: str, rngs: dict[str, Array] | None = None) -> Any:
    """Calls a method of the reader: flax types every result as if state came with it, which none does here."""
    return reader.apply({'params': params}, *inputs, method=method, rngs=rngs)
