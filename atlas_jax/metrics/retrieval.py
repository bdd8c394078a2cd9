"""Metrics of retrieval: the rank of the first passage that answers, recall, and the agreement of two scores of the passages."""

import math
from collections.abc import Collection, Sequence

from atlas_jax.metrics import answers as answer_metrics


def first_answer_rank(passages: Sequence[str], answers: Sequence[str]) -> int | None:
    """Finds the rank, from 0, of the first passage (best first) that holds an answer as whole words, normalised; None if none does.

    A short answer ("18") stands in many passages by chance: where gold passages are known, prefer `first_gold_rank`.
    """
    return next((rank for rank, passage in enumerate(passages) if answer_metrics.contains_answer(passage, answers)), None)


def first_gold_rank(docids: Sequence[str], gold_docids: Collection[str]) -> int | None:
    """Finds the rank, from 0, of the first docid (best first) that is gold or a piece ("id#2") of a gold document ("id"); else None."""
    # Stores cut long documents into pieces, whose docids end in "#" and a number.
    gold = set(gold_docids)
    return next((rank for rank, docid in enumerate(docids) if docid in gold or docid.rpartition('#')[0] in gold), None)


def recall_at_k(ranks: Sequence[int | None], top_k: int) -> float:
    """Returns the share of questions, 0 to 1, whose rank (from 0) is under `top_k`. Raises ValueError: no question is given."""
    if not ranks:
        raise ValueError('ranks must hold at least one question')
    return sum(rank is not None and rank < top_k for rank in ranks) / len(ranks)


def pearson(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Computes Pearson's correlation, -1 to 1; None for fewer than two pairs, or if one side is constant.

    Raises ValueError: the lengths differ.
    """
    if len(first) != len(second):
        raise ValueError(f'{len(first)} values on one side and {len(second)} on the other; a correlation needs pairs')
    # the deviation of a constant side is 0, and the quotient would be 0 / 0
    if not first or min(first) == max(first) or min(second) == max(second):
        return None
    first, second = _centred(first), _centred(second)
    product = sum(a * b for a, b in zip(first, second, strict=True))
    # rounding may carry the quotient past 1
    return max(-1.0, min(1.0, product / (math.sqrt(sum(a * a for a in first)) * math.sqrt(sum(b * b for b in second)))))


def mean_correlation(rows: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> float | None:
    """Averages over examples Pearson's correlation of two scores of their passages.

    Args:
      rows, others: for each example one number a passage. Pairs that are not finite on both sides (not retrieved) are left out.

    Returns:
      -1 to 1; None if no example has a correlation.

    Raises ValueError: the numbers of examples, or of an example's passages, differ.
    """
    found = []
    for row, other in zip(rows, others, strict=True):
        # within each example, which is what ranking needs; the original takes all passages of a batch at once
        pairs = [pair for pair in zip(row, other, strict=True) if all(map(math.isfinite, pair))]
        value = pearson([first for first, _ in pairs], [second for _, second in pairs])
        if value is not None:
            found.append(value)
    return sum(found) / len(found) if found else None


def _centred(values: Sequence[float]) -> list[float]:
    mean = sum(values) / len(values)
    return [value - mean for value in values]
