"""Hybrid search fitted to real questions about real texts, with a real retriever: no worse than its sides on other questions."""

import pytest

from atlas_jax.answering import api
from atlas_jax.apps.demo import factbook
from atlas_jax.evaluation import searcher_comparison
from atlas_jax.tasks import qa

pytest.importorskip('bm25s')
# slow: embeds 170 passages with a real model
pytestmark = [pytest.mark.optimized, pytest.mark.slow]
COUNTRIES = 4


@pytest.fixture(scope='module')
def halves(demo_packages, tmp_path_factory):
    """Model, index, and questions in two halves."""
    folder = tmp_path_factory.mktemp('factbook')
    book = factbook.read(demo_packages.factbook, COUNTRIES)
    atlas = api.Atlas.from_pretrained(demo_packages.reader_dir, demo_packages.retriever_dir, task=qa.QATask('{question}', '{target}'))
    index = api.Index.build(api.PassageStore.build(book.documents, folder / 'store', atlas=atlas), atlas, folder / 'index')
    examples = [atlas.task.example(question.row(), number) for number, question in enumerate(book.questions)]
    return atlas, index, examples[::2], examples[1::2]


@pytest.mark.parametrize('swapped', [False, True])
def test_on_questions_held_out_it_is_no_worse_than_the_better_side(halves, swapped):
    atlas, index, fitted_to, held_out = halves
    if swapped:
        fitted_to, held_out = held_out, fitted_to
    searcher_comparison.compare(atlas, index, fitted_to, ('exact',), fit=True)
    found = {measured.searcher: sum(measured.reciprocal_ranks) / len(held_out)
             for measured in searcher_comparison.compare(atlas, index, held_out, ('exact', 'bm25', 'hybrid')).measured}
    assert found['hybrid, as saved'] >= max(found['exact'], found['bm25']), found
