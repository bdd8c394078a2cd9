"""Exact leaks: runs of 13 normalised words of test questions that occur in other texts.

Papers on large language models count leaks this way.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

WORDS = 13
# Questions with at least this many words are searched inside texts. A shorter question is a leak
# only if a whole text equals it.
_LEAST = 8
_FLAGS = 1 << 23  # entries of the table that rejects nearly all runs before they are looked up
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying loses no bits of a word


class TestRuns:
    """The runs of words of the test questions.

    Memory: 16 bytes for each word of the questions, and the words themselves. Compared texts are
    not kept.
    """

    __test__ = False  # tells pytest that this is not a test class

    def __init__(self, questions: Sequence[Sequence[str]]):
        """Makes the tables of runs from the normalised words of each question."""
        self._questions = [list(question) for question in questions]
        self._whole: dict[tuple[str, ...], int] = {}
        by_size: dict[int, list[int]] = defaultdict(list)
        for number, question in enumerate(self._questions):
            if question and len(question) < WORDS:
                self._whole.setdefault(tuple(question), number)
            if len(question) >= _LEAST:
                by_size[min(WORDS, len(question))].append(number)
        self._runs = {
            size: _Table(self._questions, size, numbers)
            for size, numbers in sorted(by_size.items())}

    def find(self, texts: Sequence[Sequence[Sequence[str]]]) -> list[dict[int, str]]:
        """Returns for each text {question: the words that both have}. A text is given as the words
        of each of its parts.
        """
        found: list[dict[int, str]] = [{} for _ in texts]
        parts = [(number, part) for number, text in enumerate(texts) for part in text]
        for number, part in parts:
            if (question :=
                    self._whole.get(tuple(part)) if len(part) < WORDS else None) is not None:
                found[number].setdefault(question, ' '.join(part))
        lengths = [len(part) for _, part in parts]
        codes = _codes([word for _, part in parts for word in part])
        part_of = np.repeat(np.arange(len(parts)), lengths)
        starts = np.cumsum([0, *lengths])
        for size, table in self._runs.items():
            # Skips runs that cross the border of two parts.
            inside = part_of[:max(0, len(codes) - size + 1)] == part_of[size - 1:]
            for place, first, last in table.candidates(_rolled(codes, size), inside):
                number, words = parts[part_of[place]]
                start = place - int(starts[part_of[place]])
                run = list(words[start:start + size])
                for question in table.questions(run, first, last):
                    found[number].setdefault(question, ' '.join(run))
        return found


class _Table:
    """All runs of one length, sorted by their hashes."""

    def __init__(self, questions: Sequence[Sequence[str]], size: int, numbers: Sequence[int]):
        self._all, self._size = questions, size
        hashes, places = [], []
        for number in numbers:
            hashes.append(_rolled(_codes(questions[number]), size))
            places.append(
                np.stack([np.full(len(hashes[-1]), number),
                          np.arange(len(hashes[-1]))], axis=1).astype(np.int32))
        together = np.concatenate(hashes)
        order = np.argsort(together, kind='stable')
        self._hashes, self._places = together[order], np.concatenate(places)[order]
        self._flags = np.zeros(_FLAGS, bool)
        self._flags[self._hashes % _FLAGS] = True

    def candidates(self, hashes: np.ndarray, inside: np.ndarray) -> Iterator[tuple[int, int, int]]:
        """Yields (place, first, last) for the hashes that occur in this table, where `first` to
        before `last` are the table's runs with the hash.

        Args:
          hashes: [runs] uint64.
          inside: [runs] bool; False leaves a run out.
        """
        places = np.flatnonzero(self._flags[hashes % _FLAGS] & inside)
        first, last = (np.searchsorted(self._hashes, hashes[places], side)
                       for side in ('left', 'right'))
        same = first < last
        yield from zip(places[same].tolist(), first[same].tolist(), last[same].tolist(),
                       strict=True)

    def questions(self, run: Sequence[str], first: int, last: int) -> Iterator[int]:
        """Yields the questions among the runs `first` to before `last` that have exactly this run;
        other runs may have the same hash.
        """
        for number, start in self._places[first:last].tolist():
            if self._all[number][start:start + self._size] == run:
                yield number


def _codes(words: Sequence[str]) -> np.ndarray:
    """Returns a number for each word, [words] uint64. Python's hash is constant in one process."""
    return np.fromiter(map(hash, words), np.int64, len(words)).view(np.uint64)


def _rolled(codes: np.ndarray, size: int) -> np.ndarray:
    """Returns the hash of each run of `size` words, [words - size + 1] uint64."""
    count = max(0, len(codes) - size + 1)
    hashes = np.zeros(count, np.uint64)
    for place in range(size):
        hashes = hashes * _FACTOR + codes[place:place + count]
    return hashes
