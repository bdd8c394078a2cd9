"""The figures of an evaluation: metrics, ranks, permutations of choices, and what is refused."""

import dataclasses
import json
import math
import types

import pytest

from atlas_jax import api, errors, evaluate
from atlas_jax.model import ModelSource
from atlas_jax.tasks import fever, kilt, multiple_choice, qa


def evaluation(**changes) -> evaluate.Evaluation:
    values = {'answers': (api.Answer('q1', 'a'), api.Answer('q2', 'b')), 'scores': {'exact_match': (1.0, 0.0), 'f1': (1.0, 0.5)},
              'answer_ranks': (0, None), 'gold_ranks': (3, 1), 'seconds': 1.26}
    return evaluate.Evaluation(**(values | changes))


def test_the_first_metric_has_the_plain_error_and_recalls_end_at_top_k():
    figures = evaluation().summary(top_k=5)
    assert list(figures)[:2] == ['exact_match', 'stderr'] and figures['exact_match'] == 0.5
    assert figures['f1'] == 0.75 and 'f1_stderr' in figures and figures['seconds'] == 1.3 and figures['questions'] == 2
    assert figures['answer_recall_at_1'] == 0.5 and figures['gold_recall_at_2'] == 0.5 and figures['gold_recall_at_5'] == 1.0
    assert 'gold_recall_at_10' not in figures
    assert not [name for name in evaluation(answer_ranks=(), gold_ranks=()).summary(5) if 'recall' in name]


def test_perplexity_is_of_all_tokens_together():
    likelihoods = evaluate.Likelihoods((2.0, 4.0), (1.0, 3.0), {'probssum': 0.5})
    assert likelihoods.summary() == {'eval_loss': 1.5, 'perplexity': math.exp(1.5), 'correlation_probssum': 0.5}
    assert likelihoods.left_out() == []
    nothing = evaluate.Likelihoods((0.0, 0.0), (0.0, 0.0), {'probssum': None, 'scoresavg': 0.5})
    assert nothing.summary() == {'correlation_scoresavg': 0.5}
    assert [line.split(' is left out')[0] for line in nothing.left_out()] == ['perplexity', 'correlation_probssum']
    assert evaluate.Likelihoods((1e9,), (1.0,), {}).summary()['perplexity'] == math.exp(700)


def test_permutations_of_one_row_stand_together():
    rows = [types.SimpleNamespace(example_id=i) for i in (0, 0, 1, 2, 2, 2)]
    assert [len(group) for group in evaluate._groups(rows)] == [2, 1, 3] and evaluate._groups([]) == []


def _asked(task, *rows):
    """A model of the task, answers with three passages each, and the examples."""
    passages = tuple(api.AnswerPassage(f'd{i}', '', text, 1.0, 0.0) for i, text in enumerate(('no', 'the Answer is true', 'no')))
    examples = [task.example(row, number) for number, row in enumerate(rows)]
    return types.SimpleNamespace(task=task, mesh=None), [api.Answer('q', '', passages)] * len(rows), examples


def test_ranks_of_what_was_retrieved():
    row = {'question': 'q', 'answers': ['answer'], 'gold_docids': ['d2']}
    assert evaluate._ranks(*_asked(qa.QATask(), row)) == ((1,), (2,), [])
    model, answers, examples = _asked(qa.QATask(), {'question': 'q'})
    assert evaluate._ranks(model, answers, examples)[:2] == ((), ())
    # A closed book has retrieved nothing: its recall is not 0.
    assert evaluate._ranks(model, [api.Answer('q', '', ())], _asked(qa.QATask(), row)[2]) == ((), (), [])


def test_recall_is_of_answers_that_a_passage_can_hold():
    rows = [{'question': 'q', 'answers': answers} for answers in (['true'], ['Answer'], ['Yes', 'no'], ['no', 'answer'])]
    assert evaluate._ranks(*_asked(qa.QATask(), *rows)) == ((1, 0), (), [
        'answer_recall is of 2 of 4 questions: the others have no answers that a passage can hold (not true, yes, or none)'])
    assert evaluate._ranks(*_asked(qa.QATask(), rows[0])) == ((), (), [
        'answer_recall is left out: no question has answers that a passage can hold (not true, yes, or none)'])
    fever_row = {'claim': 'c', 'label': 'SUPPORTS', 'gold_docids': ['d1']}
    assert evaluate._ranks(*_asked(fever.FeverTask(), fever_row)) == ((), (1,), [])  # no metric of the task
    kilt_row = {'input': 'c', 'output': [{'answer': 'SUPPORTS', 'provenance': [{'wikipedia_id': 'd1'}]}], 'filename': 'fever-dev.jsonl'}
    by_answer, by_gold, [line] = evaluate._ranks(*_asked(kilt.KiltTask(), kilt_row))
    assert (by_answer, by_gold) == ((), (1,)) and line.startswith('answer_recall is left out')


