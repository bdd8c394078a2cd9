"""Counts of what the server did, in Prometheus's text format."""

import bisect
import threading
from collections.abc import Callable, Sequence

MEDIA_TYPE = 'text/plain; version=0.0.4; charset=utf-8'
SECONDS = (.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120)
SIZES = (1, 2, 4, 8, 16, 32, 64)
_Labels = tuple[tuple[str, str], ...]


class Counter:
    """A number that only grows, for each set of labels."""

    kind = 'counter'

    def __init__(self, name: str, purpose: str):
        self.name, self.purpose, self._lock, self._values = name, purpose, threading.Lock(), dict[_Labels, float]()

    def add(self, amount: float = 1, **labels: str) -> None:
        """Adds to the number of these labels."""
        key = tuple(labels.items())
        with self._lock:
            self._values[key] = self._values.get(key, 0) + amount

    def lines(self) -> list[str]:
        """Returns the samples."""
        with self._lock:
            return [f'{self.name}{_shown(labels)} {value:g}' for labels, value in sorted(self._values.items())]


class Gauge:
    """A number that is asked for when it is shown."""

    kind = 'gauge'

    def __init__(self, name: str, purpose: str, value: Callable[[], float]):
        self.name, self.purpose, self._value = name, purpose, value

    def lines(self) -> list[str]:
        """Returns the sample."""
        return [f'{self.name} {self._value():g}']


class Histogram:
    """Numbers counted by the bounds that they do not exceed, for each set of labels."""

    kind = 'histogram'

    def __init__(self, name: str, purpose: str, bounds: Sequence[float]):
        self.name, self.purpose, self._bounds, self._lock = name, purpose, tuple(bounds), threading.Lock()
        self._counts: dict[_Labels, list[int]] = {}
        self._sums: dict[_Labels, float] = {}

    def add(self, value: float, **labels: str) -> None:
        """Counts a number under these labels."""
        key = tuple(labels.items())
        with self._lock:
            # One place more than bounds, for what is larger than all of them.
            counts = self._counts.setdefault(key, [0] * (len(self._bounds) + 1))
            counts[bisect.bisect_left(self._bounds, value)] += 1
            self._sums[key] = self._sums.get(key, 0) + value

    def lines(self) -> list[str]:
        """Returns the samples: cumulative buckets, sum and count."""
        lines = []
        with self._lock:
            for labels, counts in sorted(self._counts.items()):
                total = 0
                for bound, count in zip((*map(str, self._bounds), '+Inf'), counts, strict=True):
                    total += count
                    lines.append(f'{self.name}_bucket{_shown((*labels, ("le", bound)))} {total}')
                lines += [f'{self.name}_sum{_shown(labels)} {self._sums[labels]:.6g}', f'{self.name}_count{_shown(labels)} {total}']
        return lines


class Metrics:
    """The figures of one server.

    Attributes:
      requests: by path and status.
      seconds: of requests, by path.
      batches: numbers of questions that were computed together.
    """

    def __init__(self, waiting: Callable[[], float]):
        """Takes a function that returns how many questions wait."""
        self.requests = Counter('atlas_jax_requests_total', 'Requests, by path and status.')
        self.seconds = Histogram('atlas_jax_request_seconds', 'Seconds from a request to the end of its response, by path.', SECONDS)
        self.batches = Histogram('atlas_jax_batch_size', 'Questions that were computed together.', SIZES)
        self._all = (self.requests, self.seconds, self.batches, Gauge('atlas_jax_queue_depth', 'Questions that wait.', waiting))

    def text(self) -> str:
        """Returns all figures in Prometheus's text format."""
        lines = []
        for each in self._all:
            lines += [f'# HELP {each.name} {each.purpose}', f'# TYPE {each.name} {each.kind}', *each.lines()]
        return '\n'.join([*lines, ''])


def _shown(labels: _Labels) -> str:
    # Values are ours (routes, statuses), so nothing in them needs an escape.
    return '{' + ','.join(f'{name}="{value}"' for name, value in labels) + '}' if labels else ''
