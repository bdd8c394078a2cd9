"""The figures of an evaluation: metrics, ranks, permutations of choices, and what is refused."""

import dataclasses
import json
import math
import types

import pytest

from atlas_jax import api, errors, evaluate
from atlas_jax.model import ModelSource
from atlas_jax.tasks import multiple_choice


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
    assert evaluate.Likelihoods((), (), {}).summary()['eval_loss'] == 0
    assert evaluate.Likelihoods((1e9,), (1.0,), {}).summary()['perplexity'] == math.exp(700)


def test_permutations_of_one_row_stand_together():
    rows = [types.SimpleNamespace(example_id=i) for i in (0, 0, 1, 2, 2, 2)]
    assert [len(group) for group in evaluate._groups(rows)] == [2, 1, 3] and evaluate._groups([]) == []


def test_ranks_of_what_was_retrieved():
    passages = tuple(api.AnswerPassage(f'd{i}', '', text, 1.0, 0.0) for i, text in enumerate(('no', 'the Answer here', 'no')))
    answers = [api.Answer('q', '', passages)]
    example = types.SimpleNamespace(gold_docids=('d2',), answers=('answer',), choices=())
    assert evaluate._ranks(answers, [example]) == ((1,), (2,))
    example.answers, example.gold_docids = (), ()
    assert evaluate._ranks(answers, [example]) == ((), ())


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
