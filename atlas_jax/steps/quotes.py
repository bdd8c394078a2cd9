"""Quotes: prefers beams that occur word for word in a passage, those of the best passage first.

A small reader copies names piece by piece, sometimes with errors. If another beam has the name as
in the passage, that beam is right.
"""

import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax import types
from atlas_jax.decoding import decoders
from atlas_jax.steps import read

Array = jax.Array


def quotable(inputs: types.ReaderInputs, batch: types.Batch) -> Array:
    """Marks the tokens of reader inputs that an answer may quote, [batch, n, width] bool: all
    except padding and the question.
    """
    tokens = inputs.reader_tokens
    read_tokens = jnp.arange(tokens.shape[-1]) < inputs.reader_lengths[..., None]
    return read_tokens & ~read.query_mask(tokens, batch.reader_query_tokens,
                                          batch.reader_query_lengths)


def first(decoded: decoders.Decoded, tokens: Array, allowed: Array, word_starts: bytes,
          eos_id: int) -> decoders.Decoded:
    """Sorts each example's sequences by the first passage that they occur in; sequences without one
    come last. Otherwise keeps their order.

    Args:
      decoded: sequences, best first.
      tokens: [batch, n, width] int32, the reader's inputs, the best passage first.
      allowed: [batch, n, width] bool, from `quotable`.
      word_starts: the tokenizer's bits by token id, set if a piece starts a word or is no part of
        one.
      eos_id: the token that ends a sequence.
    """
    occurs = _occurs_in(decoded.tokens, tokens, allowed, word_starts, eos_id)
    # By passage first: the second passage's name is often that of another subject.
    place = jnp.where(occurs.any(axis=-1), jnp.argmax(occurs, axis=-1), occurs.shape[-1])
    order = jnp.argsort(place, axis=1, stable=True)

    def sort(each: Array) -> Array:
        return jnp.take_along_axis(each, order.reshape(order.shape + (1, ) * (each.ndim - 2)),
                                   axis=1)

    return jax.tree.map(sort, decoded)


def _occurs_in(sequences: Array, tokens: Array, allowed: Array, word_starts: bytes,
               eos_id: int) -> Array:
    """Returns in which passages the sequences occur as whole words, [batch, sequences, n] bool."""
    starts = jnp.asarray(np.unpackbits(np.frombuffer(word_starts, np.uint8)).astype(bool))
    width, length = tokens.shape[-1], sequences.shape[-1]
    # Tokens before eos; padding follows it.
    counts = jnp.sum(jnp.cumsum(sequences == eos_id, axis=-1) == 0, axis=-1)
    spare = ((0, 0), (0, 0), (0, length))
    padded = jnp.pad(tokens, spare, constant_values=-1)

    def compare(i: Array, same: Array) -> Array:
        # [batch, 1, n, width], shifted by i tokens
        here = jax.lax.dynamic_slice_in_dim(padded, i, width, axis=-1)[:, None]
        return same & ((here == sequences[:, :, i, None, None]) | (i >= counts[..., None, None]))

    begins = starts[tokens] & allowed
    same = jnp.broadcast_to(begins[:, None], (*sequences.shape[:2], *tokens.shape[1:]))
    same = jax.lax.fori_loop(0, length, compare, same)
    # "Frenchman" contains the piece "French": the next token must start a word or lie outside.
    ends = jnp.pad(starts[tokens] | ~allowed, spare, constant_values=True)[:, None]
    behind = jnp.arange(width) + counts[..., None, None]
    ends = jnp.take_along_axis(jnp.broadcast_to(ends, (*same.shape[:3], width + length)),
                               jnp.broadcast_to(behind, same.shape), axis=-1)
    return jnp.any(same & ends, axis=-1) & (counts > 0)[..., None]
