"""Whether, and how early, retrieval found what answers a question."""

from collections.abc import Collection, Sequence

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
