import json

import pytest

from tests.testing import published


def passages(example) -> list[tuple[str, str, str]]:
    """Returns (docid, title, text) of an example's passages."""
    return [(passage.docid, passage.title, passage.text) for passage in example.passages]


def test_squad_of_both_versions(tmp_path):
    made = published.asked('squad', tmp_path, 'squad/train-v1.1.json', 'squad/dev-v2.0.json')
    first = made['train'][0]
    assert (first.query, first.target) == ('question: What did Curie discover? answer: <extra_id_0>', '<extra_id_0> radium')
    assert passages(first) == [('Marie Curie#0', 'Marie Curie', 'Marie Curie discovered radium in 1898 in Paris.')]
    assert first.gold_docids == ['Marie Curie#0']
    # Unanswerable questions are left out.
    assert [(example.question, example.answers) for example in made['dev']] == [('When was radium discovered?', ['1898', 'in 1898'])]


def test_hotpotqa(tmp_path):
    made = published.asked('hotpotqa', tmp_path, 'hotpotqa/hotpot_dev_distractor_v1.json', 'hotpotqa/hotpot_test_fullwiki_v1.json')
    first = made['dev'][0]
    assert first.query == 'question: In which country was the discoverer of radium born? answer: <extra_id_0>'
    assert (first.target, first.gold_docids) == ('<extra_id_0> Poland', ['Marie Curie', 'Warsaw'])
    assert passages(first)[0] == ('Marie Curie', 'Marie Curie', 'Marie Curie was a chemist. She was born in Warsaw.')
    assert len(first.passages) == 3 and made['test'][0].answers == []


def test_boolq_and_that_of_superglue(tmp_path):
    made = published.asked('boolq', tmp_path, 'boolq/dev.jsonl')['dev']
    assert [(example.query, example.target) for example in made] == [
        ('question: is radium radioactive answer: <extra_id_0>', '<extra_id_0> yes'),
        ('question: is radium a gas answer: <extra_id_0>', '<extra_id_0> no')]
    assert passages(made[0]) == [('0', 'Radium', 'All isotopes of radium are radioactive.')]
    made = published.asked('boolq', tmp_path, 'boolq/super_glue/val.jsonl', 'boolq/super_glue/test.jsonl')
    assert passages(made['dev'][0]) == [('0', 'Radium', 'Radium is a metal.')] and made['dev'][0].answers == ['yes']
    assert made['test'][0].answers == []


def test_sciq_as_questions_and_as_choices(tmp_path):
    made = published.asked('sciq', tmp_path, 'sciq/valid.json')['dev']
    assert (made[0].query, made[0].target) == ('question: Who discovered radium? answer: <extra_id_0>', '<extra_id_0> Marie Curie')
    assert passages(made[0]) == [('0', '', 'Marie Curie discovered radium in 1898.')] and made[1].passages == ()
    made = published.asked('sciq_choices', tmp_path, 'sciq/valid.json')['dev']
    assert (made[0].query, made[0].target) == (
        'question: Who discovered radium? options: (A) Niels Bohr (B) Isaac Newton (C) Marie Curie (D) Lise Meitner answer: <extra_id_0>',
        '<extra_id_0> C')
    assert made[1].options[3] == 'water' and made[1].target == '<extra_id_0> D'


@pytest.mark.parametrize(('name', 'value', 'said'), [
    ('squad', {'data': [{'title': 'T', 'paragraphs': [{'context': 'c', 'qas': [{'id': 'a', 'question': 'q', 'answers': []}]}]}]},
     'field "data[0].paragraphs[0].qas[0].answers": no answer'),
    ('squad', {'data': [{'title': 'T', 'paragraphs': [{'qas': []}]}]}, 'field "data[0].paragraphs[0].context": missing'),
    ('hotpotqa', [{'_id': 'a', 'question': 'q', 'answer': 'x', 'context': [['T', 'text']]}], '"[0].context": expected a list of pairs'),
    ('hotpotqa', [{'_id': 'a', 'question': 'q', 'answer': '', 'context': []}], 'field "[0].answer": expected a text'),
    ('hotpotqa', [{'_id': 'a', 'question': 'q', 'answer': 'x', 'context': [], 'supporting_facts': [['T']]}], '_facts": expected a'),
    ('sciq', [{'question': 'q', 'correct_answer': ' ', 'distractor1': 'a'}], 'field "[0].correct_answer": expected a text'),
    ('sciq_choices', [{'question': 'q', 'correct_answer': 'a', 'distractor1': 'b'}], 'field "[0].distractor2": missing')])
def test_bad_records_are_told_with_their_place(tmp_path, name, value, said):
    (tmp_path / 'train.json').write_text(json.dumps(value))
    rows, bad = published.read(name, tmp_path / 'train.json')
    assert not rows and len(bad) == 1 and said in bad[0]


def test_an_answer_that_is_no_boolean_is_bad(tmp_path):
    rows = [{'question': 'q', 'title': 't', 'passage': 'p', 'answer': answer} for answer in (True, 'True', None)]
    made, bad = published.read('boolq', published.lines(tmp_path / 'dev.jsonl', *rows))
    assert len(made['dev']) == 1 and [message.split('found ')[1] for message in bad] == ["'True'", 'None']
