"""Token capacities of the streams: a few sizes, the largest of which holds everything that can come.

Shapes are static, token counts are not. A step picks the smallest level that fits (docs/design.md, the flat layout); each level is a
program of its own, so few levels keep compilation short. Overflow is impossible: the last level takes every passage at its limit.
"""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

_ROUND_TOKENS = 64
# The share of steps that the levels below the last one hold. One level near the middle takes 4 % of 40 passages' tokens off a step, 9 % of
# five passages'; two of them 1 % more.
_HELD = (0.69, 0.977)
A_HANDFUL = 8  # passages
_IN_A_SAMPLE = 0.9995  # quantiles that a sample of lengths tells; where more have to fit, the longest of it does


@dataclasses.dataclass(frozen=True)
class Capacity:
    """Size of one stream: tokens in all, and the width of the attention rows."""

    stream_tokens: int
    longest: int


def capacities(lengths: np.ndarray, passages: int, limit: int, streams: int = 1) -> tuple[Capacity, ...]:
    """Returns capacities for streams of `passages` passages, smallest first; the last one holds `passages` of the greatest length.

    Args:
      lengths: [n] int, token counts of the inputs that will come (of a sample, or of all).
      passages: passages in a stream.
      limit: no input is longer than this.
      streams: that have to fit together; the fullest of many is fuller than one.
    """
    greatest = _round_up(limit, 8)
    # Whatever comes fits the last level: overflow would cut passages without a word.
    full = Capacity(passages * greatest, greatest)
    # Nothing is known of the lengths, yet callers count on as many levels as always.
    if len(lengths) == 0:
        return (full,) * (len(_HELD) + 1)
    lengths = np.minimum(np.asarray(lengths, np.float64), limit)
    result = []
    for held in _HELD:
        # All streams must fit at once. They are independent, so each has to fit with the root of the share.
        share = held ** (1 / streams)
        spread = statistics.NormalDist().inv_cdf(share)  # in standard deviations of a stream's tokens
        # A stream's tokens are a sum of many lengths: near normal, whatever the lengths are.
        expected = passages * lengths.mean() + spread * math.sqrt(passages) * lengths.std()
        # The longest of the passages must fit the attention's width too.
        fitting = share ** (1 / passages)
        longest = min(_round_up(np.quantile(lengths, fitting if fitting < _IN_A_SAMPLE else 1.0), 8), greatest)
        result.append(Capacity(min(max(_round_up(expected, _ROUND_TOKENS), longest), passages * longest), longest))
    return (*result, full)


def shared(sizes: Sequence[Capacity], passages: int, limit: int) -> tuple[Capacity, ...]:
    """Rounds capacities up to a few fixed sizes, so that other questions and passages ask for the same program.

    Args:
      sizes: of `capacities`.
      passages: passages in a stream.
      limit: no input can ever be longer than this.
    """
    few = passages <= A_HANDFUL
    rounded = []
    # One program less to compile is worth more than room that a handful of passages leave empty.
    for size in sizes[1:] if few else sizes:
        longest = min(_fixed_size(size.longest, few), _round_up(limit, 8))
        # Of the tokens a passage has on average, so that the sizes do not depend on the number of passages.
        tokens = passages * _fixed_size(math.ceil(size.stream_tokens / passages), few)
        rounded.append(Capacity(min(max(tokens, longest), passages * longest), longest))
    # The last one still holds whatever comes.
    return (*rounded[:-1], Capacity(passages * rounded[-1].longest, rounded[-1].longest))


def _fixed_size(tokens: int, coarse: bool) -> int:
    """Returns the least of 32, 40, 48, 56, 64, 80, ... that is not less than `tokens`; coarse: of 32, 48, 64, 96, ..."""
    # Four sizes an octave leave a tenth of the room empty on average, two of them a sixth.
    power = 2 ** max(math.ceil(math.log2(max(tokens, 1))), 5)
    step = max(power // (4 if coarse else 8), 8)
    return _round_up(tokens, step) if power > 32 else power


def distinct(kinds: Mapping[str, tuple[Capacity, ...]]) -> dict[str, tuple[Capacity, ...]]:
    """Drops levels at which every kind of stream has the capacity of the next level: each level costs a compilation."""
    by_level = list(zip(*kinds.values(), strict=True))
    # Compared for all kinds together: a level is one branch with all streams in it.
    kept = [i for i, sizes in enumerate(by_level) if i + 1 == len(by_level) or sizes != by_level[i + 1]]
    return {name: tuple(sizes[i] for i in kept) for name, sizes in kinds.items()}


def level(streams: Sequence[tuple[jax.Array, Sequence[Capacity]]]) -> jax.Array:
    """Returns the smallest level at which every stream fits: scalar int32, in graph.

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
