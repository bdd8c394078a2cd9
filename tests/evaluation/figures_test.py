"""Figures of results: means, intervals, labels, indexes, and two runs compared."""

import math

import pytest

from atlas_jax import errors
from atlas_jax.evaluation import figures


def rows(*scores, **changes) -> list[dict]:
    return [{'example_id': number, 'question': f'q{number}', 'exact_match': float(score), 'retrieved': 0} | changes
            for number, score in enumerate(scores)]


def test_the_first_metric_has_the_plain_error_and_recalls_end_at_top_k():
    given = [{'example_id': 0, 'question': 'q', 'f1': 1.0, 'exact_match': 1.0, 'retrieved': 5, 'answer_rank': 0, 'gold_docids': ['x', 'y'],
              'gold_ranks': [3]},
             {'example_id': 1, 'question': 'q', 'f1': 0.5, 'exact_match': 0.0, 'retrieved': 3, 'answer_rank': None, 'gold_docids': ['x'],
              'gold_ranks': [1]}]
    found = figures.of_rows(given)
    assert list(found)[:3] == ['f1', 'stderr', 'f1_interval'] and found['f1'] == 0.75 and found['f1_interval'] == [0.5, 1.0]
    assert found['exact_match'] == 0.5 and 'exact_match_stderr' in found and found['questions'] == 2
    assert found['answer_recall_at_1'] == 0.5 and found['gold_recall_at_2'] == 0.5 and found['gold_recall_at_5'] == 1.0
    assert found['gold_mrr'] == (1 / 4 + 1 / 2) / 2 and 'gold_ndcg_at_10' not in found and 'gold_recall_at_10' not in found
    deeper = figures.of_rows(given, top_k=10)['gold_ndcg_at_10']
    assert deeper == pytest.approx((1 / math.log2(5) / (1 + 1 / math.log2(3)) + 1 / math.log2(3)) / 2)
    assert figures.of_rows(given, top_k=2)['gold_mrr'] == 0.25  # the other rank is beyond top_k
    assert not [name for name in figures.of_rows(given, intervals=False) if 'interval' in name]
    assert not [name for name in figures.of_rows(given, top_k=0) if 'recall' in name or 'mrr' in name]
    assert figures.of_rows([])['questions'] == 0


def test_one_question_has_neither_error_nor_interval():
    found = figures.of_rows(rows(1))
    assert found == {'exact_match': 1.0, 'questions': 1}


def test_a_metric_that_some_questions_lack_is_left_out():
    assert figures.metrics_of([*rows(1), {'example_id': 1, 'question': 'q'}]) == []


def test_perplexity_is_of_all_tokens_together():
    found = figures.of_rows(rows(1, nll=2.0, target_tokens=1.0) + rows(1, nll=4.0, target_tokens=3.0), intervals=False)
    assert found['eval_loss'] == 1.5 and found['perplexity'] == math.exp(1.5)
    assert figures.of_rows(rows(1, nll=1e9, target_tokens=1.0))['perplexity'] == math.exp(700)
    assert 'perplexity' not in figures.of_rows(rows(1, nll=0.0, target_tokens=0.0))
    low, high = figures.of_rows(rows(1, nll=2.0, target_tokens=1.0) + rows(1, nll=4.0, target_tokens=3.0))['perplexity_interval']
    assert low == math.exp(4 / 3) and high == math.exp(2)


def test_correlations_are_of_questions_that_have_one():
    given = zip(rows(1, 1, 1), (.5, None, .1), strict=True)
    found = figures.of_rows([row | {'correlations': {'a': value, 'b': None}} for row, value in given])
    assert found['correlation_a'] == pytest.approx(.3) and 'correlation_b' not in found


def test_labels_have_their_figures_and_a_macro_mean():
    given = rows(1, 1, 0, labels={'subject': 'b', 'id': 'x', 'year': 1}) + rows(0, labels={'subject': 'a', 'year': 1}) + rows(1)
    found = figures.by_label(given, ('subject', 'year', 'nothing'))
    assert list(found) == ['subject'] and list(found['subject']['values']) == ['a', 'b']
    assert found['subject']['values']['b']['questions'] == 3 and found['subject']['values']['b']['exact_match'] == pytest.approx(2 / 3)
    macro = found['subject']['macro']['exact_match']
    assert macro['mean'] == pytest.approx(1 / 3) and macro['interval'] == pytest.approx([0, .5])
    many = [row | {'labels': {'subject': number}} for number, row in enumerate(rows(*[1] * 301))]
    assert figures.by_label(many, ('subject',)) == {}
    assert figures.complete(given, ('subject',))['by'] == figures.by_label(given, ('subject',))


