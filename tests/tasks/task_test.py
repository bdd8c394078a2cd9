"""Reading a file of examples: what is counted, left out, refused."""

import pytest

from atlas_jax import errors
from atlas_jax.tasks import kilt, lm, multiple_choice, qa, section
from atlas_jax.tasks import task as task_lib


@pytest.fixture
def file(tmp_path):
    def write(*lines: str, name: str = 'examples.jsonl'):
        path = tmp_path / name
        path.write_text('\n'.join(lines))
        return path
    return write


def test_ids_count_rows_not_lines(file):
    path = file('', '{"question": "q1", "answers": ["a"]}', '', '{"question": "q2", "target": "b"}', '')
    assert [(example.example_id, example.answers) for example in task_lib.read_examples(path, qa.QATask())] == [(0, ['a']), (1, ['b'])]
    assert len(task_lib.read_examples(path, qa.QATask(), max_rows=1)) == 1
    with pytest.raises(errors.InputFileError, match='empty'):
        task_lib.read_examples(file(''), qa.QATask())


def test_labels_are_needed_unless_told_otherwise(file):
    path = file('{"question": "q1", "answers": ["a"]}', '{"question": "q2"}')
    with pytest.raises(errors.InputFileError, match=f'^{path}:2, field "answers": missing; each row needs a question'):
        task_lib.read_examples(path, qa.QATask())
    assert task_lib.read_examples(path, qa.QATask(), labelled=False)[1].answers == []


def test_rows_left_out_are_counted_and_keep_their_numbers(file, capsys):
    text = '"text": "one two three"'
    path = file(f'{{"title": "T", {text}}}', f'{{"title": "T", "section": "S", {text}}}')
    assert [example.example_id for example in task_lib.read_examples(path, section.SectionTask())] == [1]
    assert '1 of 2 rows' in capsys.readouterr().out
    with pytest.raises(errors.InputFileError, match='left out all of its 2 rows'):
        task_lib.read_examples(path, section.SectionTask(min_words=4))


def test_permutations_share_their_rows_number(file):
    path = file(*['{"question": "q", "options": {"A": "x", "B": "y", "C": "z"}, "answer": "B"}'] * 2)
    task = multiple_choice.MultipleChoiceTask(train_permutations='all', eval_permutations='cyclic')
    assert [example.example_id for example in task_lib.read_examples(path, task)] == [0] * 3 + [1] * 3
    assert len(task_lib.read_examples(path, task, training=True, max_rows=1)) == 6


def test_the_name_of_a_file_goes_with_its_rows(file):
    path = file('{"input": "c", "output": [{"answer": "REFUTES"}]}', name='FEVER-dev.jsonl')
    assert task_lib.read_examples(path, kilt.KiltTask())[0].answers == ['false']


def test_a_plain_question_becomes_an_example():
    assert task_lib.ask(qa.QATask('{question}'), 'who?', 3).query == 'who?'
    with pytest.raises(errors.ConfigError, match='field "options": missing'):
        task_lib.ask(multiple_choice.MultipleChoiceTask(), 'who?', 3)


def test_fields_without_a_use_are_named_once(file, capsys):
    path = file('{"question": "q", "answers": ["a"], "gold_docid": "x", "id": 3}', '{"question": "q", "answers": ["a"], "gold_docid": "x"}')
    task_lib.read_examples(path, qa.QATask())
    assert capsys.readouterr().out == f'{path}: not read: the fields gold_docid\n'  # an id names the row where rows are chosen
    task_lib.read_examples(file('{"question": "q", "answers": ["a"], "passages": [], "gold_docids": []}'), qa.QATask())
    assert capsys.readouterr().out == ''


def test_examples_know_their_lines(file):
    path = file('', '{"question": "q1", "answers": ["a"]}', '', '{"question": "q2", "answers": ["b"]}')
    assert [example.line for example in task_lib.read_examples(path, qa.QATask())] == [2, 4]


def test_passages_of_beir_and_flashrag_are_not_retrieved_for_themselves(file):
    path = file('{"_id": "d1", "title": "T", "text": "one two three"}', '{"id": 2, "contents": "T\\none two three"}')
    assert [example.own_docid for example in task_lib.read_examples(path, lm.LMTask())] == ['d1', '2']
    own = file('{"question": "q", "answers": ["a"], "passages": [{"_id": 7, "contents": "T\\none"}]}', name='b.jsonl')
    [passage] = task_lib.read_examples(own, qa.QATask())[0].passages
    assert (passage.docid, passage.title, passage.text) == ('7', 'T', 'one')
