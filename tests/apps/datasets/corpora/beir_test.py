"""BEIR: documents are not cut and keep their ids; the qrels of each split become questions with their relevant documents."""

import gzip

import pytest

from atlas_jax import errors
from atlas_jax.apps.datasets import convert_dataset, known_datasets
from atlas_jax.io import jsonl
from tests.apps.datasets.corpora.passage_files_test import lines

HEADER = b'query-id\tcorpus-id\tscore\n'


@pytest.fixture
def folder(tmp_path):
    """A BEIR folder with two splits."""
    path = tmp_path / 'scifact'
    (path / 'qrels').mkdir(parents=True)
    (path / 'corpus.jsonl').write_bytes(lines(
        {'_id': '4983', 'title': 'Micro', 'text': 'word ' * 300, 'metadata': {}}, {'_id': 'b', 'title': 'only a title', 'text': ''},
        {'_id': 'c', 'text': '居里'}))
    (path / 'queries.jsonl').write_bytes(lines({'_id': '0', 'text': 'what is\nzero', 'metadata': {}}, {'_id': '2', 'text': 'two'},
                                               {'_id': '5', 'text': 'five'}))
    (path / 'qrels/train.tsv').write_bytes(HEADER + b'5\tb\t1\n')
    (path / 'qrels/test.tsv').write_bytes(HEADER.replace(b'\n', b'\r\n') + b'2\tc\t2\r\n0\t4983\t1\r\n2\tb\t1\r\n2\t4983\t0\r\n')
    return path


def _run(name, folder, **options):
    convert_dataset.convert(known_datasets.SOURCES[name], [folder], folder.parent / name, workers=1, **options)
    return {file.stem: [row for _, row in jsonl.read(file)] for file in sorted((folder.parent / name).glob('*.jsonl'))}


def test_documents_stay_whole(folder):
    (folder / 'corpus.jsonl.gz').write_bytes(gzip.compress((folder / 'corpus.jsonl').read_bytes()))
    (folder / 'corpus.jsonl').unlink()
    rows = _run('beir', folder)['passages-00000']
    assert [(row['id'], row['title'], row['text'].strip()) for row in rows] == [
        ('4983', 'Micro', ('word ' * 300).strip()), ('b', '', 'only a title'), ('c', '', '居里')]


def test_each_split_has_its_questions(folder):
    assert _run('beir_queries', folder) == {
        'test': [{'id': '0', 'question': 'what is zero', 'gold_docids': ['4983']},
                 {'id': '2', 'question': 'two', 'gold_docids': ['c', 'b']}],
        'train': [{'id': '5', 'question': 'five', 'gold_docids': ['b']}]}


def test_qrels_with_unknown_ids_are_told(folder):
    with open(folder / 'qrels/test.tsv', 'ab') as file:
        file.write(b'7\tb\t1\n2\tz\t1\n0\tb\n')
    with pytest.raises(errors.InputFileError, match='test.tsv:8: expected a query, a document and a whole number'):
        _run('beir_queries', folder)
    with pytest.raises(errors.InputFileError, match=r'test.tsv:7, field "corpus-id": no document "z" in corpus.jsonl; give corpus and '
                                                    r'qrels of the same release; more than the 1'):
        _run('beir_queries', folder, skip_bad=1)
    with pytest.raises(errors.InputFileError, match='test.tsv:6, field "query-id": no query "7" in queries.jsonl'):
        _run('beir_queries', folder, skip_bad=2)
    assert [row['gold_docids'] for row in _run('beir_queries', folder, skip_bad=3)['test']] == [['4983'], ['c', 'b']]


@pytest.mark.parametrize('name, damage, message', [
    ('beir', lambda path: (path / 'corpus.jsonl').unlink(), 'no corpus.jsonl in this folder; give the folder of a BEIR data set'),
    ('beir', lambda path: (path / 'corpus.jsonl').write_bytes(lines({'id': 1, 'text': 'x'})), 'field "_id": missing'),
    ('beir', lambda path: (path / 'corpus.jsonl').write_bytes(lines({'_id': '1', 'text': ' '})),
     ':1, field "text": neither title nor text'),
    ('beir', lambda path: (path / 'corpus.jsonl').write_bytes(lines({'_id': 1, 'text': 'x'})), ':1: _id, title and text must be text'),
    ('beir_queries', lambda path: (path / 'qrels/test.tsv').write_bytes(b'0 0 4983 1\n'), 'test.tsv:1: the first line is not query-id'),
    ('beir_queries', lambda path: [file.unlink() for file in path.glob('qrels/*')], r'no qrels/\*.tsv in this folder'),
    ('beir_queries', lambda path: (path / 'queries.jsonl').write_bytes(b''), 'queries.jsonl: the file is empty')])
def test_other_folders_are_told(folder, name, damage, message):
    damage(folder)
    with pytest.raises(errors.InputFileError, match=message):
        _run(name, folder)


def test_a_file_in_place_of_the_folder(folder):
    with pytest.raises(errors.InputFileError, match='corpus.jsonl: not a folder; give the folder'):
        convert_dataset.convert(known_datasets.SOURCES['beir_queries'], [folder / 'corpus.jsonl'], folder / 'out')
    with pytest.raises(errors.InputFileError, match='2 files; give the folder'):
        convert_dataset.convert(known_datasets.SOURCES['beir'], [folder, folder], folder / 'out')
