"""Searchers side by side have ranks and intervals; mistakes are refused; hybrid search uses a saved fit."""

import dataclasses

import pytest

from atlas_jax import errors
from atlas_jax.evaluation import searcher_comparison
from atlas_jax.evaluation.searcher_comparison import SearcherMeasurement
from atlas_jax.searchers import fitting
from atlas_jax.searchers.config import SearchConfig
from tests.testing import tiny_run

pytest.importorskip('bm25s')


@pytest.fixture(scope='module')
def atlas():
    return tiny_run.atlas(dropout_rate=0.0)


@pytest.fixture
def index(atlas, tmp_path):
    return tiny_run.index(atlas, tmp_path)


def test_ranks_are_those_of_a_search(atlas, index):
    examples = tiny_run.examples(atlas)
    comparison = searcher_comparison.compare(atlas, index, examples, ('exact', 'bm25', 'hybrid'), top_k=7)
    assert [measured.searcher for measured in comparison.measured] == ['exact', 'bm25', 'hybrid'] and not comparison.missing
    for measured in comparison.measured:
        found = atlas.search([example.question for example in examples], index, 7, measured.searcher)
        places = [[passage.passage.docid for passage in row] for row in found]
        assert measured.ranks == tuple(row.index(f'd{i}') if f'd{i}' in row else None for i, row in enumerate(places))
        assert measured.seconds > 0 and measured.ready_seconds > 0
    text = searcher_comparison.as_text(comparison)
    assert '11 questions, 23 passages' in text and 'Wilson for R@k' in text and 'ranks to 7' in text and 'R@20' not in text


def test_figures_have_intervals_around_their_means():
    best, other = SearcherMeasurement('a', (0, 0, 1, None) * 9), SearcherMeasurement('b', (0, 2, None, None) * 9, 1.5, 3.0)
    figures = other.figures(best, 20)
    assert figures['recall_at_1'] == 0.25 and figures['recall_at_5'] == 0.5 and figures['seconds'] == 1.5
    assert figures['mrr'] == pytest.approx((1 + 1 / 3) / 4)
    assert figures['mrr_to_best'] == pytest.approx((1 + 1 / 3 - 2.5) / 4)
    for name in ('recall_at_1', 'recall_at_5', 'recall_at_20', 'mrr', 'mrr_to_best'):
        low, high = figures[f'{name}_interval']
        assert low < figures[name] < high
    assert best.figures(best, 4)['mrr_to_best_interval'] == (0, 0) and 'recall_at_5' not in best.figures(best, 4)


def test_the_text_says_who_may_be_as_good_by_chance():
    rows = (SearcherMeasurement('a', (0, 1) * 11), SearcherMeasurement('b', (1, 0) * 11), SearcherMeasurement('c', (None,) * 22))
    text = searcher_comparison.as_text(searcher_comparison.Comparison(rows, {'scann': 'not installed'}, 'a passage', 23, 5))
    assert 'Best: a; by chance it may be no better than b\n' in text and text.endswith('Not measured: scann: not installed')


def test_answers_stand_in_for_gold_passages(atlas, index):
    examples = [dataclasses.replace(example, gold_docids=()) for example in tiny_run.examples(atlas)]
    comparison = searcher_comparison.compare(atlas, index, examples, ('exact',), top_k=23)
    assert 'an answer in its text' in comparison.relevant
    # Every colour is in three passages or more, so a search of all passages finds it.
    assert None not in comparison.measured[0].ranks


def test_pieces_of_a_gold_document_count(atlas, index):
    relevant = searcher_comparison._Relevance([dataclasses.replace(tiny_run.examples(atlas)[0], gold_docids=('d4', 'nowhere'))],
                                              index.store)
    assert relevant.absent() == 0 and relevant(0, 4) and not relevant(0, 3)


@pytest.mark.parametrize(('changes', 'message'), [
    ({'gold_docids': (), 'answers': []}, 'each needs "gold_docids"'),
    ({'gold_docids': ('elsewhere',)}, 'has none of the passages .* such as "elsewhere"'), (None, 'no questions')])
def test_questions_that_cannot_be_judged(atlas, index, changes, message):
    examples = [] if changes is None else [dataclasses.replace(example, **changes) for example in tiny_run.examples(atlas)]
    with pytest.raises(errors.ConfigError, match=message):
        searcher_comparison.compare(atlas, index, examples, ('exact',))


def test_some_gold_passages_that_are_not_there_are_counted(atlas, index, capsys):
    examples = tiny_run.examples(atlas)
    examples[2] = dataclasses.replace(examples[2], gold_docids=('elsewhere',))
    assert searcher_comparison.compare(atlas, index, examples, ('exact',)).measured[0].ranks[2] is None
    assert '1 of 11 questions name only passages that are not in the index' in capsys.readouterr().out


def test_a_missing_package_costs_its_searcher_alone(atlas, index, monkeypatch):
    def missing():
        raise errors.ConfigError('bm25s is not installed')

    monkeypatch.setattr('atlas_jax.searchers.bm25._package', missing)
    comparison = searcher_comparison.compare(atlas, index, tiny_run.examples(atlas), ('exact', 'bm25'))
    assert [measured.searcher for measured in comparison.measured] == ['exact'] and 'not installed' in comparison.missing['bm25']
    with pytest.raises(errors.ConfigError, match='no searcher could be measured: bm25s is not installed'):
        searcher_comparison.compare(atlas, index, tiny_run.examples(atlas), ('bm25',))


def test_a_fit_is_saved_and_used_by_every_hybrid_search(atlas, index, capsys):
    questions = [example.question for example in tiny_run.examples(atlas, 23)]
    with pytest.raises(errors.ConfigError, match='11 questions are too few'):
        searcher_comparison.compare(atlas, index, tiny_run.examples(atlas), ('exact',), fit=True)
    before = atlas.search(questions, index, 3, 'hybrid')
    comparison = searcher_comparison.compare(atlas, index, tiny_run.examples(atlas, 23), ('hybrid',), fit=True, questions_sha256='abc')
    fit = comparison.fit
    assert [measured.searcher for measured in comparison.measured] == ['hybrid', 'hybrid, fitted']
    saved = fitting.read(index.index.path)
    assert (saved.fusion, saved.lexical_weight) == (fit.mix.fusion, fit.mix.lexical_weight) and saved.questions_sha256 == 'abc'
    # An index that was open before uses the new fit too.
    explicit = SearchConfig('hybrid', fusion=fit.mix.fusion, lexical_weight=fit.mix.lexical_weight)
    assert atlas.search(questions, index, 3, 'hybrid') == atlas.search(questions, index, 3, explicit)
    assert atlas.search(questions, index, 3, SearchConfig('hybrid', lexical_weight=0.5)) == before
    again = searcher_comparison.compare(atlas, index, tiny_run.examples(atlas, 23), ('hybrid',))
    assert again.measured[0].searcher == 'hybrid, as saved' and not capsys.readouterr().err
    index.delete(['d3'])
    atlas.search(questions, index, 3, 'hybrid')
    assert 'stale' in capsys.readouterr().err
    assert 'Saved beside the index' in searcher_comparison.as_text(comparison)
