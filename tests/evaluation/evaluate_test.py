"""An evaluation has rows and figures, resumes after a kill, takes several indexes in turn, and refuses mistakes."""

import dataclasses
import json
import types

import pytest

from atlas_jax import errors
from atlas_jax.answering import api
from atlas_jax.evaluation import evaluate, results
from atlas_jax.model import ModelSource
from atlas_jax.tasks import multiple_choice
from tests.testing import tiny_run


def rows(**changes) -> list[dict]:
    first = {'example_id': 0, 'question': 'q1', 'answers': ['a'], 'prediction': 'a', 'exact_match': 1.0, 'f1': 1.0, 'retrieved': 5,
             'answer_rank': 0, 'gold_docids': ['x'], 'gold_ranks': [3], 'passages': []}
    second = {'example_id': 1, 'question': 'q2', 'answers': ['a'], 'prediction': 'b', 'exact_match': 0.0, 'f1': 0.5, 'retrieved': 5,
              'answer_rank': None, 'gold_docids': ['x'], 'gold_ranks': [1], 'passages': []}
    return [first | changes, second | changes]


def test_the_summary_has_what_a_run_logs():
    figures = evaluate.Evaluation(tuple(rows()), 1.26, 0.5).summary(top_k=5)
    assert list(figures)[:2] == ['exact_match', 'stderr'] and figures['exact_match'] == 0.5
    assert figures['seconds'] == 1.3 and figures['questions'] == 2 and figures['queries_cut'] == 0.5
    assert not [name for name in figures if 'interval' in name]  # a training run asks often


def test_properties_are_those_of_the_rows():
    passage = api.AnswerPassage('d1', 'title', 'text', 2.0, 0.5, 'index')
    alternatives = [{'text': 'y', 'score': -1.0}]
    found = evaluate.Evaluation(tuple(rows(passages=[dataclasses.asdict(passage)], score=-0.5, alternatives=alternatives)))
    assert found.answers[0] == api.Answer('q1', 'a', (passage,), -0.5, (api.Alternative('y', -1.0),))
    assert found.exact_match == (1.0, 0.0) and found.scores == {'exact_match': (1.0, 0.0), 'f1': (1.0, 0.5)}
    assert found.gold_ranks == (3, 1)
    assert evaluate.Evaluation(tuple(rows(gold_ranks=[]))).gold_ranks == (None, None)


def test_permutations_of_one_row_stand_together():
    made = [types.SimpleNamespace(example_id=i) for i in (0, 0, 1, 2, 2, 2)]
    assert [len(group) for group in evaluate._groups(made)] == [2, 1, 3] and evaluate._groups([]) == []


def test_a_choice_is_judged_by_the_text_of_its_option():
    task = multiple_choice.MultipleChoiceTask(eval_permutations='cyclic')
    row = {'question': 'q', 'options': {'A': 'red', 'B': 'blue'}, 'answer': 'A'}
    group = [task.example(each, 0) for each in task.expand(row, training=False)]
    # A is likelier in both orders, and more so when it is blue.
    letter, more = evaluate._choice(group, [[-1.0, -1.1], [-0.1, -3.0]], debiases=True)
    assert letter == 'B' and (more['accuracy'], more['debiased_accuracy']) == (1.0, 0.0)
    assert more['choice_probs'].keys() == {'A', 'B'} and all(len(values) == 2 for values in more['all_probs'].values())
    assert 'debiased_accuracy' not in evaluate._choice(group[:1], [[-1.0, -1.1]], debiases=False)[1]


@pytest.mark.parametrize('option, value', [('compute_dtype', 'float16'), ('param_dtype', 'int8')])
def test_options_refuse_a_dtype_that_is_none(option, value):
    with pytest.raises(errors.ConfigError, match=value):
        evaluate.Options(**{option: value})


