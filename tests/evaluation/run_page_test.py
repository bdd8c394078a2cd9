"""The page of a run shows the metrics it has, and no more."""

from atlas_jax.evaluation import run_page
from tests.testing import records


def test_a_run_that_was_evaluated():
    text = run_page.page('few-shot', records.history(40), run_page.EvaluationPoint.from_rows(records.results([0, 1, 1])), 3 << 30)
    for part in ('<h1>Run few-shot</h1>', 'Loss of the reader', 'Retrieval, first and last evaluation', '>step 10<', '>step 40<',
                 'Worst answers', 'Last evaluation, step 40', 'rank_correlation', '0.520 s', 'Peak memory of this process: 3.00 GiB.'):
        assert part in text, part


def test_a_run_without_evaluations():
    text = run_page.page('x', records.history(4, evaluates=False, joint=False))
    assert 'Loss of the reader' in text and 'Seconds and memory' in text
    for part in ('evaluation', 'Recall', 'Age of the index', 'Worst', 'Loss of the retriever', 'Peak memory'):
        assert part not in text, part
    assert '<h2>' not in run_page.page('x', [])


def test_the_start_is_shown_and_a_retriever_that_gets_worse_is_told():
    start = {'step': 0, 'eval_exact_match': .1, 'eval_gold_recall_at_1': .1, 'eval_gold_recall_at_5': .8}
    last = run_page.EvaluationPoint.from_rows(records.results([0, 1]), 'step 20: the retriever is getting worse')
    text = run_page.page('x', [start, *records.history(20)], last)
    assert '>step 0</text>' in text and '<p>Step 20: the retriever is getting worse.</p>' in text
    assert '<td>steps</td><td>20</td>' in text  # no evaluations


def test_one_evaluation_is_the_first_and_the_last():
    text = run_page.page('x', records.history(10))
    assert text.count('>step 10</text>') == 2  # wide and narrow
