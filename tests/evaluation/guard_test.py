"""The guard warns if recall fell beyond chance while the score rose, and not otherwise."""

import dataclasses

import pytest

from atlas_jax import errors
from atlas_jax.evaluation import guard
from tests.testing import records


def at(step, found, of=60, score=.3, **changes):
    """An evaluation in which the first `found` questions have their passage."""
    return guard.GuardScore(**{'step': step, 'questions': '0' * 16, 'metric': 'exact_match', 'score': score, 'recall': 'gold_recall_at_5',
                             'hits': '1' * found + '0' * (of - found)} | changes)


def test_what_is_compared_is_the_recall_of_the_passages_that_are_read():
    rows = records.results([1, 0, 1, 1])  # gold passages at ranks 0, 2, 2, 3
    found = guard.measured(7, rows, top_k=3)
    assert (found.step, found.metric, found.score, found.recall, found.hits) == (7, 'exact_match', .75, 'gold_recall_at_2', '1000')
    assert guard.measured(7, rows, top_k=5).hits == '1111' and guard.measured(7, rows, top_k=5).share == 1
    without = [{name: value for name, value in row.items() if 'gold' not in name} for row in rows]
    assert guard.measured(7, without, 5).recall == 'answer_recall_at_5' and guard.measured(7, without, 5).questions == found.questions
    assert guard.measured(7, rows[:3], 5).questions != found.questions
    assert guard.measured(0, records.results([1, 0], ranked=False), 5) is None
    assert guard.measured(0, [{name: value for name, value in row.items() if name not in ('exact_match', 'f1')} for row in rows], 5) is None


@pytest.mark.parametrize(('before', 'now', 'then'), [
    ([at(0, 40)], at(10, 30, score=.4), 0),
    ([at(0, 40)], at(10, 30, score=.3), None),  # the reader does not improve
    ([at(0, 40)], at(10, 50, score=.4), None),
    ([at(0, 40)], at(10, 36, score=.4), None),  # four questions: p = .125
    ([at(0, 40)], at(10, 30, score=.4, questions='1' * 16), None),  # other questions
    ([at(0, 40)], at(10, 30, score=.4, recall='answer_recall_at_5'), None),
    ([at(0, 30), at(10, 45, score=.4), at(20, 44, score=.5)], at(30, 30, score=.6), 10),  # below the best, not the start
    ([at(0, 40), at(10, 45, score=.9)], at(20, 28, score=.6), 0),  # the best one read better, the start did not
    ([at(0, 40), *[at(step, 30, score=.9) for step in range(1, 9)]], at(10, 34, score=.6), None),  # p = .031, of nine comparisons
    ([], at(0, 40), None)])
def test_recall_fell_beyond_chance_while_the_score_rose(before, now, then):
    found = guard.worse_than(now, before)
    assert (None if found is None else found[0].step) == then


def test_six_questions_lost_are_enough_for_one_comparison():
    assert guard.worse_than(at(10, 34, score=.4), [at(0, 40)])[1] == pytest.approx(1 / 32, abs=.01)


def test_the_line_says_what_happened_and_what_to_do(tmp_path):
    watched = guard.Guard(tmp_path, 0, 'joint')
    assert watched.add(at(0, 48, score=.25)) == ''
    assert watched.add(at(20, 33, score=.5)) == (
        'step 20: the retriever is getting worse while the reader improves: since step 0 gold_recall_at_5 fell from 0.800 to 0.550 '
        '(p 0.0001, 60 questions), and exact_match rose from 0.250 to 0.500; lower OptimizerConfig.retriever_learning_rate, refresh the '
        'index more often (RefreshConfig), or choose DistillConfig.retriever_training "query_side" or "frozen"')
    line = guard.Guard(tmp_path, 0, 'query_side')
    line.add(at(0, 48))
    assert line.add(at(20, 33, score=.5)).endswith('retriever_learning_rate, or choose DistillConfig.retriever_training "frozen"')


def test_a_run_that_goes_on_knows_the_evaluations_up_to_its_checkpoint(tmp_path):
    watched = guard.Guard(tmp_path, 0, 'joint')
    for each in (at(0, 30), at(10, 45), at(20, 30, score=.2)):
        watched.add(each)
    assert 'since step 10' in guard.Guard(tmp_path, 10, 'joint').add(at(20, 30, score=.4))
    assert guard.Guard(tmp_path, 5, 'joint').add(at(20, 30, score=.4)) == ''
    assert len((tmp_path / guard.FILE).read_text().splitlines()) == 2  # the one at the start, and the new one
    assert guard.Guard(tmp_path, 0, 'joint').add(at(0, 10, score=.9)) == ''
    assert guard._read(guard.Folder(tmp_path)) == [at(0, 10, score=.9)]


@pytest.mark.parametrize(('line', 'problem'), [
    ('{"step": 1', 'Expecting'), ('[]', '"line" is list, expected an object'), ('{"step": 1}', 'no field "line.questions"'),
    ('score', '"line.score" is 2, expected a number from 0 to 1'), ('hits', r'"line.hits" is \'012\', expected a text of 0 and 1')])
def test_a_damaged_file_is_named_with_its_line(tmp_path, line, problem):
    guard.Guard(tmp_path, 0, 'joint').add(at(0, 30))
    if line in ('score', 'hits'):
        line = guard.json.dumps(dataclasses.asdict(at(10, 30)) | {line: {'score': 2, 'hits': '012'}[line]})
    with open(tmp_path / guard.FILE, 'a', encoding='utf-8') as file:
        file.write(line + '\n')
    with pytest.raises(errors.InputFileError, match=rf'held_out.jsonl:2: damaged \({problem}.*take the file away'):
        guard.Guard(tmp_path, 10, 'joint')
