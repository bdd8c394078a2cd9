"""Sequences that stand word for word in a passage that was read: of several beams, such a one is the answer.

A small reader copies names piece by piece and errs in some. Where a beam beside it has the name as the passage has it, that one is right.
"""

import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax import types
from atlas_jax.decoding import decoders
from atlas_jax.steps import read

Array = jax.Array


def quotable(inputs: types.ReaderInputs, batch: types.Batch) -> Array:
    """Marks the tokens of reader inputs [batch, n, width] that an answer may be quoted from: all but padding and the question itself."""
    tokens = inputs.reader_tokens
    read_tokens = jnp.arange(tokens.shape[-1]) < inputs.reader_lengths[..., None]
    return read_tokens & ~read.query_mask(tokens, batch.reader_query_tokens, batch.reader_query_lengths)


def first(decoded: decoders.Decoded, tokens: Array, allowed: Array, word_starts: bytes, eos_id: int) -> decoders.Decoded:
    """Returns the sequences of each example with those in front that stand in its passages; else their order stays.

    Args:
      decoded: best first.
      tokens: [batch, n, width] int32, the reader's inputs.
      allowed: [batch, n, width] bool, of `quotable`.
      word_starts: of the tokenizer: bits by token id, set where a piece begins a word or is none.
      eos_id: ends a sequence.
    """
    stands = _stands_in(decoded.tokens, tokens, allowed, word_starts, eos_id)
    order = jnp.argsort(~stands, axis=1, stable=True)
    return jax.tree.map(lambda each: jnp.take_along_axis(each, order.reshape(order.shape + (1,) * (each.ndim - 2)), axis=1), decoded)


def _stands_in(sequences: Array, tokens: Array, allowed: Array, word_starts: bytes, eos_id: int) -> Array:
    """Tells [batch, sequences] bool which sequences are whole words of a passage."""
    starts = jnp.asarray(np.unpackbits(np.frombuffer(word_starts, np.uint8)).astype(bool))
    width, length = tokens.shape[-1], sequences.shape[-1]
    # Up to eos: behind it there is padding only.
    counts = jnp.sum(jnp.cumsum(sequences == eos_id, axis=-1) == 0, axis=-1)
    spare = ((0, 0), (0, 0), (0, length))
    padded = jnp.pad(tokens, spare, constant_values=-1)

    def compare(i: Array, same: Array) -> Array:
        here = jax.lax.dynamic_slice_in_dim(padded, i, width, axis=-1)[:, None]  # i tokens further on
        return same & ((here == sequences[:, :, i, None, None]) | (i >= counts[..., None, None]))

    begins = starts[tokens] & allowed
    same = jnp.broadcast_to(begins[:, None], (*sequences.shape[:2], *tokens.shape[1:]))
    same = jax.lax.fori_loop(0, length, compare, same)
    # "Frenchman" holds "French" as a piece: the next token must begin something, or be outside.
    ends = jnp.pad(starts[tokens] | ~allowed, spare, constant_values=True)[:, None]
    behind = jnp.arange(width) + counts[..., None, None]
    ends = jnp.take_along_axis(jnp.broadcast_to(ends, (*same.shape[:3], width + length)), jnp.broadcast_to(behind, same.shape), axis=-1)
    return jnp.any(same & ends, axis=(-2, -1)) & (counts > 0)
