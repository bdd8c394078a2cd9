"""Rows of answers have metrics, ranks of retrieved passages and KILT's scores; a line names metrics that are left out."""

import dataclasses
import types

import pytest

from atlas_jax.answering import api
from atlas_jax.evaluation.judge import Judge
from atlas_jax.tasks import fever, kilt, multiple_choice, qa

PASSAGES = tuple(api.AnswerPassage(f'd{i}', '', text, 1.0, 0.0) for i, text in enumerate(('no', 'the Answer is true', 'no')))


def judged(task, *rows, text='', index=None, passages=PASSAGES, **options):
    """(rows, lines) of one answer to each row."""
    examples = [task.example(row, number) for number, row in enumerate(rows)]
    judge = Judge(types.SimpleNamespace(task=task, mesh=None), examples, index, **options)
    found = [judge.row(example, api.Answer(example.question, text, passages), {}) for example in examples]
    return found, judge.left_out(found)


def ranks(rows, name):
    return [row.get(name, 'none') for row in rows]


def test_a_row_has_what_the_figures_need():
    [row], lines = judged(qa.QATask(), {'question': 'q', 'answers': ['the answer'], 'gold_docids': ['d2', 'd0', 'x']}, text='Answer')
    assert row == {'example_id': 0, 'question': 'q', 'query': 'question: q answer: <extra_id_0>', 'answers': ['the answer'],
                   'prediction': 'Answer', 'exact_match': 1.0, 'f1': 1.0, 'retrieved': 3, 'answer_rank': 1,
                   'gold_docids': ['d2', 'd0', 'x'], 'gold_ranks': [0, 2], 'passages': [dataclasses.asdict(each) for each in PASSAGES]}
    assert lines == []


def test_a_closed_book_has_no_ranks_and_beams_have_alternatives():
    task = qa.QATask()
    example = dataclasses.replace(task.example({'question': 'q', 'answers': ['a'], 'gold_docids': ['d']}, 0), labels={'year': 2017})
    judge = Judge(types.SimpleNamespace(task=task, mesh=None), [example], retrieves=False)
    row = judge.row(example, api.Answer('q', 'b', (), -0.5, (api.Alternative('you', -1.0),)), {'more': 1})
    assert row['score'] == -0.5 and row['alternatives'] == [{'text': 'you', 'score': -1.0}] and row['labels'] == {'year': 2017}
    assert row['more'] == 1 and row['retrieved'] == 0 and not {'answer_rank', 'gold_ranks'} & row.keys() and judge.left_out([row]) == []


def test_retrieval_alone_has_no_prediction():
    [row], lines = judged(qa.QATask(), {'question': 'q'}, reads=False)
    assert not {'prediction', 'exact_match'} & row.keys() and lines == [
        'answer_recall is left out: no question has answers that a passage can hold (not true, yes, or none)']


def test_recall_is_of_answers_that_a_passage_can_hold():
    rows = [{'question': 'q', 'answers': answers} for answers in (['true'], ['Answer'], ['Yes', 'no'], ['no', 'answer'])]
    found, lines = judged(qa.QATask(), *rows)
    assert ranks(found, 'answer_rank') == ['none', 1, 'none', 0] and lines == [
        'answer_recall is of 2 of 4 questions: the others have no answers that a passage can hold (not true, yes, or none)']
    # A claim is true or false: its recall is no metric of the task.
    [row], lines = judged(fever.FeverTask(), {'claim': 'c', 'label': 'SUPPORTS', 'gold_docids': ['d1']}, text='true')
    assert 'answer_rank' not in row and row['gold_ranks'] == [1] and row['accuracy'] == 1 and lines == []


