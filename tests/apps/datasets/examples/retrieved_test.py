import pytest

from tests.testing import published


def test_fid_files(tmp_path):
    made = published.asked('fid', tmp_path, 'fid/train.json', 'fid/test.jsonl')
    first = made['train'][0]
    assert (first.query, first.target) == ('question: who discovered radium answer: <extra_id_0>', '<extra_id_0> Marie Curie')
    # In the file's order. FiD pads with empty passages, which the task leaves out.
    assert [(passage.docid, passage.title, passage.text) for passage in first.passages] == [
        ('12', 'Radium', 'Radium was discovered by Marie Curie.'), ('13', 'Oslo', 'Oslo is in Norway.')]
    only = made['test'][0].passages[0]
    assert (only.docid, only.title, only.section) == ('wiki:12', 'Radium', 'History')


def test_the_target_is_the_files_own(tmp_path):
    rows = {'question': 'q', 'answers': ['a', 'b'], 'target': 'b', 'ctxs': []}, {'question': 'r', 'ctxs': []}
    path = published.lines(tmp_path / 'x.jsonl', *rows)
    assert [example.target for example in published.asked('fid', tmp_path, path)['x']] == ['<extra_id_0> b', '']


def test_dpr_training_data(tmp_path):
    made = published.asked('dpr_retriever', tmp_path, 'dpr_retriever/biencoder-nq-dev.json')['dev'][0]
    assert (made.query, made.target) == ('question: who discovered radium answer: <extra_id_0>', '<extra_id_0> Marie Curie')
    # Gold passages first, then hard negatives; random negatives are left out.
    assert [passage.docid for passage in made.passages] == ['12', '13'] and made.gold_docids == ['12']


def test_the_number_of_passages_is_an_option():
    assert len(published.read('fid', 'fid/train.json', n_passages=1)[0]['train'][0]['passages']) == 1
    assert len(published.read('dpr_retriever', 'dpr_retriever/biencoder-nq-dev.json', n_passages=1)[0]['dev'][0]['passages']) == 2


@pytest.mark.parametrize(('row', 'said'), [
    ({'question': 'q', 'answers': [], 'ctxs': []}, 'field "answers": no answer'),
    ({'question': 'q', 'answers': ['a'], 'ctxs': ['text']}, 'field "ctxs": expected a list of objects'),
    ({'question': 'q', 'answers': ['a'], 'ctxs': [{'text': 3}]}, 'field "ctxs[0].text": expected a text'),
    ({'question': 'q', 'answers': ['a'], 'ctxs': [{'id': [], 'text': 't'}]}, 'field "ctxs[0].id": expected a text')])
def test_bad_records_are_told(tmp_path, row, said):
    rows, bad = published.read('fid', published.lines(tmp_path / 'dev.jsonl', {'question': 'q', 'ctxs': []}, row))
    assert len(rows['dev']) == 1 and len(bad) == 1 and said in bad[0] and 'dev.jsonl:2' in bad[0]
