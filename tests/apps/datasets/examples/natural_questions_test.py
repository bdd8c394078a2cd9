import gzip
import json

import pytest

from tests.testing import published

TRAIN, DEV = 'nq/v1.0-simplified_simplified-nq-train.jsonl.gz', 'nq/v1.0-simplified_nq-dev-all.jsonl.gz'


def test_short_answers_of_at_most_five_tokens(tmp_path):
    made = published.asked('nq', tmp_path, TRAIN)['train']
    assert (made[0].query, made[0].target) == ('question: who discovered radium answer: <extra_id_0>', '<extra_id_0> Marie Curie')
    # Answers have no tags; questions whose answer is a sentence, or yes, are left out.
    assert [example.answers for example in made] == [['Marie Curie', 'Pierre Curie'], ['Symbol Ra']]


def test_the_original_form_gives_the_answers_of_all_annotators():
    rows, bad = published.read('nq', DEV)
    assert not bad and rows == {'dev': [{'id': '-1', 'question': 'who discovered radium', 'answers': ['Marie Curie', 'Pierre Curie']}]}


def test_limits_and_yes_and_no_are_options():
    rows, _ = published.read('nq', TRAIN, yes_no=True, max_answer_tokens=0)
    assert [row['answers'][0] for row in rows['train']] == [
        'Marie Curie', 'Radium was discovered by Marie Curie and Pierre Curie in 1898 .', 'yes', 'Symbol Ra']
    assert [row['answers'] for row in published.read('nq', TRAIN, max_answer_tokens=2)[0]['train']] == [['Marie Curie'], ['Symbol Ra']]


def test_each_file_is_a_piece_of_its_own(tmp_path):
    for number in range(2):
        (tmp_path / f'nq-train-0{number}.jsonl.gz').write_bytes((published.FOLDER / TRAIN).read_bytes())
    rows, _ = published.read('nq', *sorted(tmp_path.iterdir()))
    assert len(rows['train']) == 4


@pytest.mark.parametrize(('change', 'said'), [
    (lambda row: row['annotations'][0]['short_answers'][0].update(end_token=99), '[0].short_answers[0].end_token": expected a token'),
    (lambda row: row['annotations'][0]['short_answers'][0].update(start_token=-1), 'start_token": expected a token'),
    (lambda row: row['annotations'][0]['short_answers'][0].update(start_token='3'), 'start_token": expected a token'),
    (lambda row: row['annotations'][0].update(yes_no_answer='MAYBE'), 'expected NONE, YES or NO'),
    (lambda row: row.update(annotations=3), 'field "annotations": expected a list of objects'),
    (lambda row: row.pop('example_id'), 'field "example_id": missing')])
def test_bad_annotations_are_told(tmp_path, change, said):
    with gzip.open(published.FOLDER / TRAIN, 'rt', encoding='utf-8') as file:
        row = json.loads(next(file))
    change(row)
    rows, bad = published.read('nq', published.lines(tmp_path / 'nq-train.jsonl', row))
    assert not rows and len(bad) == 1 and said in bad[0] and 'nq-train.jsonl:1, ' in bad[0]