def test_indexes_stand_side_by_side():
    given = rows(0, 0, 1, index_name='2017') + rows(1, 1, 1, index_name='2020')
    found = figures.complete(given)
    assert {name: each['exact_match'] for name, each in found['indexes'].items()} == {'2017': pytest.approx(1 / 3), '2020': 1}
    assert found['exchange'] == {'2020': figures.compared(given[:3], given[3:])}


def test_runs_are_compared_question_by_question():
    before, after = rows(0, 0, 1, 1, 0, 0, 0, 0), rows(1, 1, 1, 0, 1, 1, 1, 1)[::-1]  # in another order
    found = figures.compared(before, after)
    assert list(found) == ['exact_match']
    values = found['exact_match']
    assert (values['before'], values['after'], values['difference']) == (.25, .875, .625)
    assert values['interval'][0] > 0 and .05 < values['p_value'] < .2  # 6 for and 1 against: .125 by the sign test


def test_runs_over_other_questions_are_refused():
    with pytest.raises(errors.ConfigError, match=r'\(2 and 1\); the first one that the second lacks is 1: "q1"'):
        figures.compared(rows(1, 1), rows(1))
    with pytest.raises(errors.ConfigError, match='not of the same questions'):
        figures.compared(rows(1), rows(1, question='another'))
    with pytest.raises(errors.ConfigError, match='no metric in common'):
        figures.compared(rows(1), [{'example_id': 0, 'question': 'q0', 'f1': 1.0}])


def test_recalls_are_compared_where_every_question_has_ranks():
    before = [row | {'retrieved': 2, 'gold_docids': ['x'], 'gold_ranks': ranks} for row, ranks in zip(rows(1, 1), ([1], []), strict=True)]
    after = [row | {'retrieved': 5, 'gold_docids': ['x'], 'gold_ranks': [0]} for row in rows(1, 1)]
    found = figures.compared(before, after)
    assert list(found) == ['exact_match', 'gold_recall_at_1', 'gold_recall_at_2']  # up to as many as both have found
    assert [(each['before'], each['after']) for each in found.values()] == [(1, 1), (0, 1), (.5, 1)]
    assert list(figures.compared(before, [after[0], rows(1, 1)[1]])) == ['exact_match']


def test_agreement_of_retriever_and_reader():
    def read(*pairs):
        return {'passages': [{'text': '', 'score': score, 'attention': share} for score, share in pairs]}

    both = figures.of_agreement([rows(1)[0] | read((3., .5), (2., .3), (1., .2)), rows(1)[0] | read((3., .2), (2., .5), (1., .3))])
    assert both['rank_correlation'] == pytest.approx((1 - .5) / 2) and both['agreement'] == .5
    assert both['rank_correlation_interval'] == pytest.approx([-.5, 1])
    # One passage, equal attention, or no passage has no correlation.
    assert figures.of_agreement([row | read(*pairs) for row in rows(1) for pairs in ([(1., 1.)], [(2., .5), (1., .5)], [])] + rows(1)) == {}
    assert 'agreement' in figures.complete([rows(1)[0] | read((2., .7), (1., .3))])


def sure(*pairs) -> list[dict]:
    return [row | {'confidence': chance, 'abstained': chance < 0.5} for row, (_, chance) in
            zip(rows(*(score for score, _ in pairs)), pairs, strict=True)]


def test_confidences_have_their_figures():
    found = figures.complete(sure((1, 0.9), (0, 0.4), (1, 0.8), (1, 0.3)))
    assert found['coverage'] == 0.5 and found['answered_exact_match'] == 1 and found['coverage_at_95'] == 0.5
    assert found['aurc'] == pytest.approx((0 + 0 + 1 / 3 + 1 / 4) / 4) and found['ece'] == pytest.approx((0.1 + 0.4 + 0.2 + 0.7) / 4)
    for name in ('aurc', 'ece', 'coverage_at_95'):
        low, high = found[f'{name}_interval']
        assert low <= found[name] <= high and low < high
    assert found['risk_coverage'] == {'coverage': [0.25, 0.5, 0.75, 1], 'risk': pytest.approx([0, 0, 1 / 3, 1 / 4])}
    # Bins of equal size, one answer each.
    assert found['reliability'] == {'confidence': [.3, .4, .8, .9], 'right': [1, 0, 1, 1], 'answers': [1] * 4}
    assert 'coverage' not in figures.of_confidence([row | {'abstained': False} for row in sure((1, 0.9), (0, 0.6))])


def test_long_curves_are_thinned():
    curve = figures.of_confidence(sure(*((number % 2, number / 1000) for number in range(999))))['risk_coverage']
    assert 150 <= len(curve['coverage']) == len(curve['risk']) <= 201 and curve['coverage'][-1] == 1


@pytest.mark.parametrize('changed', [[], rows(1, 0), [*sure((1, 0.5)), *rows(1)], [{'example_id': 0, 'confidence': 0.5}]])
def test_rows_without_confidence_or_metric_have_none(changed):
    assert figures.of_confidence(changed) == {}
