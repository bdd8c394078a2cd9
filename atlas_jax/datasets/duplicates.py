"""Near-duplicates: texts that have most runs of five characters in common. MinHash proposes them, and an exact count confirms each."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from atlas_jax import errors
from atlas_jax.datasets import rows

_RUN = 5  # characters: long enough to keep the order of letters, short enough for a question of a few words
_PERMUTATIONS, _SEED = 256, 1
# Numbers of a sketch that estimate a similarity, and how far below the truth an estimate may be: three standard deviations at 0.8.
_ESTIMATED, _MARGIN = 128, 0.11
_BANDS = (4, 8, 16, 32, 64, 128)
_RECALL = 0.99  # of the pairs that are just as similar as asked for; more similar ones are missed more seldom


class NearDuplicates:
    """Texts that were added, numbered from 0; each new one is compared with all before it.

    A text takes about five kilobytes of memory and its own length.
    """

    def __init__(self, threshold: float):
        """Makes an empty collection; texts whose similarity is at least `threshold` are near. Raises ConfigError."""
        if not 0.3 <= threshold <= 1:
            raise errors.ConfigError(f'the similarity of near-duplicates is {threshold}; it must be between 0.3 and 1 (--near 0: none)')
        try:
            import rensa
        except ImportError as error:
            raise errors.ConfigError('near-duplicates need the package rensa: pip install "atlas-jax[data]", or give --near 0') from error
        self.threshold = threshold
        self._minhash = rensa.RMinHash
        self._lsh = rensa.RMinHashLSH(threshold, _PERMUTATIONS, bands(threshold))
        self._texts: list[str] = []
        self._estimates = np.zeros((1024, _ESTIMATED), np.uint32)  # [capacity, _ESTIMATED], the first numbers of each sketch
        self._first: dict[str, int] = {}

    def add(self, texts: Sequence[str], first_only: bool = False) -> list[dict[int, float]]:
        """Adds texts; returns for each the earlier ones that are near, with their similarity.

        Of equal texts the first stands for all. With `first_only` later ones are not compared with a text that is near an earlier one:
        where that is removed, they have no duplicate left.
        """
        written = [rows.normalised(text) for text in texts]
        runs = [runs_of(text) for text in written]
        found: list[dict[int, float]] = []
        for text, own, sketch in zip(written, runs, self._minhash.from_token_sets([list(each) for each in runs], _PERMUTATIONS, _SEED),
                                     strict=True):
            number = len(self._texts)
            found.append({each: value for each in self._likely(sketch, number)
                          if (value := similarity(own, runs_of(self._texts[each]))) >= self.threshold})
            self._texts.append(text)
            # A thousand equal rows are one to compare with, not a thousand.
            if self._first.setdefault(text, number) == number and not (first_only and found[-1]):
                self._lsh.insert(number, sketch)
        return found

    def _likely(self, sketch: Any, number: int) -> list[int]:
        """Keeps the sketch's numbers, and returns the earlier texts that it proposes, in their order, without the unlikely ones."""
        if number == len(self._estimates):
            self._estimates = np.concatenate([self._estimates, np.zeros_like(self._estimates)])
        self._estimates[number] = sketch.digest()[:_ESTIMATED]
        proposed = np.array(sorted(self._lsh.query(sketch)), np.int64)
        # Questions made by one pattern propose each other by the thousand, and counting takes a thousand times as long as this.
        estimated = (self._estimates[proposed] == self._estimates[number]).mean(axis=1)
        return proposed[estimated >= self.threshold - _MARGIN].tolist()


@functools.lru_cache(maxsize=1 << 14)
def runs_of(text: str) -> frozenset[str]:
    """Returns all runs of five characters; of a shorter text itself."""
    return frozenset(text[place:place + _RUN] for place in range(max(1, len(text) - _RUN + 1)))


def similarity(one: frozenset[str], other: frozenset[str]) -> float:
    """Returns the Jaccard similarity of two sets: what they share of what they have together."""
    common = len(one & other)
    return common / (len(one) + len(other) - common)


def bands(threshold: float) -> int:
    """Returns the least number of bands that proposes 99 % of the pairs with this similarity. More would propose more in vain."""
    def recall(count: int) -> float:
        return 1 - (1 - threshold ** (_PERMUTATIONS // count)) ** count
    return next((count for count in _BANDS if recall(count) >= _RECALL), _BANDS[-1])
