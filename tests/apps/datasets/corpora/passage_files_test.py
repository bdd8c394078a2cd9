"""Passages in lines: each publisher's format with its pitfalls, and files of another release."""

import bz2
import gzip
import json

import pytest

from atlas_jax import errors
from atlas_jax.apps.datasets import convert_dataset, known_datasets
from atlas_jax.io import jsonl


def lines(*rows) -> bytes:
    """Returns JSON lines."""
    return b''.join(json.dumps(row, ensure_ascii=False).encode() + b'\n' for row in rows)


def made(tmp_path, name: str, files: dict[str, bytes], **options) -> list[tuple[str, str, str, str]]:
    """Converts files; returns (id, title, section, text) of the passages."""
    for file, content in files.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(content)
    settings = {key: options.pop(key) for key in ('max_passages', 'skip_bad') if key in options}
    convert_dataset.convert(known_datasets.SOURCES[name], [tmp_path / file for file in files], tmp_path / 'out', options, workers=1,
                            **settings)
    return [tuple(row[field] for field in ('id', 'title', 'section', 'text')) for file in sorted((tmp_path / 'out').glob('*.jsonl'))
            for _, row in jsonl.read(file)]


def test_passage_files_of_the_original(tmp_path):
    text = lines({'id': '1', 'title': '居里', 'section': 'S', 'text': 'a\0b'}, {'id': 2, 'title': 'T', 'text': 'c', 'embedding': [1]})
    infobox = lines({'id': 'i1', 'title': 'T', 'section': '', 'text': 'name: x'}).replace(b'\n', b'\r\n')
    expected = [('1', '居里', 'S', 'a b'), ('2', 'T', '', 'c'), ('i1', 'T', '', 'name: x')]
    files = {'text-list-100-sec.jsonl': b'\xef\xbb\xbf' + text, 'infobox.jsonl.gz': gzip.compress(infobox)}
    assert made(tmp_path, 'atlas', files) == expected
    (tmp_path / 'folder').mkdir()
    assert made(tmp_path / 'folder', 'atlas', files, max_passages=2) == expected[:2]


DPR = b'id\ttext\ttitle\r\n1\t"""Aaron Aaron ( or ; """"Ahar\xc3\xb4n"""") is"\tAaron\r\n2\tplain text\t"""Hello"" song"\r\n3\tx "y"\tT\r\n'


@pytest.mark.parametrize('name, packed', [('psgs_w100.tsv', DPR), ('psgs_w100.tsv.gz', gzip.compress(DPR)),
                                          ('psgs_w100.tsv.bz2', bz2.compress(DPR))])
def test_dpr(tmp_path, name, packed):
    assert made(tmp_path, 'dpr', {name: packed}) == [
        ('1', 'Aaron', '', '"Aaron Aaron ( or ; ""Aharôn"") is'), ('2', '"Hello" song', '', 'plain text'), ('3', 'T', '', 'x "y"')]


def test_flashrag(tmp_path):
    rows = lines({'id': '0', 'contents': '"Aaron"\nAaron is a prophet.'}, {'id': 1, 'contents': 'no title'})
    assert made(tmp_path, 'flashrag', {'wiki18_100w.jsonl': rows}) == [('0', 'Aaron', '', 'Aaron is a prophet.'), ('1', '', '', 'no title')]


def test_ccnet_is_cut_at_paragraphs(tmp_path):
    long = '\n'.join(' '.join([f'Word{number}'] * 30) + '.' for number in range(5))
    rows = lines({'url': 'http://a', 'digest': 'sha1:ABC', 'title': 'A', 'raw_content': long, 'language_score': .9},
                 {'url': 'http://b', 'title': None, 'raw_content': 'short'}, {'raw_content': 'third', 'title': 'C'},
                 {'raw_content': ' ', 'title': 'D'})
    found = made(tmp_path, 'ccnet', {'en_head_0000.json.gz': gzip.compress(rows)})
    assert [row[0] for row in found] == ['ABC#0', 'ABC#1', 'http://b', 'en_head_0000.json.gz:3']
    assert [len(row[3].split()) for row in found[:2]] == [60, 90] or [len(row[3].split()) for row in found[:2]] == [90, 60]


@pytest.mark.parametrize('name, file, content, message', [
    ('dpr', 'psgs_w100.tsv', lines({'id': 1, 'text': 'x', 'title': 'y'}), ':1: the first line is not id, text, title.*; give psgs_w100'),
    ('dpr', 'psgs_w100.tsv', b'', 'the first line is not'), ('dpr', 'psgs_w100.tsv', b'id\ttext\ttitle\n1\tx\n', ':2: 2 fields, expected'),
    ('dpr', 'psgs_w100.tsv', b'id\ttext\ttitle\n1\tx\ty\n2\t\xff\tz\n', ':3: not UTF-8'),
    ('dpr', 'psgs_w100.tsv.gz', gzip.compress(DPR)[:-9], 'truncated or damaged gzip file'),
    ('dpr', 'psgs_w100.tsv.gz', DPR, 'its name says gzip'),
    ('atlas', 'a.jsonl', DPR, ':1: broken JSON .*; give passage files of Atlas'),
    ('atlas', 'a.jsonl', lines({'id': 'a', 'contents': 'x'}), r'field "text": missing; give passage files .*fields found: contents, id'),
    ('atlas', 'a.jsonl', lines({'id': 'a', 'text': 'x'}, {'id': 'b', 'text': ' '}), ':2, field "text": empty'),
    ('atlas', 'a.jsonl', lines({'id': 'a', 'text': 'x'}, {'id': 'a', 'text': 'y'}), '"a" is the id of two passages .*:1 and .*:2'),
    ('atlas', 'a.jsonl', lines({'id': 'a', 'text': 'x'}, {'id': None, 'text': 'y'}), ':2, field "id": expected text'),
    ('atlas', 'a.jsonl', lines({'id': 'a', 'text': 'x'}) + b'{"id": "b", "text": "\\ud800"}\n', "half a surrogate pair in 'b'"),
    ('atlas', 'a.jsonl', b'', 'the file is empty'), ('flashrag', 'a.jsonl', lines({'id': 'a', 'text': 'x'}), 'field "contents": missing'),
    ('ccnet', 'a.json', lines({'text': 'x'}), 'field "raw_content": missing; give files of CCNet'),
    ('ccnet', 'a.json', lines({'raw_content': 'x'}, {'raw_content': 1}), ':2: raw_content and title must be text')])
def test_other_files_are_told_with_their_line(tmp_path, name, file, content, message):
    with pytest.raises(errors.InputFileError, match=message) as caught:
        made(tmp_path, name, {file: content})
    assert '\n' not in str(caught.value) and str(tmp_path / file) in str(caught.value) and not (tmp_path / 'out').exists()


def test_bad_lines_may_be_skipped(tmp_path):
    rows = lines({'id': 'a', 'text': 'x'}) + b'{"id": \n[1]\n'
    rows += lines({'id': 'b', 'text': ''}, {'id': 'a', 'text': 'y'}, {'id': 'c', 'text': 'z'})
    assert [row[0] for row in made(tmp_path, 'atlas', {'a.jsonl': rows}, skip_bad=4)] == ['a', 'c']
    bad = json.loads((tmp_path / 'out/bad.json').read_text())
    assert [row['line'] for row in bad] == [2, 3, 4, None] and 'id of two passages' in bad[3]['error']
