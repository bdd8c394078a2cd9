"""Puts model inputs together from token segments inside the compiled program: ids of the query and
the passage, special tokens, and literal text between them.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from atlas_jax import errors, types
from atlas_jax.tokenizers.formats import Segment

Array = jax.Array


def assemble(segments: Sequence[Segment], query_tokens: Array, query_lengths: Array,
             passages: types.TokenTable, max_length: int) -> tuple[Array, Array]:
    """Lays the segments of n inputs one after another.

    Inputs that are too long are cut from the end of the text, then from the title, then from the
    query. Literals stay whole.

    Args:
      segments: the segments of a format, in order.
      query_tokens: [n, query_width] int, 0 on padding.
      query_lengths: [n] int.
      passages: one row for each input, tokens [n, width] int.
      max_length: width of the result.

    Returns:
      Tokens [n, max_length] int32, 0 on padding, and lengths [n] int32.

    Raises:
      ConfigError: the literals alone are longer than max_length; raised while tracing.
    """
    literal = sum(len(segment.ids) for segment in segments)
    if literal > max_length:
        raise errors.ConfigError(f'the format alone takes {literal} tokens, more than the limit '
                                 f'of {max_length}; raise text_max_tokens')
    # For each kind: tokens [n, width], its first column [n] and its length [n].
    sources = {
        'query': (query_tokens, jnp.zeros_like(query_lengths), query_lengths),
        'title': (passages.tokens, jnp.zeros_like(passages.title_lengths), passages.title_lengths),
        'text': (passages.tokens, passages.title_lengths,
                 passages.lengths - passages.title_lengths), }
    kinds = {segment.kind for segment in segments}
    room = jnp.full_like(query_lengths, max_length - literal)
    kept = {}
    for kind in ('query', 'title', 'text'):  # the first takes its room first
        kept[kind] = jnp.clip(sources[kind][2], 0, room) if kind in kinds else jnp.zeros_like(room)
        room = room - kept[kind]
    columns = jnp.arange(max_length)
    tokens = jnp.zeros((query_tokens.shape[0], max_length), jnp.int32)
    end = jnp.zeros_like(room)
    for segment in segments:
        start = end[:, None]  # [n, 1]
        if segment.kind == 'literal':
            end = end + len(segment.ids)
            # [n, max_length]; the `where` below keeps the columns of this segment
            values = jnp.asarray(segment.ids, jnp.int32)[jnp.clip(columns - start, 0,
                                                                  len(segment.ids) - 1)]
        else:
            source, first, _ = sources[segment.kind]
            end = end + kept[segment.kind]
            # [n, max_length]
            place = jnp.clip(columns - start + first[:, None], 0, source.shape[1] - 1)
            values = jnp.take_along_axis(source.astype(jnp.int32), place, axis=1)
        tokens = jnp.where((columns >= start) & (columns < end[:, None]), values, tokens)
    return tokens, end.astype(jnp.int32)