def test_gold_recall_is_of_questions_with_gold_passages_of_this_index():
    rows = [{'question': 'q', 'answers': ['answer'], 'gold_docids': docids} for docids in (['d1'], [], ['x', 'd0'])]
    found, lines = judged(qa.QATask(), *rows)
    assert ranks(found, 'gold_ranks') == [[1], 'none', [0]]
    assert lines == ['gold_recall is of 2 of 3 questions: the others have no gold_docids']
    found, lines = judged(qa.QATask(), *rows, index=types.SimpleNamespace(rows_of=lambda docid, mesh: []))
    assert ranks(found, 'gold_ranks') == ['none'] * 3 and lines == ['gold_recall is left out: none of the gold_docids is in the index']


def test_metrics_that_were_not_computed_are_named():
    choice = {'question': 'q', 'options': {'A': 'x', 'B': 'y'}, 'answer': 'A'}
    task = multiple_choice.MultipleChoiceTask()
    judge = Judge(types.SimpleNamespace(task=task, mesh=None), [example := task.example(choice, 0)])
    row = judge.row(example, api.Answer('q', 'A'), {'accuracy': 1.0})
    assert row['accuracy'] == 1 and judge.left_out([row]) == [
        'debiased_accuracy is left out: the options were read in one order; give eval_permutations "cyclic" or "all"']
    found, lines = judged(qa.QATask(), {'question': 'q', 'answers': ['a']}, {'question': 'q'}, passages=())
    assert 'exact_match' not in found[0] and lines == ['exact_match, f1 are left out: 1 of 2 questions have no answers']


def test_figures_without_a_meaning_are_named():
    [row], _ = judged(qa.QATask(), {'question': 'q', 'answers': ['a']})
    judge = Judge(types.SimpleNamespace(task=qa.QATask(), mesh=None), [], retrieves=False)
    measured = row | {'nll': 0.0, 'target_tokens': 0.0, 'correlations': {'probssum': None, 'scoresavg': 0.5}}
    assert judge.left_out([measured]) == ['perplexity is left out: no target has a token',
                                          'correlation_probssum is left out: no question has two passages with different scores']


@pytest.mark.parametrize(('pages', 'text', 'precision', 'counted'), [(['7#0', '7#1', '9#2'], 'Curie', 1, 1), (['7', '8'], 'Curie', .5, 0),
                                                                     (['7', '9'], 'Marie', 1, 0)])
def test_kilt_scores_are_of_pages(pages, text, precision, counted):
    row = {'id': 'k', 'input': 'who?', 'output': [{'answer': 'Curie', 'provenance': [{'wikipedia_id': '7'}, {'wikipedia_id': 9}]},
                                                  {'answer': 'The Curie'}, {'provenance': [{'title': 'without a page'}]}]}
    passages = tuple(api.AnswerPassage(docid, '', 'text', 1.0, 0.0) for docid in pages)
    [found], _ = judged(kilt.KiltTask(), row, text=text, passages=passages)
    assert found['r_precision'] == precision and found['kilt_exact_match'] == found['kilt_accuracy'] == counted
    # Two evidence sets: the one without a page id is never complete.
    assert found['page_recall_at_5'] == (.5 if precision == 1 else 0) and found['kilt_rouge_L'] == pytest.approx(counted, abs=1e-7)
    [closed], _ = judged(kilt.KiltTask(), row, text=text, passages=(), retrieves=False)
    assert 'r_precision' not in closed and closed['rouge_L'] == pytest.approx(float(text == 'Curie'), abs=1e-7)


def test_withheld_answers_are_judged_by_what_was_generated():
    task = qa.QATask()
    example = task.example({'question': 'q', 'answers': ['Paris']}, 0)
    judge = Judge(types.SimpleNamespace(task=task, mesh=None), [example], retrieves=False)
    answer = api.Answer('q', api.WITHHELD, confidence=0.25, abstained=True, guess='paris', signals={'log_likelihood': -1.0})
    row = judge.row(example, answer, {})
    assert row['prediction'] == 'paris' and row['exact_match'] == 1 and row['abstained'] is True
    assert row['confidence'] == 0.25 and row['signals'] == {'log_likelihood': -1.0}
    assert 'confidence' not in judge.row(example, api.Answer('q', 'paris'), {})
