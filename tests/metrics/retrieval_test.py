"""Ranks, recall and correlations, against scipy's and by hand."""

import math
import random

import pytest
from scipy import stats

from atlas_jax.metrics import ranking, retrieval


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


def test_hits_at_k():
    assert [retrieval.hits_at_k([0, 4, None, 5], k) for k in (1, 5, 6)] == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 1]]
    assert retrieval.hits_at_k([], 1) == []


def test_gold_ranks_count_a_document_once():
    docids = ['x', 'a#1', 'a#0', 'b', 'c', 'a']
    assert retrieval.gold_ranks(docids, ['a', 'c', 'lost']) == [1, 4] and retrieval.gold_ranks(docids, []) == []


def test_ndcg_of_ranks_is_that_of_a_ranking():
    docids, gold = [f'd{i}' for i in range(12)], ['d1', 'd4', 'd11', 'lost']
    for top_k in (1, 3, 10, 12):
        ours = retrieval.ndcg_of_ranks(retrieval.gold_ranks(docids, gold), len(gold), top_k)
        assert ours == pytest.approx(ranking.ndcg(docids, dict.fromkeys(gold, 1), top_k), abs=1e-12)
    assert retrieval.ndcg_of_ranks([], 0, 10) == 0


def test_pearson_equals_scipys():
    generator = random.Random(0)
    first = [generator.gauss(0, 1) for _ in range(11)]
    second = [round(value + generator.gauss(0, 1)) for value in first]  # with ties
    assert retrieval.pearson(first, second) == pytest.approx(stats.pearsonr(first, second).statistic, rel=1e-9)
    assert retrieval.pearson(first, [-2 * value for value in first]) == pytest.approx(-1)
    assert retrieval.rank_correlation(first, second) == pytest.approx(stats.spearmanr(first, second).statistic, rel=1e-9)
    assert retrieval.rank_correlation(first, [value ** 3 for value in first]) == pytest.approx(1)


def test_a_correlation_needs_pairs():
    with pytest.raises(ValueError, match='2 values on one side and 3 on the other'):
        retrieval.pearson([1, 2], [1, 2, 3])


@pytest.mark.parametrize('first, second', [([], []), ([1.0], [2.0]), ([0.1] * 3, [1, 2, 3]), ([1, 2, 3], [7, 7, 7])])
def test_where_there_is_no_correlation(first, second):
    assert retrieval.pearson(first, second) is None and retrieval.rank_correlation(first, second) is None


def test_a_correlation_leaves_out_what_was_not_retrieved():
    assert retrieval.correlation([1, 2, -math.inf], [2, 1, 9]) == pytest.approx(-1)
    assert retrieval.correlation([5, 5, 5], [1, 2, 3]) is None and retrieval.correlation([1, -math.inf], [1, 2]) is None
    with pytest.raises(ValueError):
        retrieval.correlation([1, 2], [1])
