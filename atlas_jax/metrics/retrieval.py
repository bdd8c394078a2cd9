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


def gold_ranks(docids: Sequence[str], gold_docids: Collection[str]) -> list[int]:
    """Returns the rank, from 0, of each gold document that was found: that of its best piece."""
    ranks: dict[str, int] = {}
    gold = set(gold_docids)
    for rank, docid in enumerate(docids):
        found = docid if docid in gold else docid.rpartition('#')[0]
        if found in gold:
            ranks.setdefault(found, rank)
    return sorted(ranks.values())


def ndcg_of_ranks(ranks: Sequence[int], relevant: int, top_k: int) -> float:
    """Returns nDCG of the first `top_k`, 0 to 1, of the ranks (from 0) of those of `relevant` documents that were found."""
    best = sum(1 / math.log2(rank + 2) for rank in range(min(relevant, top_k)))
    return sum(1 / math.log2(rank + 2) for rank in ranks if rank < top_k) / best if best else 0.0


def hits_at_k(ranks: Sequence[int | None], top_k: int) -> list[float]:
    """Returns for each question whether its rank (from 0) is under `top_k`, 1 or 0."""
    return [float(rank is not None and rank < top_k) for rank in ranks]


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


def correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Computes Pearson's correlation of two scores of one question's passages, -1 to 1; None where there is none.

    Pairs that are not finite on both sides (not retrieved) are left out.

    Raises ValueError: the lengths differ.
    """
    # within each question, which is what ranking needs; the original takes all passages of a batch at once
    pairs = [pair for pair in zip(first, second, strict=True) if all(map(math.isfinite, pair))]
    return pearson([one for one, _ in pairs], [other for _, other in pairs])


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Computes Spearman's correlation of two scores of one question's passages, -1 to 1; equal scores share the mean of their ranks.

    None for fewer than two pairs, or if one side is constant. Raises ValueError: the lengths differ.
    """
    return pearson(_ranks(first), _ranks(second))


def _ranks(values: Sequence[float]) -> list[float]:
    # Quadratic, for a question's few passages.
    return [sum(other < value for other in values) + sum(other == value for other in values) / 2 for value in values]


def _centred(values: Sequence[float]) -> list[float]:
    mean = sum(values) / len(values)
    return [value - mean for value in values]
