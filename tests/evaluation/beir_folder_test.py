"""BEIR folders are read; inconsistent ones are refused with file and line."""

import json
import re

import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.evaluation import beir_folder
from tests.testing import tiny_run


def write(folder, corpus, queries, qrels) -> None:
    (folder / 'qrels').mkdir(parents=True, exist_ok=True)
    (folder / 'corpus.jsonl').write_text('\n'.join(map(json.dumps, corpus)))
    (folder / 'queries.jsonl').write_text('\n'.join(map(json.dumps, queries)))
    (folder / 'qrels' / 'test.tsv').write_text('query-id\tcorpus-id\tscore\n' + qrels)


CORPUS = [{'_id': f'd{i}', 'title': f'thing {i}', 'text': f'The thing {i} is {tiny_run.COLOURS[i % 7]} .', 'metadata': {}}
          for i in range(23)]
# One query is also a document, which must not find itself; the last one belongs to another split.
QUERIES = [*({'_id': f'q{i}', 'text': f'what is thing {i} ?'} for i in range(5)), {'_id': 'd7', 'text': CORPUS[7]['text']},
           {'_id': 'dev', 'text': 'what ?'}]
QRELS = '\n'.join([*(f'q{i}\td{i}\t2\nq{i}\td{i + 1}\t1' for i in range(5)), 'd7\td0\t1', 'd7\td7\t0'])


@pytest.mark.parametrize(('corpus', 'queries', 'qrels', 'says'), [
    (CORPUS, QUERIES, 'q0\td99\t1\nlost\td1\t1', 'test.tsv: it names 1 unknown queries (lost) and 1 unknown documents (d99)'),
    (CORPUS, QUERIES, 'q0\td1', 'test.tsv:2: 2 fields'), ([*CORPUS, CORPUS[0]], QUERIES, QRELS, 'corpus.jsonl:24, field "_id": "d0" was'),
    ([{'_id': 'a b', 'text': 'x'}], QUERIES, QRELS, 'corpus.jsonl:1, field "_id": expected a text without blanks'),
    ([{'text': 'x'}], QUERIES, QRELS, 'corpus.jsonl:1, field "_id": missing'),
    (CORPUS, [{'_id': 'q0'}], QRELS, 'queries.jsonl:1, field "text"'),
    (CORPUS, [{'_id': 'q0', 'text': ' '}], QRELS, 'queries.jsonl:1, field "text"'),
    (CORPUS, [], QRELS, 'queries.jsonl: the file is empty')])
def test_mixed_up_folders(tmp_path, corpus, queries, qrels, says):
    write(tmp_path, corpus, queries, qrels)
    with pytest.raises(errors.InputFileError) as caught:
        beir_folder.read(tmp_path)
    assert says in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize('split', ['dev', '../x', 'a/../../x', ''])
def test_splits_that_are_not_there(tmp_path, split):
    write(tmp_path / 'data', CORPUS, QUERIES, QRELS)
    with pytest.raises(errors.InputFileError):
        beir_folder.read(tmp_path / 'data', split)
    with pytest.raises(errors.InputFileError, match='no such folder'):
        beir_folder.read(tmp_path / 'x')


def test_numbers_are_ids_too(tmp_path):
    write(tmp_path, [{'_id': 7, 'text': 'x'}], [{'_id': 3, 'text': 'y'}], '3\t7\t1')
    folder = beir_folder.read(tmp_path)
    assert folder.queries == {'3': 'y'} and folder.documents == {'7'} and np.isfinite(folder.qrels['3']['7'])


def test_runs_of_others_are_scored(tmp_path):
    write(tmp_path, CORPUS, QUERIES, QRELS)
    folder = beir_folder.read(tmp_path)
    (tmp_path / 'run').write_text('q0 Q0 d1 1 9 x\nq0 Q0 d0 2 8 x\nq0 Q0 d5 3 7 x\ndev Q0 d5 1 1 x\n')
    rows = {row['example_id']: row for row in beir_folder.scored(folder, beir_folder.read_run(folder, tmp_path / 'run'))}
    assert list(rows) == list(folder.queries) and rows['q0']['mrr'] == rows['q0']['map'] == rows['q0']['recall_at_100'] == 1
    assert rows['q0']['precision_at_10'] == .2 and rows['q1']['ndcg_at_10'] == 0
    assert rows['q0']['ndcg_at_10'] == pytest.approx((1 + 2 / np.log2(3)) / (2 + 1 / np.log2(3)))
    for text, says in (('dev Q0 d5 1 1 x', 'it has none of the queries'), ('q0 Q0 lost 1 1 x', 'it names 1 unknown documents (lost)')):
        (tmp_path / 'run').write_text(text)
        with pytest.raises(errors.InputFileError, match=re.escape(says)):
            beir_folder.read_run(folder, tmp_path / 'run')
