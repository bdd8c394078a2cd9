"""Rankings scored like trec_eval (pytrec-eval-terrier), and by hand."""

import random

import pytest
import pytrec_eval

from atlas_jax.metrics import ranking

OURS = {
    'ndcg_cut_10': lambda order, relevance: ranking.ndcg(order, relevance, 10), 'map': ranking.average_precision,
    'recip_rank': ranking.reciprocal_rank, 'P_5': lambda order, relevance: ranking.precision_at(order, relevance, 5),
    'recall_5': lambda order, relevance: ranking.recall_at(order, relevance, 5),
    'recall_100': lambda order, relevance: ranking.recall_at(order, relevance, 100)}


def test_10000_random_runs_with_ties_equal_trec_eval():
    draw = random.Random(0)
    names = [*(f'd{i}' for i in range(60)), *(f'ü{i}' for i in range(9)), 'D', 'é']
    run, qrels = {}, {}
    for query in map(str, range(10_000)):
        # Ties: rounded scores, and scores that are equal in single precision.
        near = draw.choice([lambda: draw.random(), lambda: round(draw.random(), 1), lambda: 1 + draw.randrange(3) * 1e-9])
        run[query] = {docid: near() for docid in draw.sample(names, draw.randrange(1, 25))}
        qrels[query] = {docid: draw.choice([-1, 0, 0, 1, 1, 2, 3]) for docid in draw.sample(names, draw.randrange(1, 12))}
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {'ndcg_cut.10', 'map', 'recip_rank', 'P.5', 'recall.5,100'}).evaluate(run)
    assert len(theirs) == 10_000
    for query, scores in run.items():
        order = ranking.order(scores)
        for name, score in OURS.items():
            assert score(order, qrels[query]) == pytest.approx(theirs[query][name], abs=1e-9), (name, scores, qrels[query])


def test_equal_scores_stand_by_falling_docid():
    assert ranking.order({'a': 1.0, 'c': 1.0 + 1e-9, 'b': 1.0, 'd': 0.5, 'e': 2.0}) == ['e', 'c', 'b', 'a', 'd']


@pytest.mark.parametrize('score', OURS.values(), ids=OURS)
def test_without_anything_relevant_all_is_0(score):
    assert score(['a', 'b'], {}) == score(['a'], {'a': 0, 'b': -1}) == score([], {'a': 1}) == 0


def test_by_hand():
    order, relevance = ['x', 'a', 'b', 'y'], {'a': 1, 'b': 3, 'lost': 2, 'y': 0}
    assert ranking.reciprocal_rank(order, relevance) == 1 / 2 and ranking.average_precision(order, relevance) == (1 / 2 + 2 / 3) / 3
    assert ranking.precision_at(order, relevance, 8) == 2 / 8 and ranking.recall_at(order, relevance, 2) == 1 / 3
    best = 3 + 2 / 1.584962500721156 + 1 / 2
    assert ranking.ndcg(order, relevance, 10) == pytest.approx((1 / 1.584962500721156 + 3 / 2) / best)
