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
from atlas_jax.nn import attention, token_stream

Array = jax.Array
Rows = attention.KeysValues


def fuse(rows: Rows, mask: Array, batch: int, n_context: int | None = None) -> tuple[Rows, Array]:
    """Lays the passages of an example side by side.

    Args:
      rows, mask: of `encode_passages`.
      batch: number of examples; divides the number of passages.
      n_context: reads the first so many passages of each example; None reads all.

    Returns:
      Each [layers, batch * n_context, longest, heads, head_dim], and the mask [batch, n_context * longest], by which a decoder reads an
      example's rows together.

    Raises ValueError when the passages do not divide among the examples, or an example has fewer than n_context.
    """
    if mask.shape[0] % batch or (n_context is not None and mask.shape[0] // batch < n_context):
        raise ValueError(f'{mask.shape[0]} passages for {batch} examples of {n_context or "equally many"} passages')
    if n_context is not None and n_context < mask.shape[0] // batch:
        rows, mask = first_passages(rows, mask, batch, n_context)
    return rows, mask.reshape(batch, -1)


def first_passages(rows: Rows, mask: Array, batch: int, n: int) -> tuple[Rows, Array]:
    """Rows and mask, as of `encode_passages`, of the first `n` passages of each example."""
    def first(values: Array) -> Array:
        by_example = values.reshape(batch, -1, *values.shape[1:])[:, :n]  # [batch, n, longest, ...]
        return by_example.reshape(-1, *values.shape[1:])

    return jax.tree.map(jax.vmap(first), rows), first(mask)


def join_passages(first: tuple[Rows, Array], second: tuple[Rows, Array], batch: int) -> tuple[Rows, Array]:
    """Each example's passages of `first`, then those of `second`: pairs of rows and mask, as of `encode_passages`, of any two widths."""
    longest = max(first[1].shape[-1], second[1].shape[-1])

    def join(values: Array, more: Array) -> Array:
        by_example = [_widen(part, longest).reshape(batch, -1, longest, *part.shape[2:]) for part in (values, more)]
        return jnp.concatenate(by_example, axis=1).reshape(-1, longest, *values.shape[2:])  # [batch * (n + more), longest, ...]

    return jax.tree.map(jax.vmap(join), first[0], second[0]), join(first[1], second[1])


def _widen(values: Array, longest: int) -> Array:
    """[passages, width, ...] padded to [passages, longest, ...]."""
    return jnp.pad(values, ((0, 0), (0, longest - values.shape[1]), *((0, 0),) * (values.ndim - 2)))


def encode_passages(reader: t5.T5, params: Any, stream: types.TokenStream, dropout_key: Array | None = None) -> tuple[Rows, Array]:
    """Encodes passages and projects them to keys and values, one row a passage; no dropout without a key.

    Returns:
      Each [layers, streams * passages, longest, heads, head_dim], zeros past a passage's end; and the mask of real tokens
      [streams * passages, longest] bool.
    """
    def rows(values: Array) -> Array:
        gathered = token_stream.to_rows(stream, values)
        return gathered.reshape(-1, *gathered.shape[2:])  # [streams * passages, longest, ...]

    variables = {'params': params}
    encoded = reader.apply(variables, stream, dropout_key is None, rngs=_rngs(dropout_key), method='encode')
    mask = token_stream.row_mask(stream)
    return reader.apply(variables, encoded, rows, method='cross_keys_values'), mask.reshape(-1, stream.longest)


def passage_logits(reader: t5.T5, params: Any, rows: Rows, mask: Array, decoder_input_tokens: Array) -> Array:
    """Logits with the decoder seeing one passage at a time, without dropout.

    Args:
      rows, mask: of `encode_passages`; as many passages for each example.
      decoder_input_tokens: [batch, target_length] int32.

    Returns:
      [batch, passages of an example, target_length, vocab] float32.
    """
    batch = decoder_input_tokens.shape[0]
    n_context = mask.shape[0] // batch
    repeated = jnp.repeat(decoder_input_tokens, n_context, axis=0)  # [batch * n_context, target_length]
    logits = reader.apply({'params': params}, repeated, rows, mask, method='decode')
    return logits.reshape(batch, n_context, *logits.shape[1:])


def leave_one_out_logits(reader: t5.T5, params: Any, rows: Rows, mask: Array, decoder_input_tokens: Array) -> Array:
    """Logits with the decoder seeing all passages of an example but one, each left out in turn, without dropout.

    The keys and values are there once; the passages are left out one after another, so that attention needs room for one reading.

    Args:
      rows, mask: of `encode_passages`; as many passages for each example.
      decoder_input_tokens: [batch, target_length] int32.

    Returns:
      [batch, passages of an example, target_length, vocab] float32.
    """
    batch, longest = decoder_input_tokens.shape[0], mask.shape[-1]
    n = mask.shape[0] // batch
    keys_values, fused_mask = fuse(rows, mask, batch)

    def without(left_out: Array) -> Array:
        others = jnp.repeat(jnp.arange(n) != left_out, longest)  # [n * longest]
        return reader.apply({'params': params}, decoder_input_tokens, keys_values, fused_mask & others, method='decode')

    return jnp.moveaxis(jax.lax.map(without, jnp.arange(n)), 0, 1)


def fid_logits(reader: t5.T5, params: Any, stream: types.TokenStream, decoder_input_tokens: Array, n_context: int | None = None,
               dropout_key: Array | None = None) -> Array:
    """Encodes, fuses and decodes in one go.

    Args:
      stream: whole examples, see above; an empty passage is as good as none.
      decoder_input_tokens: [batch, target_length] int32, targets shifted right.
      n_context: as in `fuse`.
      dropout_key: None switches dropout off.

    Returns:
      [batch, target_length, vocab] float32.
    """
    encoder_key, decoder_key = (None, None) if dropout_key is None else jax.random.split(dropout_key)
    keys_values, mask = fuse(*encode_passages(reader, params, stream, encoder_key), decoder_input_tokens.shape[0], n_context)
    return reader.apply({'params': params}, decoder_input_tokens, keys_values, mask, decoder_key is None, rngs=_rngs(decoder_key),
                        method='decode')


def _rngs(dropout_key: Array | None) -> dict[str, Array] | None:
    return None if dropout_key is None else {'dropout': dropout_key}
