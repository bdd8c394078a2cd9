"""KILT's scores for cases worked out by hand: several evidence sets, shared pages, pieces of pages."""

import pytest

from atlas_jax.metrics import kilt_provenance

# pages found, evidence sets, R-precision, recall@5
CASES = [
    (['1', '2'], [['1']], 1, 1),
    (['2', '1'], [['1']], 0, 1),  # R is 1: only the first page counts
    (['1', '1', '2'], [['1', '2']], 1, 1),  # a page counts once, however many passages it has
    (['1', '3', '2'], [['1', '2']], .5, 1),
    (['3', '2'], [['1'], ['2', '3']], 1, .5),  # the best set of the two
    (['2', '1'], [['1'], ['2']], 1, 1),
    (['4', '5', '1'], [['1'], ['1'], ['2']], 0, .5),  # two equal sets are one
    # A set of three pages takes one place, that of its last page: 4 is at place 5 of a recall at 5.
    (['1', '2', '3', '7', '8', '9', '4'], [['1', '2', '3'], ['4']], 1, 1),
    (['7', '8', '9', '6', '5', '1'], [['1']], 0, 0),
    (['1', '2'], [['1', '2'], ['2', '3']], 1, .5),  # a page in two sets completes one and begins the other
    (['1', '2', '3', '4', '5'], [['1', '9'], ['5']], .5, 1 / 2),
    ([], [['1']], 0, 0),
    (['1'], [], 0, 0),  # no provenance at all
    (['1'], [[]], 0, 0),  # an output with empty provenance is a set that is never complete
    (['1', '2'], [['1', '']], 1, 0),  # evidence without a page: R leaves it out, and the set is never complete
]


@pytest.mark.parametrize(('found', 'evidence', 'precision', 'recall'), CASES)
def test_definition(found, evidence, precision, recall):
    assert kilt_provenance.r_precision(found, evidence) == pytest.approx(precision)
    assert kilt_provenance.recall_at(found, evidence, 5) == pytest.approx(recall)


def test_answers_count_with_their_page_only():
    of_answer = {'accuracy': 0.0, 'exact_match': 1.0, 'f1': 0.8, 'rouge_L': 0.5, 'rouge_1': 0.4}
    assert kilt_provenance.scores(['1'], [['1']], of_answer) == {
        'r_precision': 1, 'page_recall_at_5': 1, 'kilt_accuracy': 0, 'kilt_exact_match': 1, 'kilt_f1': .8, 'kilt_rouge_L': .5}
    half = kilt_provenance.scores(['1', '3'], [['1', '2']], of_answer)
    assert half == {'r_precision': .5, 'page_recall_at_5': 0, 'kilt_accuracy': 0, 'kilt_exact_match': 0, 'kilt_f1': 0, 'kilt_rouge_L': 0}
    assert set(half) == set(kilt_provenance.NAMES)


def test_pieces_are_of_their_page():
    assert [kilt_provenance.page_of(docid) for docid in ('12', '12#3', '12#3#1', '')] == ['12', '12', '12', '']
