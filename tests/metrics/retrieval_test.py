"""Ranks, recall and correlations, against scipy's and by hand."""

import math
import random

import pytest
from scipy import stats

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


def test_pearson_equals_scipys():
    generator = random.Random(0)
    first = [generator.gauss(0, 1) for _ in range(11)]
    second = [round(value + generator.gauss(0, 1)) for value in first]  # with ties
    assert retrieval.pearson(first, second) == pytest.approx(stats.pearsonr(first, second).statistic, rel=1e-9)
    assert retrieval.pearson(first, [-2 * value for value in first]) == pytest.approx(-1)


def test_a_correlation_needs_pairs():
    with pytest.raises(ValueError, match='2 values on one side and 3 on the other'):
        retrieval.pearson([1, 2], [1, 2, 3])


@pytest.mark.parametrize('first, second', [([], []), ([1.0], [2.0]), ([0.1] * 3, [1, 2, 3]), ([1, 2, 3], [7, 7, 7])])
def test_where_there_is_no_correlation(first, second):
    assert retrieval.pearson(first, second) is None


def test_the_mean_is_over_examples_and_leaves_out_what_was_not_retrieved():
    rows = [[1, 2, 3], [1, 2, -math.inf], [5, 5, 5], [1, -math.inf, -math.inf]]
    others = [[1, 2, 3], [2, 1, 9], [1, 2, 3], [1, 2, 3]]
    assert retrieval.mean_correlation(rows, others) == pytest.approx((1 - 1) / 2)
    assert retrieval.mean_correlation(rows[:1], others[:1]) == pytest.approx(1)
    assert retrieval.mean_correlation(rows[2:], others[2:]) is None
    with pytest.raises(ValueError):
        retrieval.mean_correlation(rows, others[:1])
