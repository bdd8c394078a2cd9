"""Lays passages of known lengths into token streams of few static shapes, with little room left over."""

import bisect
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

# Widths of the attention rows. Each one used costs a compilation (about 2 s of CPU for 6 layers); closer ones save less than that on a
# few thousand passages of 50 to 200 tokens, and no more than 4 % on any number.
WIDTHS = (64, 128, 160, 208, 256, 320, 416, 512)


@dataclasses.dataclass(frozen=True)
class PackedPassages:
    """Passages that are embedded at once.

    members  [streams, capacity] int64  positions in the list of lengths; -1 where a stream has fewer passages
    longest  width that holds each of them; with the capacity it determines the compiled shape
    """

    members: np.ndarray
    longest: int


def pack(lengths: np.ndarray, streams: int, stream_tokens: int, max_tokens: int) -> Iterator[PackedPassages]:
    """Yields packs, longest passages first; every passage is in exactly one.

    Args:
      lengths: [n] int, each at most max_tokens.
      streams: streams in a pack, one a device.
      stream_tokens: tokens a stream holds, at least max_tokens.
      max_tokens: the largest width that can be needed.
    """
    widths = [width for width in WIDTHS if width < max_tokens] + [max_tokens]
    order = np.argsort(lengths, kind='stable')
    rest = lengths[order].tolist(), order.tolist()  # shortest first: the longest are taken from the end
    while rest[0]:
        number = int(np.searchsorted(widths, rest[0][-1]))
        members = np.full((streams, _capacity(widths, number, stream_tokens)), -1, np.int64)
        for stream in members:
            taken = _take(*rest, len(stream), stream_tokens)
            stream[:len(taken)] = taken
        yield PackedPassages(members, widths[number])


def _capacity(widths: Sequence[int], number: int, stream_tokens: int) -> int:
    """Passages that a stream of this width has room for: as many as fit of the shortest that need the width."""
    shortest = widths[number - 1] + 1 if number else max(1, widths[0] // 2)
    return max(1, stream_tokens // shortest)


def _take(sizes: list[int], passages: list[int], capacity: int, stream_tokens: int) -> list[int]:
    """Removes from both lists what one stream holds, always the longest that still fits."""
    taken, room = [], stream_tokens
    while len(taken) < capacity and (place := bisect.bisect_right(sizes, room) - 1) >= 0:
        room -= sizes.pop(place)
        taken.append(passages.pop(place))
    return taken
