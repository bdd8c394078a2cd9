"""Rows of several files: their numbers, places, questions and normalised words."""

import gzip
import json

import pytest

from atlas_jax import errors
from atlas_jax.apps.datasets import rows
from atlas_jax.apps.datasets.rows import FileRow


def line(**fields) -> FileRow:
    return FileRow('a.jsonl', 7, 3, fields)


def test_rows_are_counted_through_all_files(tmp_path):
    (tmp_path / 'b.jsonl').write_text('\n{"question": "q1"}\n\n{"_id": 5, "contents": "T\\nq2"}\n')
    (tmp_path / 'a.jsonl.gz').write_bytes(gzip.compress(b'{"question": "q3", "id": ""}'))
    found = list(rows.read([tmp_path / 'b.jsonl', tmp_path / 'a.jsonl.gz'], 'reading'))
    assert [(each.row, each.place.rpartition('/')[2], each.docid, each.asked) for each in found] == [
        (0, 'b.jsonl:2', None, 'q1'), (1, 'b.jsonl:4', '5', 'q2'), (2, 'a.jsonl.gz:1', None, 'q3')]


@pytest.mark.parametrize(('fields', 'asked'), [
    ({'question': 'q', 'text': 't'}, 'q'), ({'claim': 'c', 'label': 'SUPPORTS'}, 'c'), ({'input': 'i', 'output': []}, 'i'),
    ({'query': 'x', 'target': 'y'}, 'x'), ({'question': ' ', 'text': 't'}, 't'),
    ({'question': 'q', 'options': {'A': 'one', 'B': 'two', 'C': 3}}, 'q one two'), ({'question': 'q', 'options': ['x', 'y']}, 'q x y'),
    ({'question': 'q', 'options': 'A. x'}, 'q A. x')])
def test_what_a_row_asks(fields, asked):
    assert line(**fields).asked == asked


def test_a_row_that_asks_nothing_is_named():
    with pytest.raises(errors.InputFileError, match=r'^a\.jsonl:7, field "question": missing; .*fields found: answers, id'):
        _ = line(answers=['a'], id=3).asked


@pytest.mark.parametrize(('fields', 'texts'), [
    ({'text': 't'}, ['t']), ({'question': 'q', 'text': 't'}, ['q', 't']),
    ({'question': 'q', 'passages': [{'text': 'p'}, {'title': 'no text'}, 3]}, ['q', 'p']),
    ({'question': 'q', 'ctxs': [{'text': 'c'}]}, ['q', 'c']),
    ({'question': 'q', 'passages': 'none'}, ['q'])])
def test_all_that_a_model_reads(fields, texts):
    assert line(**fields).texts == texts


def test_words_are_normalised():
    assert rows.words('Who—really—wrote “Fiance\u0301” in ２０19?') == ['who', 'really', 'wrote', 'fianc\xe9', 'in', '2019']
    assert rows.words('ラジウムの') == list('ラジウムの') and rows.words('हिन्दी में') == ['हिन्दी', 'में']
    assert rows.words('Straße don\'t') == ['strasse', 'don', 't'] and rows.words('?!') == []
    assert rows.normalised('A  b,\nC.') == 'a b c' and json.dumps(rows.normalised('')) == '""'
