import pytest

from tests.testing import published


def test_claims(tmp_path):
    made = published.asked('fever', tmp_path, 'fever/train.jsonl', 'fever/shared_task_test.jsonl')
    first, second, third = made['train']
    assert first.query == 'question: Nikolaj Coster-Waldau worked with the Fox Broadcasting Company. answer: <extra_id_0>'
    assert [example.target for example in made['train']] == ['<extra_id_0> true', '<extra_id_0> false', '<extra_id_0> maybe']
    # The pages of all sets of evidence, each once; a combining accent is joined to its letter.
    assert [example.gold_docids for example in made['train']] == [['Nikolaj_Coster-Waldau', 'Fox_Broadcasting_Company'], ['Beyoncé'], []]
    assert (second.answers, third.answers, made['test'][0].answers) == (['false'], ['maybe'], [])


@pytest.mark.parametrize(('row', 'said'), [
    ({'id': 1, 'claim': 'c', 'label': 'TRUE'}, 'field "label": expected SUPPORTS, REFUTES, NOT ENOUGH INFO, found \'TRUE\''),
    ({'id': 1, 'claim': 'c', 'label': 'REFUTES', 'evidence': [[1, 2, 'Page', 3]]}, 'field "evidence": sentence 0: expected [annotation'),
    ({'id': 1, 'claim': 'c', 'label': 'REFUTES', 'evidence': ['Page']}, 'field "evidence": expected a list of lists'),
    ({'id': 1, 'claim': ''}, 'field "claim": expected a text'), ({'claim': 'c', 'label': 'REFUTES'}, 'field "id": missing')])
def test_bad_claims_are_told(tmp_path, row, said):
    rows, bad = published.read('fever', published.lines(tmp_path / 'train.jsonl', {'id': 0, 'claim': 'c'}, row))
    assert len(rows['train']) == 1 and len(bad) == 1 and said in bad[0] and 'train.jsonl:2' in bad[0]


def test_pages_are_called_as_the_claims_call_them(tmp_path):
    # Each file composes its accent in the other file's way.
    pages = [{'id': name, 'text': 'x', 'lines': '0\tA page.'} for name in ('Beyonc\u00e9', 'Zo\u0308e')]
    rows, _ = published.read('fever_wikipedia', published.lines(tmp_path / 'wiki-001.jsonl', *pages))
    claims = [{'id': number, 'claim': 'c', 'label': 'REFUTES', 'evidence': [[[1, 2, name, 0]]]}
              for number, name in enumerate(('Beyonce\u0301', 'Z\u00f6e'))]
    made, _ = published.read('fever', published.lines(tmp_path / 'train.jsonl', *claims))
    assert [row['id'].partition('#')[0] for row in rows['passages']] == [claim['gold_docids'][0] for claim in made['train']]
