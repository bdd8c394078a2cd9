import json
import pathlib

import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.tasks import qa
from atlas_jax.tasks import task as task_lib

_RECORDED = pathlib.Path(__file__).parents[1] / 'fixtures' / 'parity' / 'tasks.json'
_QA = [case for case in json.loads(_RECORDED.read_text(encoding='utf-8'))['process'] if case['task'] == 'qa']


@pytest.mark.parametrize('case', _QA, ids=[json.dumps(case['example']) for case in _QA])
def test_equals_the_original(case):
    example, output = qa.QATask().example(case['example'], 5), case['output']
    assert (example.query, example.example_id) == (output['query'], 5)
    if len(output.get('answers', [])) > 1:  # the original draws; ours does so on demand
        drawn = {qa.QATask(draw_target=True).example(case['example'], 0, np.random.default_rng(seed)).target for seed in range(20)}
        assert output['target'] in drawn == {f'<extra_id_0> {answer}' for answer in output['answers']}
    else:
        assert example.target == output.get('target', '')
    if 'answers' in output:
        assert example.answers == output['answers']


def test_a_drawn_target_depends_on_the_generator_alone():
    task, row = qa.QATask(draw_target=True), {'question': 'q', 'answers': list('abcdefg')}
    first, again = ([task.example(row, 3, np.random.default_rng(seed)).target for seed in range(9)] for _ in range(2))
    assert first == again and len(set(first)) > 2
    assert task.example(row, 3).target == task.example(row, 3).target
    assert task.draws and not qa.QATask().draws
    assert task.example({**row, 'target': 't'}, 3).target == '<extra_id_0> t'


def test_the_first_answer_is_the_target_unless_one_is_given():
    row = {'question': 'who {x}?', 'answers': ['a b', 'c'], 'gold_docids': ['d/1'], 'country': 'ignored'}
    task = qa.QATask(qa_prompt_format='Q: {question} {{literal}}\nA:', target_format='{target}')
    expected = task_lib.TaskExample('Q: who {x}? {literal}\nA:', 'a b', ['a b', 'c'], 0, ['d/1'], 'who {x}?')
    assert task.example(row, 0) == expected
    assert task.example({**row, 'target': 't'}, 0).target == 't'
    assert task.example({'question': 'q', 'target': 't'}, 0).answers == ['t']


def test_answer_text_takes_off_the_target_format():
    assert qa.QATask().answer_text('<extra_id_0>  Paris ') == 'Paris'
    assert qa.QATask().answer_text('Paris') == 'Paris'
    assert qa.QATask(target_format='It is {target}.').answer_text('It is  Paris.') == 'Paris'
    assert qa.QATask(target_format='{target}').answer_text('It is') == 'It is'
    assert qa.QATask().answer_text('') == ''


@pytest.mark.parametrize('prompt', ['no field', '{question} {question}', '{question} {title}', '{question', '{question!r}', '{question:>9}',
                                    '{}', '{0}', ''])
def test_wrong_formats(prompt):
    with pytest.raises(errors.FormatError, match='qa_prompt_format'):
        qa.QATask(qa_prompt_format=prompt)
    with pytest.raises(errors.FormatError, match='target_format'):
        qa.QATask(target_format=prompt)


@pytest.mark.parametrize('row, field', [
    ({'answers': ['a']}, 'question'), ({'question': ' ', 'answers': ['a']}, 'question'), ({'question': 7, 'answers': ['a']}, 'question'),
    ({'question': 'q', 'answers': []}, 'answers'), ({'question': 'q', 'answers': 'Paris'}, 'answers'),
    ({'question': 'q', 'answers': ['a', None]}, 'answers'), ({'question': 'q', 'target': 3}, 'target'),
    ({'question': 'q', 'target': 't', 'gold_docids': 'd'}, 'gold_docids'),
    ({'question': 'q', 'target': 't', 'passages': 'd'}, 'passages'), ({'question': 'q', 'target': 't', 'passages': [{}]}, 'passages'),
    ({'question': 'q', 'target': 't', 'passages': [{'text': 'a', 'title': 3}]}, 'passages'),
    ({'question': 'q', 'target': 't', 'passages': [{'text': 'a', 'id': None}]}, 'passages')])
def test_wrong_rows_are_named_by_file_line_and_field(tmp_path, row, field):
    path = tmp_path / 'examples.jsonl'
    path.write_text('{"question": "q", "answers": ["a"]}\n\n' + json.dumps(row) + '\n')
    with pytest.raises(errors.InputFileError) as caught:
        task_lib.read_examples(path, qa.QATask())
    assert str(caught.value).startswith(f'{path}:3, field "{field}"') and '\n' not in str(caught.value)
    with pytest.raises(errors.ConfigError, match=f'example 4, field "{field}"'):
        qa.QATask().example(row, 4)


def test_own_passages_have_names():
    row = {'question': 'q', 'target': 't', 'passages': [{'id': 7, 'title': 'T', 'section': 'S', 'text': 'x'}, {'title': ' ', 'text': ' '},
                                                         {'text': 'y'}]}
    passages = qa.QATask().example(row, 0).passages
    assert [(passage.docid, passage.full_title, passage.text) for passage in passages] == [('7', 'T: S', 'x'), ('2', '', 'y')]


def test_answers_have_no_blanks_around_them():
    example = qa.QATask().example({'question': 'q', 'answers': [' ', ' Paris\n', 'Paris']}, 0)
    assert example.answers == ['Paris', 'Paris'] and example.target == '<extra_id_0> Paris'
    assert qa.QATask().example({'question': 'q', 'target': ' t '}, 0).target == '<extra_id_0> t'
    assert qa.QATask().example({'question': 'q', 'answers': [' ']}, 0).answers == ['']  # named when the file is read
