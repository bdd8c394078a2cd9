import json
import pathlib

import pytest

from atlas_jax import errors
from atlas_jax.tasks import qa

_RECORDED = pathlib.Path(__file__).parents[1] / 'fixtures' / 'parity' / 'tasks.json'
_QA = [case for case in json.loads(_RECORDED.read_text(encoding='utf-8'))['process']
       if case['task'] == 'qa' and 'target' in case['output'] and len(case['example'].get('answers', ['one'])) == 1]


@pytest.mark.parametrize('case', _QA, ids=[json.dumps(case['example']) for case in _QA])
def test_equals_the_original(case):
    example = qa.QATask().example(case['example'], 5)
    assert (example.query, example.target, example.example_id) == (case['output']['query'], case['output']['target'], 5)


def test_the_first_answer_is_the_target_unless_one_is_given():
    row = {'question': 'who {x}?', 'answers': ['a b', 'c'], 'gold_docids': ['d/1'], 'country': 'ignored'}
    task = qa.QATask(qa_prompt_format='Q: {question} {{literal}}\nA:', target_format='{target}')
    assert task.example(row, 0) == qa.TaskExample('Q: who {x}? {literal}\nA:', 'a b', ['a b', 'c'], 0, ['d/1'], 'who {x}?')
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
    ({'question': 'q'}, 'answers'), ({'question': 'q', 'answers': []}, 'answers'), ({'question': 'q', 'answers': 'Paris'}, 'answers'),
    ({'question': 'q', 'answers': ['a', None]}, 'answers'), ({'question': 'q', 'target': 3}, 'target'),
    ({'question': 'q', 'target': 't', 'gold_docids': 'd'}, 'gold_docids')])
def test_wrong_rows_are_named_by_file_line_and_field(tmp_path, row, field):
    path = tmp_path / 'examples.jsonl'
    path.write_text('{"question": "q", "answers": ["a"]}\n\n' + json.dumps(row) + '\n')
    with pytest.raises(errors.InputFileError) as caught:
        qa.read_examples(path, qa.QATask())
    assert str(caught.value).startswith(f'{path}:3, field "{field}"') and '\n' not in str(caught.value)
    if 'question' in row:
        with pytest.raises(errors.ConfigError, match=f'example 4, field "{field}"'):
            qa.QATask().example(row, 4)


def test_read_examples_counts_examples_not_lines(tmp_path):
    path = tmp_path / 'examples.jsonl'
    path.write_text('\n{"question": "q1", "answers": ["a"]}\n\n{"question": "q2", "target": "b"}\n')
    assert [(example.example_id, example.answers) for example in qa.read_examples(path, qa.QATask())] == [(0, ['a']), (1, ['b'])]
    path.write_text('')
    with pytest.raises(errors.InputFileError, match='empty'):
        qa.read_examples(path, qa.QATask())
