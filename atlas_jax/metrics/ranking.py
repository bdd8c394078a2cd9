"""Metrics of a ranking as trec_eval 9 defines them: nDCG, average precision, reciprocal rank,
precision and recall at a rank.

A ranking is a list of docids, best first. `relevance` has the judged documents of a question: above
0 is relevant, and more is better. Documents without a judgment are not relevant.
"""

import math
import struct
from collections.abc import Mapping, Sequence

Relevance = Mapping[str, int]


def order(scores: Mapping[str, float]) -> list[str]:
    """Returns docids by descending score, ties by descending docid, like trec_eval."""
    # trec_eval holds scores in single precision: scores that are equal there are ties.
    return [
        docid for _, docid in sorted(((_single(score), docid)
                                      for docid, score in scores.items()), reverse=True)]


def ndcg(ranking: Sequence[str], relevance: Relevance, top_k: int) -> float:
    """Returns the discounted gain of the first `top_k` (gain = relevance) divided by the best
    possible one; 0 without relevant documents.
    """
    gains = [relevance.get(docid, 0) for docid in ranking[:top_k]]
    best = _discounted(sorted(relevance.values(), reverse=True)[:top_k])
    return _discounted(gains) / best if best else 0.0


def average_precision(ranking: Sequence[str], relevance: Relevance) -> float:
    """Returns the mean precision at the ranks of all relevant documents; a document outside the
    ranking counts 0.
    """
    found, total = 0, 0.0
    for rank, docid in enumerate(ranking, start=1):
        if relevance.get(docid, 0) > 0:
            found += 1
            total += found / rank
    wanted = count_relevant(relevance)
    return total / wanted if wanted else 0.0


def reciprocal_rank(ranking: Sequence[str], relevance: Relevance) -> float:
    """Returns 1 / rank (from 1) of the first relevant document; 0 without one."""
    return next(
        (1 / rank for rank, docid in enumerate(ranking, start=1) if relevance.get(docid, 0) > 0),
        0.0)


def precision_at(ranking: Sequence[str], relevance: Relevance, top_k: int) -> float:
    """Returns the share of the first `top_k` that is relevant; a shorter ranking counts as filled
    up with irrelevant documents.
    """
    return _found(ranking, relevance, top_k) / top_k


def recall_at(ranking: Sequence[str], relevance: Relevance, top_k: int) -> float:
    """Returns the share of the relevant documents among the first `top_k`; 0 without relevant
    documents.
    """
    wanted = count_relevant(relevance)
    return _found(ranking, relevance, top_k) / wanted if wanted else 0.0


def count_relevant(relevance: Relevance) -> int:
    """Returns how many documents are relevant."""
    return sum(level > 0 for level in relevance.values())


def _found(ranking: Sequence[str], relevance: Relevance, top_k: int) -> int:
    return sum(relevance.get(docid, 0) > 0 for docid in ranking[:top_k])


def _discounted(gains: Sequence[int]) -> float:
    # A relevance below 0 has no gain, like in trec_eval.
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1) if gain > 0)


def _single(score: float) -> float:
    return struct.unpack('f', struct.pack('f', score))[0]
