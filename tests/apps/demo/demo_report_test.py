"""The figures, the table and the page of the demo's findings."""


import json

import pytest

from atlas_jax.apps.demo import demo_report
from atlas_jax.evaluation import evaluate
from atlas_jax.tasks import qa

TASK = qa.QATask('{question}', '{target}')
EXAMPLES = [TASK.example({'question': f'question {i}?', 'answers': [f'answer {i}']}, i) for i in range(10)]


def _evaluation(texts, gold_ranks=()):
    passage = {'docid': 'd', 'title': 'Title', 'text': 'Some <text>.', 'score': 0.5, 'attention': 1.0}
    rows = [{'example_id': example.example_id, 'question': example.question, 'answers': example.answers, 'prediction': text,
             'exact_match': float(text == example.answers[0]), 'f1': float(text == example.answers[0]), 'answer_rank': 0, 'retrieved': 1,
             'passages': [passage]} for text, example in zip(texts, EXAMPLES, strict=False)]
    for row, rank in zip(rows, gold_ranks, strict=False):
        row['gold_ranks'] = [] if rank is None else [rank]
    return evaluate.Evaluation(tuple(rows), 1.0)


@pytest.fixture
def findings():
    wrong, right = ['no'] * 10, [f'answer {i}' for i in range(10)]
    return demo_report.Findings(
        closed_book=_evaluation(wrong), retrieval=_evaluation(wrong[:5] + right[5:], [0] * 4 + [1] * 6),
        trained=_evaluation(right[:9] + wrong[:1], [0] * 8 + [None, 1]), edited=_evaluation(right[:4]), stale_exact_match=(0.0,) * 4,
        unedited_exact_match=(1.0, 1.0, 1.0, 0.0), examples=EXAMPLES, edited_examples=EXAMPLES[:4],
        histories={'closed book': ({'step': 1, 'reader_loss': 2.0},), 'joint': ({'step': 1, 'reader_loss': 2.0, 'retriever_loss': 0.5},)},
        replaced_passages=3, edition='2014', seconds={'joint training': 12.3, 'answering': 4.0})


def test_figures_that_programs_read(findings):
    figures = json.loads(json.dumps(findings.figures()))
    assert [figures[name]['exact_match'] for name in ('closed_book', 'retrieval', 'trained')] == [0.0, 0.5, 0.9]
    assert figures['trained']['questions'] == 10 and figures['trained']['stderr'] == pytest.approx(0.0949, abs=1e-4)
    retriever = figures['retriever']
    assert (retriever['recall_at_1_before'], retriever['recall_at_1_after']) == (0.4, 0.8)
    assert retriever['difference'] == pytest.approx(0.4)
    assert retriever['difference_low'] < 0.4 < retriever['difference_high']
    assert figures['index_swap'] == {'new_exact_match': 1.0, 'stale_exact_match': 0.0, 'unedited_exact_match': 0.75, 'questions': 4,
                                     'replaced_passages': 3, 'edition': '2014'}


def test_table_and_page_show_what_was_found(findings, tmp_path):
    figures = findings.figures()
    text = demo_report.as_text(findings, figures)
    assert '0.900 ± 0.095' in text and '0.750 ± 0.217' in text and '+0.400' in text and 'together' in text and '16.3 s' in text
    assert 'the edition of 2014; 3 passages' in text
    demo_report.write(tmp_path / 'report.html', findings, figures)
    page = (tmp_path / 'report.html').read_text()
    assert '8 questions drawn at random from 10, right and wrong answers in proportion: 7 of 8 are right here, 9 of 10 in all.' in page
    # All four answers from the edited index are right.
    assert page.count('✗ expected') == 1 and page.count('✓ right') == 7 + 4
    assert '3 questions drawn at random' in text and '2 of 3 are right here' in text
    assert 'Some &lt;text&gt;.' in page and 'closed book reader loss' in page and 'joint retriever loss' in page
    assert 'a gold passage is the first' in page and 'Peak memory' in page and 'Calibration' not in page


@pytest.mark.parametrize(('right', 'count', 'shown'), [(71, 8, 6), (100, 8, 8), (99, 8, 7), (0, 8, 0), (1, 8, 1), (71, 3, 2), (62, 4, 2)])
def test_right_and_wrong_answers_are_drawn_in_proportion_and_both_are_shown(right, count, shown):
    scores = [1.0] * right + [0.0] * (100 - right)
    drawn = demo_report.draw(scores, count, seed=0)
    assert len(set(drawn)) == count and drawn == sorted(drawn) and sum(scores[number] for number in drawn) == shown
    assert demo_report.draw(scores, count, seed=0) == drawn
    assert any(demo_report.draw(scores, count, seed) != drawn for seed in range(1, 5))


def test_a_draw_is_spread_over_the_file():
    """The file is sorted by country, so the first questions would ask about one country."""
    drawn = demo_report.draw([1.0, 0.0] * 100, 8, seed=0)
    assert drawn[0] < 100 < drawn[-1] and drawn[-1] - drawn[0] > 100


@pytest.mark.parametrize('scores', [[], [1.0], [0.0], [1.0, 0.0], [0.0] * 3 + [1.0] * 2])
def test_a_draw_from_few_questions_is_all_of_them(scores):
    assert demo_report.draw(scores, 8, seed=3) == list(range(len(scores)))
