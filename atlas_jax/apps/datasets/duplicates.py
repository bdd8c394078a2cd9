"""Near-duplicates: texts that share most of their runs of five characters.

MinHash proposes pairs, and an exact count confirms each.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from atlas_jax import errors
from atlas_jax.apps.datasets import rows

# Characters of a run: enough to keep the order of letters, few enough for short questions.
_RUN = 5
_PERMUTATIONS, _SEED = 256, 1
# Numbers of a sketch that estimate a similarity, and how far an estimate may lie below the true
# value: three standard deviations at 0.8.
_ESTIMATED, _MARGIN = 128, 0.11
_BANDS = (4, 8, 16, 32, 64, 128)
# Share of the pairs at the threshold that must be proposed; more similar pairs are missed less.
_RECALL = 0.99


class NearDuplicates:
    """Texts, numbered from 0 as they are added; each new one is compared with all earlier ones.

    Memory: about five kilobytes for each text, and its length.
    """

    def __init__(self, threshold: float):
        """Makes an empty collection, in which texts with a similarity of at least `threshold` are
        near.

        Raises ConfigError: `threshold` is out of range, or rensa is not installed.
        """
        if not 0.3 <= threshold <= 1:
            raise errors.ConfigError(f'the similarity of near-duplicates is {threshold}; it must '
                                     'be between 0.3 and 1 (--near 0: none)')
        try:
            import rensa
        except ImportError as error:
            raise errors.ConfigError('near-duplicates need the package rensa: pip install '
                                     '"atlas-jax[data]", or give --near 0') from error
        self.threshold = threshold
        self._minhash = rensa.RMinHash
        self._lsh = rensa.RMinHashLSH(threshold, _PERMUTATIONS, bands(threshold))
        self._texts: list[str] = []
        # [capacity, _ESTIMATED] uint32: the first numbers of each sketch
        self._estimates = np.zeros((1024, _ESTIMATED), np.uint32)
        self._first: dict[str, int] = {}

    def add(self, texts: Sequence[str], first_only: bool = False) -> list[dict[int, float]]:
        """Adds texts. Returns for each the earlier texts that are near, with their similarity.

        Only the first of equal texts is reported. With `first_only`, later texts are not compared
        with a text that is near an earlier one: they have no duplicate left once it is removed.
        """
        written = [rows.normalised(text) for text in texts]
        runs = [runs_of(text) for text in written]
        found: list[dict[int, float]] = []
        for text, own, sketch in zip(
                written, runs,
                self._minhash.from_token_sets([list(each) for each in runs], _PERMUTATIONS, _SEED),
                strict=True):
            number = len(self._texts)
            found.append({
                each: value
                for each in self._likely(sketch, number)
                if (value := similarity(own, runs_of(self._texts[each]))) >= self.threshold})
            self._texts.append(text)
            # Only the first of equal texts is compared with later ones.
            if self._first.setdefault(text, number) == number and not (first_only and found[-1]):
                self._lsh.insert(number, sketch)
        return found

    def _likely(self, sketch: Any, number: int) -> list[int]:
        """Stores the sketch's numbers. Returns the earlier texts that MinHash proposes, in order,
        without those whose estimated similarity is too low.
        """
        if number == len(self._estimates):
            self._estimates = np.concatenate([self._estimates, np.zeros_like(self._estimates)])
        self._estimates[number] = sketch.digest()[:_ESTIMATED]
        proposed = np.array(sorted(self._lsh.query(sketch)), np.int64)
        # Questions made from one template propose each other by the thousand, and an exact count
        # takes a thousand times as long as this estimate.
        estimated = (self._estimates[proposed] == self._estimates[number]).mean(axis=1)
        return proposed[estimated >= self.threshold - _MARGIN].tolist()


@functools.lru_cache(maxsize=1 << 14)
def runs_of(text: str) -> frozenset[str]:
    """Returns all runs of five characters; for a shorter text, the text itself."""
    return frozenset(text[place:place + _RUN] for place in range(max(1, len(text) - _RUN + 1)))


def similarity(one: frozenset[str], other: frozenset[str]) -> float:
    """Returns the Jaccard similarity of two sets: the size of their intersection by that of their
    union.
    """
    common = len(one & other)
    return common / (len(one) + len(other) - common)


def bands(threshold: float) -> int:
    """Returns the smallest number of bands that proposes 99 % of the pairs with this similarity.

    More bands would propose more pairs that are not near.
    """
    def recall(count: int) -> float:
        return 1 - (1 - threshold ** (_PERMUTATIONS // count)) ** count
    return next((count for count in _BANDS if recall(count) >= _RECALL), _BANDS[-1])
