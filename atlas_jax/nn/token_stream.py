"""Token streams: passages packed one after another, gathered to rows only for attention.

Embeddings, norms, projections and MLPs run on `[streams, stream_tokens, dim]`, real tokens only.
Attention gathers to `[streams, passages, longest, dim]` and back. The two gathers are inverse to
each other, so each backward pass is a gather and never a scatter (docs/design.md).
"""

import jax
import jax.numpy as jnp

from atlas_jax import types

Array = jax.Array


def pack(tokens: Array, lengths: Array, stream_tokens: int, longest: int) -> types.TokenStream:
    """Packs passages one after another.

    The caller guarantees that no length exceeds `longest`, and that the lengths of a stream sum to
    at most `stream_tokens`.

    Args:
      tokens: [streams, passages, width] int32, each passage at the start of its row.
      lengths: [streams, passages] int32; 0 is an empty passage.
      stream_tokens: capacity of a stream, at least 1.
      longest: width of the attention rows.

    Returns:
      A TokenStream; tokens past the end of the last passage are 0 with passage index -1.
    """
    if longest > tokens.shape[-1]:  # attention rows may be wider than every passage
        tokens = jnp.pad(tokens, ((0, 0), (0, 0), (0, longest - tokens.shape[-1])))
    ends = jnp.cumsum(lengths, axis=-1)  # [streams, passages]
    starts = ends - lengths
    position_in_stream = jnp.arange(stream_tokens)
    # A token's passage index is the number of passages that end at or before it. Empty passages are
    # skipped that way.
    owner = jax.vmap(
        lambda e: jnp.searchsorted(e, position_in_stream, side='right', method='compare_all'))(ends)
    inside = owner < lengths.shape[-1]
    owner = jnp.where(inside, owner, 0)  # [streams, stream_tokens]
    positions = jnp.where(inside, position_in_stream - jnp.take_along_axis(starts, owner, axis=-1),
                          0)
    width = tokens.shape[-1]
    flat = tokens.reshape(tokens.shape[0], -1)  # [streams, passages * width]
    stream = jnp.where(inside, jnp.take_along_axis(flat, owner * width + positions, axis=-1), 0)
    return types.TokenStream(tokens=stream.astype(jnp.int32), positions=positions.astype(jnp.int32),
                             passage_indices=jnp.where(inside, owner, -1).astype(jnp.int32),
                             starts=starts.astype(jnp.int32), lengths=lengths.astype(jnp.int32),
                             longest=longest)


def row_mask(stream: types.TokenStream) -> Array:
    """Marks real tokens in the attention rows, [streams, passages, longest] bool."""
    return jnp.arange(stream.longest) < stream.lengths[..., None]


def to_rows(stream: types.TokenStream, values: Array) -> Array:
    """Gathers [streams, stream_tokens, ...] to rows [streams, passages, longest, ...]; zeros past
    each passage's end.
    """
    rows = _gather_pairs(_flatten(values), *_maps(stream))
    return rows.reshape(*stream.lengths.shape, stream.longest, *values.shape[2:])


def to_stream(stream: types.TokenStream, rows: Array) -> Array:
    """Gathers rows [streams, passages, longest, ...] back to [streams, stream_tokens, ...]; zeros
    past the last passage.
    """
    flat = rows.reshape(rows.shape[0], -1, *rows.shape[3:])  # [streams, passages * longest, ...]
    to_row, real_row, to_token, real_token = _maps(stream)
    values = _gather_pairs(_flatten(flat), to_token, real_token, to_row, real_row)
    return values.reshape(*stream.tokens.shape, *rows.shape[3:])


def passage_rows(stream: types.TokenStream, values: Array) -> Array:
    """Gathers [streams, stream_tokens, ...] to [streams * passages, longest, ...], one row a
    passage; see `to_rows`.
    """
    rows = to_rows(stream, values)
    return rows.reshape(-1, *rows.shape[2:])


def first_rows(rows: Array, examples: int, n: int) -> Array:
    """Keeps the first `n` passages of each example: rows [examples * (n or more), longest, ...] to
    [examples * n, longest, ...].
    """
    by_example = rows.reshape(examples, -1, *rows.shape[1:])[:, :n]  # [examples, n, longest, ...]
    return by_example.reshape(-1, *rows.shape[1:])


def join_rows(first: Array, second: Array, examples: int) -> Array:
    """Lays each example's passages of `first` before those of `second`.

    Args:
      first, second: rows [examples * passages, longest, ...]; passages and longest may differ
        between the two.
      examples: number of examples.

    Returns:
      [examples * (passages of both), the larger longest, ...]; narrower rows are padded with zeros.
    """
    longest = max(first.shape[1], second.shape[1])
    # [examples, passages, longest, ...] of either
    by_example = [
        _widen(rows, longest).reshape(examples, -1, longest, *rows.shape[2:])
        for rows in (first, second)]
    return jnp.concatenate(by_example, axis=1).reshape(-1, longest, *first.shape[2:])


def _widen(rows: Array, longest: int) -> Array:
    """Pads [passages, width, ...] to [passages, longest, ...] with zeros."""
    return jnp.pad(rows, ((0, 0), (0, longest - rows.shape[1]), *((0, 0),) * (rows.ndim - 2)))


def _flatten(values: Array) -> Array:
    """Joins all axes from the third on: [streams, n, ...] to [streams, n, dim]."""
    return values.reshape(*values.shape[:2], -1)


def _maps(stream: types.TokenStream) -> tuple[Array, Array, Array, Array]:
    """Returns the two index maps between rows and stream, and their masks of real entries.

    Returns:
      Stream position of every row slot [streams, passages * longest] int32, and its mask, bool; row
      slot of every stream position [streams, stream_tokens] int32, and its mask, bool.
    """
    offsets = jnp.arange(stream.longest)
    # [streams, passages * longest]
    to_row = (stream.starts[..., None] + offsets).reshape(stream.starts.shape[0], -1)
    real_row = row_mask(stream).reshape(to_row.shape)
    # Padding gets index 0: an index must be valid even where its value is masked.
    real_token = stream.passage_indices >= 0  # [streams, stream_tokens]
    to_token = jnp.where(real_token, stream.passage_indices * stream.longest + stream.positions, 0)
    return to_row, real_row, to_token, real_token


def _gather(values: Array, indices: Array, real: Array) -> Array:
    """Takes values [streams, from, dim] at indices [streams, to]; returns [streams, to, dim], zeros
    where `real` [streams, to] is False.
    """
    # 'clip', because row slots past a passage's end may point beyond the stream
    taken = jax.vmap(lambda v, i: jnp.take(v, i, axis=0, mode='clip'))(values, indices)
    return jnp.where(real[..., None], taken, 0)


@jax.custom_vjp
def _gather_pairs(values, indices, real, inverse, inverse_real):
    """Gathers like `_gather`. Its gradient is the gather by `inverse`: on real positions the two
    maps are inverse to each other.
    """
    del inverse, inverse_real
    return _gather(values, indices, real)


def _gather_pairs_forward(values, indices, real, inverse, inverse_real):
    return _gather(values, indices, real), (inverse, inverse_real)


def _gather_pairs_backward(saved, gradient):
    inverse, inverse_real = saved
    return _gather(gradient, inverse, inverse_real), None, None, None, None


_gather_pairs.defvjp(_gather_pairs_forward, _gather_pairs_backward)
