"""Retrieval metrics: the rank of the first passage with an answer, recall, and correlations of two
scores of the passages.
"""

import math
import statistics
from collections.abc import Collection, Sequence

from atlas_jax.metrics import answers as answer_metrics


def first_answer_rank(passages: Sequence[str], answers: Sequence[str]) -> int | None:
    """Returns the rank, from 0, of the first passage (best first) that contains an answer as whole
    words, both normalised; None if no passage does.

    Many passages contain a short answer ("18") by chance: prefer `first_gold_rank` if gold passages
    are known.
    """
    return next((rank for rank, passage in enumerate(passages)
                 if answer_metrics.contains_answer(passage, answers)), None)


def first_gold_rank(docids: Sequence[str], gold_docids: Collection[str]) -> int | None:
    """Returns the rank, from 0, of the first docid (best first) that is gold or a piece ("id#2") of
    a gold document ("id"); None if there is no such docid.
    """
    # Stores cut long documents into pieces. The docids of pieces end in "#" and a number.
    gold = set(gold_docids)
    return next((rank for rank, docid in enumerate(docids)
                 if docid in gold or docid.rpartition('#')[0] in gold), None)


def gold_ranks(docids: Sequence[str], gold_docids: Collection[str]) -> list[int]:
    """Returns the ranks, from 0, of the gold documents among docids; a document has the rank of its
    best piece.
    """
    ranks: dict[str, int] = {}
    gold = set(gold_docids)
    for rank, docid in enumerate(docids):
        found = docid if docid in gold else docid.rpartition('#')[0]
        if found in gold:
            ranks.setdefault(found, rank)
    return sorted(ranks.values())


def ndcg_of_ranks(ranks: Sequence[int], relevant: int, top_k: int) -> float:
    """Returns nDCG at `top_k`, 0 to 1.

    Args:
      ranks: ranks, from 0, of the relevant documents that were retrieved.
      relevant: number of all relevant documents.
      top_k: ranks from here on do not count.
    """
    best = sum(1 / math.log2(rank + 2) for rank in range(min(relevant, top_k)))
    return sum(1 / math.log2(rank + 2) for rank in ranks if rank < top_k) / best if best else 0.0


def hits_at_k(ranks: Sequence[int | None], top_k: int) -> list[float]:
    """Returns 1 for each question whose rank (from 0) is below `top_k`, else 0."""
    return [float(rank is not None and rank < top_k) for rank in ranks]


def pearson(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Computes Pearson's correlation, -1 to 1; None for fewer than two pairs, or if one side is
    constant.

    Raises ValueError: the lengths differ.
    """
    if len(first) != len(second):
        raise ValueError(f'{len(first)} values on one side and {len(second)} on the other; a '
                         'correlation needs pairs')
    if not first or min(first) == max(first) or min(second) == max(second):
        return None
    # Rounding may carry the quotient past 1.
    return max(-1.0, min(1.0, statistics.correlation(first, second)))


def correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Computes Pearson's correlation of two scores of one question's passages, -1 to 1; None if it
    is undefined (see `pearson`).

    Pairs with a value that is not finite (not retrieved) are left out.

    Raises ValueError: the lengths differ.
    """
    # Within a question, because ranking compares the passages of one question. The original takes
    # all passages of a batch together.
    pairs = [pair for pair in zip(first, second, strict=True) if all(map(math.isfinite, pair))]
    return pearson([one for one, _ in pairs], [other for _, other in pairs])


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Computes Spearman's correlation of two scores of one question's passages, -1 to 1; equal
    scores share the mean of their ranks.

    Returns None for fewer than two pairs, or if one side is constant.

    Raises ValueError: the lengths differ.
    """
    return pearson(_ranks(first), _ranks(second))


def _ranks(values: Sequence[float]) -> list[float]:
    # Quadratic, which is fast enough for a question's few passages.
    return [
        sum(other < value for other in values) + sum(other == value for other in values) / 2
        for value in values]
