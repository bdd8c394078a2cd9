import json

import pytest

from tests.testing import published


def query(question: str) -> str:
    """Returns Atlas's query for a question."""
    return f'question: {question} answer: <extra_id_0>'


def test_natural_questions_open(tmp_path):
    made = published.asked('nq_open', tmp_path, 'nq_open/NQ-open.train.jsonl', 'nq_open/NQ-open.dev.jsonl')
    assert {output: len(examples) for output, examples in made.items()} == {'train': 4, 'dev': 2}
    first, third = made['train'][0], made['train'][2]
    assert (first.query, first.target) == (query('who discovered radium'), '<extra_id_0> Marie Curie')
    assert first.answers == ['Marie Curie', 'Pierre Curie']  # blank and repeated ones are left out
    assert third.target == '<extra_id_0> Лев Толстой'
    assert made['dev'][1].query == query('who painted guernica\0')


def test_trivia_questions(tmp_path):
    made = published.asked('triviaqa', tmp_path, *(f'triviaqa/{name}' for name in (
        'unfiltered-web-train.json', 'unfiltered-web-dev.json', 'wikipedia-test-without-answers.json')))
    first = made['train'][0]
    # A value in capitals gets a target in title case, and is itself accepted.
    assert (first.query, first.target) == (query('Which chemist discovered radium?'), '<extra_id_0> Marie Curie')
    assert first.answers == ['MARIE CURIE', 'Marie Curie', 'Maria Skłodowska']
    assert (made['dev'][0].target, made['dev'][0].answers) == ('<extra_id_0> Pablo Picasso', ['Pablo Picasso', 'Picasso'])
    assert (made['test'][0].query, made['test'][0].answers) == (query('Who wrote War and Peace?'), [])


def test_web_questions(tmp_path):
    made = published.asked('web_questions', tmp_path, 'web_questions/webquestions.examples.train.json.bz2')['train']
    assert (made[0].query, made[0].target) == (query('what is the name of justin bieber brother?'), '<extra_id_0> Jazmyn Bieber')
    assert [example.answers for example in made] == [['Jazmyn Bieber', 'Jaxon "J" Bieber'], ['Padmé']]


@pytest.mark.parametrize(('written', 'said'), [
    ('(list (description "a"', 'expected (list (description …) …)'), ('(list (description a) b)', 'expected (list'),
    ('(list )', 'no answer'), ('(list (description ""))', 'no answer'), ('Oslo', 'expected (list')])
def test_a_broken_list_of_answers_is_bad(tmp_path, written, said):
    path = tmp_path / 'web.train.json'
    path.write_text(json.dumps([{'utterance': 'q', 'targetValue': written}, {'utterance': 'q', 'targetValue': '(list (description x))'}]))
    rows, bad = published.read('web_questions', path)
    assert len(bad) == 1 and said in bad[0] and f'{path}, field "[0].targetValue"' in bad[0]
    assert rows == {'train': [{'question': 'q', 'answers': ['x']}]}


@pytest.mark.parametrize(('row', 'said'), [
    ({'question': 'q', 'answer': []}, 'field "answer": no answer that is not blank'),
    ({'question': 'q', 'answer': [' ']}, 'field "answer": no answer that is not blank'),
    ({'question': 'q', 'answer': 'a'}, 'field "answer": expected a list of texts, found \'a\''),
    ({'question': 'q', 'answer': ['a', 3]}, 'field "answer": expected a list of texts'),
    ({'question': ' ', 'answer': ['a']}, 'field "question": expected a text that is not blank'),
    ({'question': '\ud800', 'answer': ['a']}, 'field "question": expected a text'),
    ({'question': 'q'}, 'field "answer": expected a list of texts, found None'),
    ({'answer': ['a'], 'text': 'q'}, 'field "question": missing; fields found: answer, text'),
    ('{"question": "q", ', 'broken JSON'), ('[]', 'expected a JSON object')])
def test_bad_lines_are_told_with_their_line(tmp_path, row, said):
    good = {'question': 'q', 'answer': ['a']}
    rows, bad = published.read('nq_open', published.lines(tmp_path / 'x.train.jsonl', good, row, good))
    assert len(rows['train']) == 2 and len(bad) == 1
    assert bad[0].startswith(f'{tmp_path / "x.train.jsonl"}:2') and said in bad[0]


def test_a_question_id_that_comes_twice_is_bad(tmp_path):
    text = (published.FOLDER / 'triviaqa/unfiltered-web-train.json').read_text(encoding='utf-8')
    (tmp_path / 'web-train.json').write_text(text.replace('tc_3', 'tc_1'), encoding='utf-8')
    rows, bad = published.read('triviaqa', tmp_path / 'web-train.json')
    assert len(rows['train']) == 2 and len(bad) == 1 and '"tc_1" was the id of an earlier example' in bad[0] and 'Data[2].id' in bad[0]


def test_truncated_files_are_told(tmp_path):
    text = (published.FOLDER / 'triviaqa/unfiltered-web-train.json').read_text(encoding='utf-8')
    (tmp_path / 'web-train.json').write_text(text[:-300], encoding='utf-8')
    with pytest.raises(Exception, match=r'web-train.json: broken or truncated JSON in element 2'):
        published.read('triviaqa', tmp_path / 'web-train.json')