def test_gold_recall_is_of_questions_with_gold_passages_of_this_index():
    rows = [{'question': 'q', 'answers': ['answer'], 'gold_docids': docids} for docids in (['d1'], [], ['x', 'd0'])]
    _, by_gold, lines = evaluate._ranks(*_asked(qa.QATask(), *rows))
    assert by_gold == (1, 0) and lines == ['gold_recall is of 2 of 3 questions: the others have no gold_docids']
    index = types.SimpleNamespace(rows_of=lambda docid, mesh: [])
    _, by_gold, lines = evaluate._ranks(*_asked(qa.QATask(), *rows), index)
    assert by_gold == () and lines == ['gold_recall is left out: none of the gold_docids is in the index']


def test_metrics_that_were_not_computed_are_named():
    _, _, examples = _asked(multiple_choice.MultipleChoiceTask(), {'question': 'q', 'options': {'A': 'x', 'B': 'y'}, 'answer': 'A'})
    assert evaluate._unscored(multiple_choice.MultipleChoiceTask(), examples, {'accuracy': (1.0,)}) == [
        'debiased_accuracy is left out: the options were read in one order; give eval_permutations "cyclic" or "all"']
    _, _, examples = _asked(qa.QATask(), {'question': 'q', 'answers': ['a']}, {'question': 'q'})
    assert evaluate._unscored(qa.QATask(), examples, {}) == ['exact_match, f1 are left out: 1 of 2 questions have no answers']
    assert evaluate._unscored(qa.QATask(), examples, {'exact_match': (), 'f1': ()}) == []


def test_one_question_has_no_standard_error():
    figures = evaluation(answers=(api.Answer('q', 'a'),), scores={'exact_match': (1.0,)}, queries_cut=0.5).summary(1)
    assert figures['exact_match'] == 1 and not [name for name in figures if 'stderr' in name] and figures['queries_cut'] == 0.5


@pytest.mark.parametrize('option, value', [('compute_dtype', 'float16'), ('param_dtype', 'int8')])
def test_options_refuse_a_dtype_that_is_none(option, value):
    with pytest.raises(errors.ConfigError, match=value):
        evaluate.Options(**{option: value})


def test_retrieval_alone_needs_a_place_for_its_results():
    with pytest.raises(errors.ConfigError, match='give results_file'):
        evaluate.evaluate(evaluate.EvalData('x.jsonl'), ModelSource('model'), evaluate.Options(retrieve_only=True))


def test_no_index_one_or_several(tmp_path):
    assert evaluate.open_indexes(None) == evaluate.open_indexes([]) == []
    with pytest.raises(errors.IndexFolderError):
        evaluate.open_indexes(str(tmp_path))
    with pytest.raises(errors.IndexFolderError):
        evaluate.open_indexes([str(tmp_path), str(tmp_path)])


def test_results_have_a_line_a_question(tmp_path):
    passages = (api.AnswerPassage('d1', 'title', 'text', 2.0, 0.5, 'index'),)
    answer = api.Answer('who ?', 'me', passages, -0.5, (api.Alternative('you', -1.0),))
    example = types.SimpleNamespace(example_id=7, query='question: who ?', answers=('me',), choices=())
    likelihoods = evaluate.Likelihoods((1.5,), (2.0,), {})
    found = evaluation(answers=(answer,), scores={'exact_match': (1.0,)}, likelihoods=likelihoods)
    evaluate.write_results(tmp_path / 'r.jsonl', found, [example])
    row = json.loads((tmp_path / 'r.jsonl').read_text())
    assert row['prediction'] == 'me' and row['exact_match'] == 1.0 and row['nll'] == 1.5 and row['score'] == -0.5
    assert row['passages'] == [dataclasses.asdict(passages[0])] and row['alternatives'] == [{'text': 'you', 'score': -1.0}]
    evaluate.write_results(tmp_path / 'r.jsonl', found, [example], write_passages=False)
    assert 'passages' not in json.loads((tmp_path / 'r.jsonl').read_text())


def test_results_of_choices_have_their_probabilities(tmp_path):
    choice = multiple_choice.marginalize([('red', 'blue')], [[0.0, -1.0]])
    examples = [types.SimpleNamespace(example_id=1, query='q', answers=('A',), choices=('A', 'B'))] * 2
    found = evaluation(answers=(api.Answer('q', 'A'),), scores={'accuracy': (1.0,)}, choices=(choice,))
    evaluate.write_results(tmp_path / 'r.jsonl', found, examples)
    row = json.loads((tmp_path / 'r.jsonl').read_text())
    assert row['choice_probs'] == dict(choice.by_letter)
    assert row['all_probs'] == {name: list(values) for name, values in choice.by_option.items()}