def test_retrieval_alone_needs_a_place_for_its_results():
    with pytest.raises(errors.ConfigError, match='give results_file'):
        evaluate.evaluate(evaluate.EvalData('x.jsonl'), ModelSource('model'), evaluate.Options(retrieve_only=True))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A model, an index, and seven questions of three years."""
    path = tmp_path_factory.mktemp('evaluate')
    atlas = tiny_run.atlas(dropout_rate=0.0)
    atlas.save(path / 'model')
    tiny_run.index(atlas, path)
    asked = [row | {'year': 2017 + number % 3} for number, row in enumerate(tiny_run.rows(7))]
    (path / 'test.jsonl').write_text('\n'.join(map(json.dumps, asked)))
    return path


class Killed(BaseException):
    """Simulates a signal that nobody handles."""


def evaluated(folder, out, index_dir='index', **options) -> dict:
    named = {name: str(folder / each) for name, each in index_dir.items()} if isinstance(index_dir, dict) else str(folder / index_dir)
    data = evaluate.EvalData(str(folder / 'test.jsonl'), named, str(out), write_passages=False)
    return evaluate.evaluate(data, ModelSource(str(folder / 'model')), evaluate.Options(batch_size=2, perplexity=True, **options))


def test_a_killed_evaluation_goes_on_and_ends_as_one_that_was_not(folder, tmp_path, monkeypatch):
    whole = evaluated(folder, tmp_path / 'whole.jsonl')
    assert whole['questions'] == 7 and 'perplexity_interval' in whole and not (tmp_path / 'whole.jsonl.partial').exists()
    assert list(whole['by']['year']['values']) == ['2017', '2018', '2019'] and whole['by']['year']['values']['2017']['questions'] == 3
    add, calls = results.Log.add, []

    def dying(log, row):
        calls.append(row)
        if len(calls) in (4, 9):  # during the answers, and during the likelihoods after them
            raise Killed
        add(log, row)

    monkeypatch.setattr(results.Log, 'add', dying)
    for known in (3, 7):
        with pytest.raises(Killed):
            evaluated(folder, tmp_path / 'killed.jsonl')
        lines = (tmp_path / 'killed.jsonl.partial').read_text().splitlines()
        assert len({json.loads(line)['example_id'] for line in lines[1:]}) == known and not (tmp_path / 'killed.jsonl').exists()
    asked = len(calls)
    with pytest.raises(errors.ConfigError, match='left it, with other n_context; run it again as it was'):
        evaluated(folder, tmp_path / 'killed.jsonl', n_context=1)
    (tmp_path / 'killed.jsonl.partial').open('a').write('{"example_id": 6, "nl')  # the machine died in the middle of a line
    found = evaluated(folder, tmp_path / 'killed.jsonl')
    assert len(calls) - asked == 7 and (tmp_path / 'killed.jsonl').read_text() == (tmp_path / 'whole.jsonl').read_text()
    assert {**found, 'seconds': 0} == {**whole, 'seconds': 0} and not (tmp_path / 'killed.jsonl.partial').exists()


def test_the_same_questions_with_each_of_several_indexes(folder, tmp_path):
    found = evaluated(folder, tmp_path / 'results.jsonl', {'old': 'index', 'new': 'index'})
    assert list(found['indexes']) == ['old', 'new'] and found['indexes']['old'] == found['indexes']['new']
    assert found['exchange']['new']['f1']['difference'] == 0 and found['exchange']['new']['f1']['p_value'] == 1
    written = results.read(tmp_path / 'results.jsonl')
    assert [(row['index_name'], row['example_id']) for row in written] == [(name, i) for name in ('old', 'new') for i in range(7)]
    with pytest.raises(errors.IndexFolderError, match='nowhere'):
        evaluated(folder, tmp_path / 'x.jsonl', {'old': 'index', 'new': 'nowhere'})
    assert not list(tmp_path.glob('x.jsonl*'))


def test_results_are_not_written_to_a_bucket():
    with pytest.raises(errors.ConfigError, match='results_file is "gs://bucket/r.jsonl"; answers are written to a disk as they come'):
        evaluate.EvalData('test.jsonl', results_file='gs://bucket/r.jsonl')
