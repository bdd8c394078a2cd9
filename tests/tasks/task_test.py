"""Reading a file of examples counts rows, leaves some out and refuses mistakes."""

import dataclasses
import gzip
import json

import pytest

from atlas_jax import errors
from atlas_jax.tasks import fever, kilt, lm, multiple_choice, qa, section
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


def test_several_files_are_read_as_one(tmp_path, file, capsys):
    first = file('', '{"input": "c1", "output": [{"answer": "REFUTES"}], "extra": 1}', name='fever-b.jsonl')
    second = file(*[f'{{"input": "c{number}", "output": [{{"answer": "REFUTES"}}]}}' for number in (2, 3)], name='nq.jsonl')
    zipped = tmp_path / 'nq.jsonl.gz'
    zipped.write_bytes(gzip.compress(second.read_bytes()))
    examples = task_lib.read_examples([str(first), str(zipped)], kilt.KiltTask())
    assert [(each.example_id, each.file, each.line, each.answers) for each in examples] == [
        (0, str(first), 2, ['false']), (1, str(zipped), 1, ['REFUTES']), (2, str(zipped), 2, ['REFUTES'])]
    assert capsys.readouterr().out == f'{first}: not read: the fields extra\n'
    # The first rows of all files together; later rows are not read, and may be broken.
    broken = file('{"input": "c9"', name='broken.jsonl')
    assert len(task_lib.read_examples([first, zipped, broken], kilt.KiltTask(), max_rows=2)) == 2
    task_lib.check_rows([first, zipped], kilt.KiltTask(), max_rows=2)
    for read in (task_lib.read_examples, task_lib.check_rows):
        with pytest.raises(errors.InputFileError, match=f'^{broken}:1: broken JSON'):
            read([first, zipped, broken], kilt.KiltTask())
    folder = task_lib.read_examples(f'{tmp_path}/nq*', kilt.KiltTask())
    assert [each.file for each in folder] == [str(second)] * 2 + [str(zipped)] * 2


def test_messages_name_places():
    one = [dataclasses.replace(task_lib.ask(qa.QATask(), 'q', 4), file='a.jsonl', line=line) for line in (3, 3, 5, 7)]
    assert task_lib.places(one, 2) == 'a.jsonl, line 3, 5, …' and task_lib.places(one[:3], 2) == 'a.jsonl, line 3, 5'
    assert task_lib.places([one[0], dataclasses.replace(one[1], file='b.jsonl')], 2) == 'a.jsonl:3, b.jsonl:3'
    assert task_lib.places([task_lib.ask(qa.QATask(), 'q', 4)], 2) == 'example 4'


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
    assert capsys.readouterr().out == f'{path}: not read: the fields gold_docid\n'  # an id names the row when rows are selected
    task_lib.read_examples(file('{"question": "q", "answers": ["a"], "passages": [], "gold_docids": []}'), qa.QATask())
    assert capsys.readouterr().out == ''


def test_short_fields_that_the_task_does_not_read_are_labels(file, capsys):
    row = json.dumps({'question': 'q', 'answers': ['a'],
                      'subject': 'law', 'year': 2017, 'long': 'x' * 101, 'is': True, 'list': [], 'other': 'x'})
    [example] = task_lib.read_examples(path := file(row), qa.QATask())
    assert example.labels == {'subject': 'law', 'year': 2017, 'other': 'x'}
    assert capsys.readouterr().out == f'{path}: not read: the fields is, list, long, other\n'  # figures are reported by the others
    [claim] = task_lib.read_examples(file('{"claim": "c", "label": "REFUTES"}'), fever.FeverTask())
    assert claim.labels == {'label': 'REFUTES'}  # a class is read and reported by


def test_examples_know_their_lines(file):
    path = file('', '{"question": "q1", "answers": ["a"]}', '', '{"question": "q2", "answers": ["b"]}')
    assert [example.line for example in task_lib.read_examples(path, qa.QATask())] == [2, 4]


def test_passages_of_beir_and_flashrag_are_not_retrieved_for_themselves(file):
    path = file('{"_id": "d1", "title": "T", "text": "one two three"}', '{"id": 2, "contents": "T\\none two three"}')
    assert [example.own_docid for example in task_lib.read_examples(path, lm.LMTask())] == ['d1', '2']
    own = file('{"question": "q", "answers": ["a"], "passages": [{"_id": 7, "contents": "T\\none"}]}', name='b.jsonl')
    [passage] = task_lib.read_examples(own, qa.QATask())[0].passages
    assert (passage.docid, passage.title, passage.text) == ('7', 'T', 'one')


def test_a_search_is_for_the_question_with_the_prompt_of_the_task_or_as_it_is():
    task = qa.QATask()
    assert task_lib.search_example(task, 'who?', 3, with_prompt=True) == task_lib.ask(task, 'who?', 3)
    plain = task_lib.search_example(task, 'who?', 3, with_prompt=False)
    assert (plain.query, plain.question, plain.example_id) == ('who?', 'who?', 3) != (task_lib.ask(task, 'who?', 3).query, 'who?', 3)
