"""Token capacities of the streams: a few sizes, the largest of which holds every possible input.

Shapes are static, token counts are not. A step picks the smallest level that fits (docs/design.md,
the flat layout). Each level is a program of its own, so few levels keep compilation short. A stream
cannot overflow: the last level holds every passage at its limit.
"""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

_ROUND_TOKENS = 64
# Shares of steps that fit the levels below the last one. One level near the middle saves 4 % of a
# step's tokens with 40 passages, 9 % with five; two levels save 1 % more.
_HELD = (0.69, 0.977)
A_HANDFUL = 8  # passages
# the highest quantile read off a sample of lengths; above it, the sample's maximum is used
_IN_A_SAMPLE = 0.9995


@dataclasses.dataclass(frozen=True)
class Capacity:
    """Size of one stream: its total of tokens, and the width of the attention rows."""

    stream_tokens: int
    longest: int


def capacities(lengths: np.ndarray, passages: int, limit: int,
               streams: int = 1) -> tuple[Capacity, ...]:
    """Returns capacities for streams of `passages` passages, smallest first; the last one holds
    `passages` of the greatest length.

    Args:
      lengths: [n] int, token counts of the expected inputs, or of a sample.
      passages: number of passages in a stream.
      limit: the largest token count of an input.
      streams: number of streams that must fit at once; the fullest of many is fuller than one.
    """
    greatest = _round_up(limit, 8)
    # Every input fits the last level: an overflow would silently cut passages.
    full = Capacity(passages * greatest, greatest)
    # Without a sample, callers still need the usual number of levels.
    if len(lengths) == 0:
        return (full,) * (len(_HELD) + 1)
    lengths = np.minimum(np.asarray(lengths, np.float64), limit)
    result = []
    for held in _HELD:
        # All streams must fit at once. They are independent, so each must fit with the root of the
        # share.
        share = held ** (1 / streams)
        # in standard deviations of a stream's tokens
        spread = statistics.NormalDist().inv_cdf(share)
        # A stream's tokens are a sum of many lengths, hence nearly normal.
        expected = passages * lengths.mean() + spread * math.sqrt(passages) * lengths.std()
        # The longest of the passages must fit the attention's width too.
        fitting = share ** (1 / passages)
        longest = min(
            _round_up(np.quantile(lengths, fitting if fitting < _IN_A_SAMPLE else 1.0), 8),
            greatest)
        result.append(
            Capacity(min(max(_round_up(expected, _ROUND_TOKENS), longest), passages * longest),
                     longest))
    return (*result, full)


def shared(sizes: Sequence[Capacity], passages: int, limit: int) -> tuple[Capacity, ...]:
    """Rounds capacities up to a few fixed sizes, so that other questions and passages use the same
    program.

    Args:
      sizes: capacities from `capacities`.
      passages: number of passages in a stream.
      limit: the largest token count that an input can ever have.
    """
    few = passages <= A_HANDFUL
    rounded = []
    # For a handful of passages, compiling one program less is worth more than the padding.
    for size in sizes[1:] if few else sizes:
        longest = min(_fixed_size(size.longest, few), _round_up(limit, 8))
        # Rounded per passage, so that the sizes do not depend on the number of passages.
        tokens = passages * _fixed_size(math.ceil(size.stream_tokens / passages), few)
        rounded.append(Capacity(min(max(tokens, longest), passages * longest), longest))
    # The last one still holds every input.
    return (*rounded[:-1], Capacity(passages * rounded[-1].longest, rounded[-1].longest))


def _fixed_size(tokens: int, coarse: bool) -> int:
    """Returns the smallest size >= `tokens` among 32, 40, 48, 56, 64, 80, ..., or with `coarse`
    among 32, 48, 64, 96, ...
    """
    # Four sizes per octave leave a tenth of the room empty on average, two a sixth.
    power = 2 ** max(math.ceil(math.log2(max(tokens, 1))), 5)
    step = max(power // (4 if coarse else 8), 8)
    return _round_up(tokens, step) if power > 32 else power


def distinct(kinds: Mapping[str, tuple[Capacity, ...]]) -> dict[str, tuple[Capacity, ...]]:
    """Drops levels that equal the next level for every kind of stream: each level costs a
    compilation.
    """
    by_level = list(zip(*kinds.values(), strict=True))
    kept = [
        i for i, sizes in enumerate(by_level) if i + 1 == len(by_level) or sizes != by_level[i + 1]]
    return {name: tuple(sizes[i] for i in kept) for name, sizes in kinds.items()}


def level(streams: Sequence[tuple[jax.Array, Sequence[Capacity]]]) -> jax.Array:
    """Returns the smallest level at which every stream fits: scalar int32, in graph.

    Args:
      streams: for each kind of stream its lengths [streams, passages] int32 and its capacities, one
        per level.
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
