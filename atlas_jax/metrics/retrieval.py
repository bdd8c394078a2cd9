"""Whether retrieval found what answers a question."""

from collections.abc import Sequence

from atlas_jax.metrics import answers as answer_metrics


def answer_recall_at_k(passages: Sequence[str], answers: Sequence[str], top_k: int) -> bool:
    """Whether one of the best `top_k` passages (best first) holds an answer as whole words, normalised.

    A short answer ("18") stands in many passages by chance: where gold passages are known, prefer `gold_recall_at_k`.
    """
    return any(answer_metrics.contains_answer(passage, answers) for passage in passages[:top_k])


def gold_recall_at_k(docids: Sequence[str], gold_docids: Sequence[str], top_k: int) -> bool:
    """Whether one of the best `top_k` docids (best first) is a gold one, or a piece ("id#2") of a gold document ("id")."""
    gold = set(gold_docids)
    return any(docid in gold or docid.rpartition('#')[0] in gold for docid in docids[:top_k])
