import json

import pytest

from atlas_jax import errors
from atlas_jax.apps.project import questions


def read(path, text):
    path.write_text(text)
    return questions.read(path)


def test_lines_and_tables_give_the_same_rows(tmp_path):
    rows = [{'question': 'Who, then?', 'answers': ['Ann', 'A. Lee']}, {'question': 'When?', 'answers': ['1934']}]
    assert read(tmp_path / 'q.jsonl', '\n'.join(map(json.dumps, rows))) == rows
    assert read(tmp_path / 'q.csv', 'Question,Answers\n"Who, then?",Ann | A. Lee|\nWhen?,1934\n') == rows
    assert read(tmp_path / 'q.tsv', 'answer\tquestion\nAnn|A. Lee\tWho, then?\n1934\tWhen?\n') == rows


@pytest.mark.parametrize(('name', 'text', 'message'), [
    ('q.jsonl', '{"question": "a"}', 'q.jsonl:1, field "answers": no answer; each question needs at least one'),
    ('q.jsonl', '{"question": "a", "answers": [" "]}', 'field "answers": no answer'),
    ('q.jsonl', '{"question": " ", "answers": ["b"]}', 'q.jsonl:1, field "question": '),
    ('q.jsonl', json.dumps({'question': 'a' * 100_000, 'answers': ['b']}), 'field "question": 100,000 characters, at most 10,000'),
    ('q.csv', 'question,answers\na,b\nc,\n', 'q.csv:3, field "answers": no answer'),
    ('q.csv', 'question\na\n', 'q.csv:1: no column "answers"; the first line must name'),
    ('q.csv', 'frage,answers\na,b\n', 'q.csv:1: no column "question"'),
    ('q.txt', 'a', 'unknown kind of file ".txt"; give questions as .jsonl, .csv or .tsv'),
])
def test_faulty_questions(tmp_path, name, text, message):
    with pytest.raises(errors.InputFileError, match=message) as caught:
        read(tmp_path / name, text)
    assert '\n' not in str(caught.value)


def rows(count):
    return [{'question': f'Question {number}?', 'answers': ['a']} for number in range(count)]


def test_a_fifth_is_held_out_and_stays_held_out():
    first, later = questions.split(rows(500)), questions.split(rows(700))
    assert 70 < len(first.test) < 130 and len(first.test) + len(first.train) == 500
    assert all(row in later.test for row in first.test) and all(row in later.train for row in first.train)
    again = questions.split([{'question': f'  question   {number}?', 'answers': ['a']} for number in range(500)])
    assert len(again.test) == len(first.test)  # case and spacing make no other question


@pytest.mark.parametrize(('count', 'held_out'), [(0, 0), (1, 0), (4, 0)])
def test_few_questions_are_all_trained_on(count, held_out):
    assert len(questions.split(rows(count)).test) == held_out


def test_of_five_one_is_held_out_at_least():
    for start in range(60):
        made = questions.split(rows(start + 5)[start:])
        assert len(made.test) >= 1 and len(made.train) + len(made.test) == 5
