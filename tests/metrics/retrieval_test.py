import pytest

from atlas_jax.metrics import retrieval


def test_first_answer_rank_wants_whole_words():
    passages = ['Parisian life', 'the capital, Paris', 'Paris']
    assert retrieval.first_answer_rank(passages, ['Lyon', 'PARIS']) == 1
    assert retrieval.first_answer_rank(passages, ['Lyon']) is None
    assert retrieval.first_answer_rank([], ['Paris']) is None


def test_first_gold_rank_counts_pieces_of_a_gold_document():
    docids = ['france/economy/1', 'france/government/3#1', 'france/government/3']
    assert retrieval.first_gold_rank(docids, ['france/government/3']) == 1
    assert retrieval.first_gold_rank(docids, ['france/government/3#0']) is None
    assert retrieval.first_gold_rank(docids, {'france/economy/1', 'x'}) == 0
    assert retrieval.first_gold_rank(['france/government/33'], ['france/government/3']) is None
    assert retrieval.first_gold_rank(docids, []) is None


def test_recall_at_k():
    ranks = [0, 4, None, 5, 0]
    assert [retrieval.recall_at_k(ranks, k) for k in (1, 5, 6)] == [0.4, 0.6, 0.8]
    with pytest.raises(ValueError, match='at least one question'):
        retrieval.recall_at_k([], 1)
