"""Whether, and how early, retrieval found what answers a question; and whether two scores of the passages agree."""

import bisect
import math
from collections.abc import Callable, Collection, Sequence

from atlas_jax.metrics import answers as answer_metrics


def first_answer_rank(passages: Sequence[str], answers: Sequence[str]) -> int | None:
    """The rank, from 0, of the first passage (best first) that holds an answer as whole words, normalised; None if none does.

    A short answer ("18") stands in many passages by chance: where gold passages are known, prefer `first_gold_rank`.
    """
    return next((rank for rank, passage in enumerate(passages) if answer_metrics.contains_answer(passage, answers)), None)


def first_gold_rank(docids: Sequence[str], gold_docids: Collection[str]) -> int | None:
    """The rank, from 0, of the first docid (best first) that is gold, or is a piece ("id#2") of a gold document ("id"); None if none is."""
    gold = set(gold_docids)
    return next((rank for rank, docid in enumerate(docids) if docid in gold or docid.rpartition('#')[0] in gold), None)


def recall_at_k(ranks: Sequence[int | None], top_k: int) -> float:
    """The share of questions, 0 to 1, whose rank (from 0) is under `top_k`. Raises ValueError where there is no question."""
    if not ranks:
        raise ValueError('ranks must hold at least one question')
    return sum(rank is not None and rank < top_k for rank in ranks) / len(ranks)


def pearson(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Pearson's correlation, -1 to 1; None for fewer than two pairs, or where one side is constant. Raises ValueError for two lengths."""
    pairs = list(zip(first, second, strict=True))
    if any(min(side) == max(side) for side in zip(*pairs, strict=True)) or not pairs:
        return None
    centred = [[value - sum(side) / len(pairs) for value in side] for side in zip(*pairs, strict=True)]
    lengths = [math.sqrt(sum(value * value for value in side)) for side in centred]
    return max(-1.0, min(1.0, sum(a * b for a, b in zip(*centred, strict=True)) / (lengths[0] * lengths[1])))


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's correlation: Pearson's of the ranks, equal values sharing the mean of theirs; None as `pearson`."""
    return pearson(_ranks(first), _ranks(second))


def mean_correlation(rows: Sequence[Sequence[float]], others: Sequence[Sequence[float]],
                     correlation: Callable[[Sequence[float], Sequence[float]], float | None] = pearson) -> float | None:
    """The mean over examples of the correlation of two scores of their passages.

    Args:
      rows, others: for each example one number a passage; pairs that are not finite on both sides (not retrieved) are left out.
      correlation: `pearson` or `spearman`. Examples where it is None are left out.

    Returns:
      -1 to 1; None where no example has a correlation.
    """
    found = []
    for row, other in zip(rows, others, strict=True):
        pairs = [pair for pair in zip(row, other, strict=True) if all(map(math.isfinite, pair))]
        value = correlation([first for first, _ in pairs], [second for _, second in pairs])
        if value is not None:
            found.append(value)
    return sum(found) / len(found) if found else None


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    return [(bisect.bisect_left(ordered, value) + bisect.bisect_right(ordered, value) - 1) / 2 for value in values]
