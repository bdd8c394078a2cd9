"""Fusion-in-Decoder: a T5 whose decoder reads many passages encoded one by one. Source: Izacard and Grave 2021, arXiv 2007.01282.

One encoder pass and one projection to keys and values serve every reading of the passages: fused, an example's passages side by side
(`fuse`), or each passage alone, as gold scores want it (the rows of `encode_passages` as they are).

Streams hold whole examples: with `streams` streams and `batch` examples, stream s holds examples s * batch / streams and on, in order,
each with its passages one after another; [streams, passages] is [batch * n_context] in the order of the examples.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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
    kept = token_stream.first_rows(mask, batch, n)
    if isinstance(rows, t5.EncodedStates):
        return rows.replace(examples=batch, first=n), kept
    return jax.tree.map(jax.vmap(lambda values: token_stream.first_rows(values, batch, n)), rows), kept  # vmap over the layers


def join_passages(first: tuple[t5.Readable, Array], second: tuple[t5.Readable, Array], batch: int) -> tuple[t5.Readable, Array]:
    """Lays each example's passages of `first` before those of `second`.

    Args:
      first, second: rows and mask as `encode_passages` returns them, of batch * n and batch * more passages; their widths may differ.
      batch: number of examples.

    Returns:
      The same of batch * (n + more) passages, as wide as the wider one.
    """
    mask = token_stream.join_rows(first[1], second[1], batch)
    if isinstance(first[0], t5.EncodedStates):
        assert isinstance(second[0], t5.EncodedStates)  # one reader has encoded both
        return t5.EncodedStates(first[0].states + second[0].states, first[0].streams + second[0].streams, examples=batch), mask
    return jax.tree.map(jax.vmap(lambda one, other: token_stream.join_rows(one, other, batch)), first[0], second[0]), mask


def encode_passages(reader: t5.T5, params: Any, stream: types.TokenStream,
                    dropout_key: Array | None = None) -> tuple[t5.Readable, Array]:
    """Encodes passages and makes what the decoder reads of them, one row a passage.

    Args:
      params: the reader's.
      dropout_key: None switches dropout off.

    Returns:
      Keys and values in rows, each [layers, streams * passages, longest, heads, head_dim], zeros past a passage's end; or with remat
      'full' the encoder's states, of which layers make such rows. And the mask of real tokens, [streams * passages, longest] bool.
    """
    # The encoder alone takes the key: the projection to keys and values has no dropout.
    rngs = None if dropout_key is None else {'dropout': dropout_key}
    encoded = _apply(reader, params, stream, dropout_key is None, rngs=rngs, method='encode')
    mask = token_stream.row_mask(stream)
    return _apply(reader, params, encoded, stream, method='cross_keys_values'), mask.reshape(-1, stream.longest)


def alone(mask: Array, batch: int, n: int) -> t5.Beside:
    """Describes the reading of the first `n` passages of each example one by one, beside a reading of all of them together.

    Args:
      mask: as `encode_passages` returns it, of batch * (n or more) passages.
      batch: number of examples.
      n: passages of each that are read.
    """
    return t5.Beside(token_stream.first_rows(mask, batch, n), batch, n)


def together(mask: Array, batch: int, n: int, record: Sequence[str]) -> t5.Beside:
    """Describes the reading of the first `n` passages of each example together.

    Args:
      mask, batch, n: as of `alone`.
      record: kinds of attention to record, as of `t5.T5.decode_recording`.
    """
    return t5.Beside(token_stream.first_rows(mask, batch, n).reshape(batch, -1), batch, n, tuple(record))


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


def leave_one_out(reader: t5.T5, params: Any, rows: t5.Readable, mask: Array, decoder_input_tokens: Array,
                  of: Callable[[Array], Array] = lambda logits: logits, whole: bool = False, at_once: int = 1) -> Array:
    """Computes logits with the decoder seeing all passages of an example but one, each left out in turn, without dropout.

    All readings share the keys and values. They run one after another or some at a time, so that attention needs room for these.

    Args:
      rows, mask: as `encode_passages` returns them; as many passages for each example.
      decoder_input_tokens: [batch, target_length] int32.
      of: what is kept of the logits [batch, target_length, vocab] of a reading, with the examples first; all of them by default.
      whole: reads all passages too, before the others.
      at_once: readings that share one passage through the decoder's weights; a few tokens take about as long as one.

    Returns:
      [batch, passages of an example, ...]; by default [..., target_length, vocab] float32. With `whole` one more, the first.
    """
    batch, longest = decoder_input_tokens.shape[0], mask.shape[-1]
    n = mask.shape[0] // batch
    keys_values, fused_mask = fuse(rows, mask, batch)

    def without(left_out: Array) -> Array:
        others = jnp.repeat(jnp.arange(n) != left_out, longest)  # [n * longest]
        return of(_apply(reader, params, decoder_input_tokens, keys_values, fused_mask & others, method='decode'))

    # The last readings may be those of everything once more: another number at once would be another program.
    readings = np.arange(-1 if whole else 0, n)  # -1 leaves out none
    turns = jnp.asarray(np.pad(readings, (0, -len(readings) % at_once), constant_values=-1).reshape(-1, at_once))
    read = jax.lax.map(jax.vmap(without) if at_once > 1 else lambda one: without(one[0])[None], turns)
    # [turns, at_once, batch, ...] with the examples first
    return jnp.moveaxis(read.reshape(-1, *read.shape[2:])[:n + whole], 0, 1)


def _apply(reader: t5.T5, params: Any, *inputs: Any, method: str, rngs: dict[str, Array] | None = None) -> Any:
    """Calls a method of the reader: flax types every result as if state came with it, which none does here."""
    return reader.apply({'params': params}, *inputs, method=method, rngs=rngs)
