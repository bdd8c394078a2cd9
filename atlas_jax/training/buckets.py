"""Token capacities of the streams: a few sizes, the largest of which holds everything that can come.

Shapes are static, token counts are not. A step picks the smallest level that fits (docs/design.md, the flat layout); each level is a
program of its own, so few levels keep compilation short. Overflow is impossible: the last level takes every passage at its limit.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

_ROUND_TOKENS = 64
_SPREADS = (2.0,)  # standard deviations above the expected token count that the levels below the last one hold


@dataclasses.dataclass(frozen=True)
class Capacity:
    """Size of one stream: tokens in all, and the width of the attention rows."""

    stream_tokens: int
    longest: int


def capacities(lengths: np.ndarray, passages: int, limit: int, levels: int = len(_SPREADS) + 1) -> tuple[Capacity, ...]:
    """Capacities for streams of `passages` passages, smallest first; the last one holds `passages` of the greatest length.

    Args:
      lengths: [n] int, token counts of the inputs that will come (of a sample, or of all).
      passages: passages in a stream.
      limit: no input is longer than this.
      levels: how many sizes, at most 2.
    """
    greatest = _round_up(limit, 8)
    full = Capacity(passages * greatest, greatest)
    if len(lengths) == 0:
        return (full,) * levels
    lengths = np.minimum(np.asarray(lengths, np.float64), limit)
    result = []
    for spread in _SPREADS[:levels - 1]:
        expected = passages * lengths.mean() + spread * math.sqrt(passages) * lengths.std()
        share = 0.5 * (1 + math.erf(spread / math.sqrt(2)))  # of streams whose passages all fit the row width
        longest = _round_up(np.quantile(lengths, share ** (1 / passages)), 8)
        longest = min(longest, greatest)
        result.append(Capacity(min(max(_round_up(expected, _ROUND_TOKENS), longest), passages * longest), longest))
    return (*result, full)


def level(streams: Sequence[tuple[jax.Array, Sequence[Capacity]]]) -> jax.Array:
    """The smallest level at which every stream fits: scalar int32, in graph.

    Args:
      streams: for each kind of stream its lengths [streams, passages] int32 and its capacities, one a level.
    """
    levels = len(streams[0][1])
    fits = jnp.ones((levels,), bool)
    for lengths, sizes in streams:
        tokens = jnp.asarray([size.stream_tokens for size in sizes])
        longest = jnp.asarray([size.longest for size in sizes])
        fits &= (lengths.sum(axis=-1).max() <= tokens) & (lengths.max() <= longest)
    fits = fits.at[-1].set(True)  # holds everything by construction
    return jnp.argmax(fits).astype(jnp.int32)


def _round_up(value: float, multiple: int) -> int:
    return max(int(math.ceil(value / multiple)) * multiple, multiple)
