import bz2
import dataclasses
import gzip
import json
import os
import re

import hypothesis
import pytest
from hypothesis import strategies

from atlas_jax import errors
from atlas_jax.corpus.documents import Document, read_documents
from tests.testing import office_files

TEXTS = strategies.text(strategies.characters(codec='utf-8'), max_size=200)


def read_one(tmp_path, name, content):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_documents(tmp_path / name))


def test_json_lines(tmp_path):
    rows = [{'id': 7, 'text': ' one '}, {'text': 'two', 'title': 'T', 'section': 'S', 'other': [1]},
            {'id': 'x', 'title': None, 'text': 'a\n\nb'}]
    found = read_one(tmp_path, 'd.jsonl', '\n\n'.join(map(json.dumps, rows)))
    assert found == [Document('7', '', '', 'one'), Document('d.jsonl:3', 'T', 'S', 'two'), Document('x', '', '', 'a\n\nb')]


def test_lines_of_beir(tmp_path, capsys):
    rows = [{'_id': 'MED-10', 'title': 'Statins', 'text': 'A text.', 'metadata': {'url': 'http://x'}}, {'_id': 7, 'title': '', 'text': 'b'},
            {'_id': 'c', 'title': 'A title alone', 'text': '', 'metadata': {}}]
    found = read_one(tmp_path, 'corpus.jsonl', '\n'.join(map(json.dumps, rows)))
    assert found == [Document('MED-10', 'Statins', '', 'A text.'), Document('7', '', '', 'b'), Document('c', '', '', 'A title alone')]
    assert capsys.readouterr().err == f'{tmp_path / "corpus.jsonl"}: not read: the fields metadata\n'


def test_lines_of_flashrag(tmp_path, capsys):
    rows = [{'id': '0', 'contents': '"Albert Bell"\nAlbert Bell was\na clerk.'}, {'id': 1, 'contents': 'one line'},
            {'id': '2', 'contents': 'Title only\n \n'}, {'id': '3', 'title': 'Given', 'contents': 'First\nrest'},
            {'id': '4', 'contents': '"\ntext'}, {'contents': 'T\nno id'}, {'id': '6', 'text': 'a', 'contents': 'b\nc', 'score': 1}]
    found = read_one(tmp_path, 'wiki.jsonl', '\n'.join(map(json.dumps, rows)))
    assert found == [
        Document('0', 'Albert Bell', '', 'Albert Bell was\na clerk.'), Document('1', '', '', 'one line'),
        Document('2', '', '', 'Title only'), Document('3', 'Given', '', 'rest'), Document('4', '"', '', 'text'),
        Document('wiki.jsonl:6', 'T', '', 'no id'), Document('6', '', '', 'a')]
    assert 'not read: the fields contents, score' in capsys.readouterr().err


def test_pages_without_text_are_skipped_and_named(tmp_path, capsys):
    (tmp_path / 'index.html').write_text('<nav>Home</nav>')
    with pytest.raises(errors.InputFileError, match='index.html: no text in this file'):
        list(read_documents(tmp_path / 'index.html'))
    (tmp_path / 'empty.txt').write_text('')
    with pytest.raises(errors.InputFileError, match='no text in any of its 2 files'):
        list(read_documents(tmp_path))
    (tmp_path / 'a.txt').write_text('text')
    assert [each.docid for each in read_documents(tmp_path)] == ['a.txt']
    assert 'skipped 2 files without text (empty.txt, index.html)' in capsys.readouterr().err


def test_plain_text_is_named_after_its_file(tmp_path):
    assert read_one(tmp_path, 'On radium.TXT', '\ufeffA text.\r\n\r\nMore.\n') == [
        Document('On radium.TXT', 'On radium', '', 'A text.\n\nMore.')]


def test_markdown_has_a_document_for_each_section(tmp_path):
    found = read_one(tmp_path, 'a.md', 'Before.\n# Radium\nA metal.\n## Uses\n### Medical use!\nCures.\n## Uses\nAgain.\n## ***\nOdd.')
    assert found == [
        Document('a.md', 'Radium', '', 'Before.\nA metal.'), Document('a.md/medical-use', 'Radium', 'Medical use!', 'Cures.'),
        Document('a.md/uses', 'Radium', 'Uses', 'Again.'), Document('a.md/section', 'Radium', '***', 'Odd.')]


def test_html(tmp_path):
    found = read_one(tmp_path, 'a.htm', '<title>Radium - Lexicon</title><h1>Radium</h1><p>A&amp;B</p><h2>Üses</h2>Cures<h2>Üses</h2>More')
    assert found == [Document('a.htm', 'Radium - Lexicon', '', 'A&B'), Document('a.htm/üses', 'Radium - Lexicon', 'Üses', 'Cures'),
                     Document('a.htm/üses-2', 'Radium - Lexicon', 'Üses', 'More')]


def test_several_paths_in_their_order(tmp_path):
    for name in ('b/x.txt', 'b/y.jsonl.gz', 'a.jsonl', 'c.md'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        line = json.dumps({'text': name}).encode()
        (tmp_path / name).write_bytes(gzip.compress(line) if name.endswith('gz') else line if name.endswith('l') else name.encode())
    found = list(read_documents([tmp_path / 'b', tmp_path / 'a.jsonl', str(tmp_path / '*.md')]))
    assert [(each.docid, each.text) for each in found] == [
        ('x.txt', 'b/x.txt'), ('y.jsonl.gz:1', 'b/y.jsonl.gz'), ('a.jsonl:1', 'a.jsonl'), ('c.md', 'c.md')]
    (tmp_path / 'a2.jsonl').write_text('{"text": "t", "id": "a.jsonl:1"}')
    with pytest.raises(errors.InputFileError, match=r'a2.jsonl:1, field "id": "a.jsonl:1" was the id of an earlier document \(a.jsonl:1\)'):
        list(read_documents([tmp_path / 'a.jsonl', tmp_path / 'a2.jsonl']))
    with pytest.raises(errors.InputFileError, match='named twice'):
        list(read_documents([tmp_path / 'a.jsonl', tmp_path / 'a.jsonl']))


def test_folder_in_the_order_of_paths(tmp_path, capsys):
    for name in ('b.txt', 'sub/a.txt', 'sub/deeper/c.md', 'a.html', '.hidden.txt', '.git/x.txt', 'scan.png', 'LICENSE', '1.jsonl'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f'{{"text": "{name}"}}')
    found = list(read_documents(str(tmp_path)))
    assert [each.docid for each in found] == ['1.jsonl:1', 'a.html', 'b.txt', 'sub/a.txt', 'sub/deeper/c.md']
    assert [each.title for each in found] == ['', 'a', 'b', 'a', 'c']
    assert f'{tmp_path}: skipped 2 files of other kinds (.png, LICENSE)' in capsys.readouterr().err


@pytest.mark.parametrize('content, message', [
    ('{"text": "a"}\n{"text": " "}', r'd.jsonl:2, field "text": empty'),
    ('{"title": "a"}', r'd.jsonl:1, field "text": missing'),
    ('{"text": "a", "id": 1}\n\n{"text": "b", "id": "1"}', r'd.jsonl:3, field "id": "1" was the id of an earlier document .d.jsonl:1.'),
    ('{"text": "a", "_id": "x"}\n{"contents": "b", "id": "x"}', r'd.jsonl:2, field "id": "x" was the id of an earlier'),
    ('{"id": "x", "contents": ["b"]}', r'd.jsonl:1, field "text": missing; fields found: contents, id'),
    ('{"text": ["a"]}', r'd.jsonl:1, field "text": expected text, found list'),
    ('{"text": "a", "id": true}', r'field "id": expected text, found bool'),
    ('{"text": "a", "title": {}}', r'field "title": expected text, found dict'),
    (r'{"text": "a \ud83d"}', r'd.jsonl:1, field "text": half a surrogate pair'),
    ('{"text": "a"', r'd.jsonl:1: broken JSON'),
    ('', r'd.jsonl: the file is empty'),
    (b'{"text": "\xff"}', r'd.jsonl:1: not UTF-8'),
])
def test_faulty_json_lines(tmp_path, content, message):
    with pytest.raises(errors.InputFileError, match=message) as caught:
        read_one(tmp_path, 'd.jsonl', content)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name, content, message', [
    ('a.txt', b'fine\nfine\n\xe4\n', 'a.txt:3: not UTF-8'),
    ('a.md', b'\xe4', 'a.md:1: not UTF-8'),
    ('a.txt', ' \n', 'a.txt: no text'),
    ('a.md', '# Title\n## More\n', 'a.md: no text'),
    ('a.html', '<title>T</title><script>let a</script>', 'a.html: no text'),
    ('a.doc', 'x', r'a.doc: unknown kind of file "\.doc"; known are \.jsonl, .*\.txt'),
])
def test_faulty_files(tmp_path, name, content, message):
    with pytest.raises(errors.InputFileError, match=message):
        read_one(tmp_path, name, content)


def test_paths_are_checked_before_anything_is_read(tmp_path):
    with pytest.raises(errors.InputFileError, match='no such file'):
        read_documents(tmp_path / 'missing')
    (tmp_path / 'scan.png').write_text('x')
    with pytest.raises(errors.InputFileError, match='no documents in this folder'):
        read_documents(tmp_path)


def test_ids_are_unique_across_files(tmp_path):
    for name in ('a', 'b'):
        (tmp_path / f'{name}.jsonl').write_text('{"id": "same", "text": "x"}')
    with pytest.raises(errors.InputFileError, match=r'b.jsonl:1, field "id": "same" was the id of an earlier document \(a.jsonl:1\)'):
        list(read_documents(tmp_path))


@hypothesis.settings(max_examples=60, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(TEXTS, strategies.sampled_from(['txt', 'md', 'html']))
def test_any_text_file_is_read_or_refused(tmp_path, text, kind):
    try:
        found = read_one(tmp_path, f'any.{kind}', text)
    except errors.InputFileError as error:
        assert 'no text' in str(error)
        found = []
    assert len({each.docid for each in found}) == len(found)
    assert all(each.text == each.text.strip() != '' and each.title for each in found)
    if kind == 'txt':
        assert ' '.join(each.text for each in found).split() == text.removeprefix('\ufeff').split()


@hypothesis.settings(max_examples=60, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(strategies.binary(max_size=80), strategies.sampled_from(['txt', 'md', 'html', 'jsonl']))
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path, content, kind):
    try:
        read_one(tmp_path, f'any.{kind}', content)
    except errors.InputFileError as error:
        assert re.fullmatch(r'[^\n]*any\.\w+[^\n]*', str(error))


@pytest.mark.parametrize('name', ['x.txt', 'x.md', 'x.html', 'x.jsonl'])
def test_a_word_that_is_no_text_is_refused(tmp_path, name):
    word = 'x' * 100_001
    with pytest.raises(errors.InputFileError, match='a word of more than 100,000 characters'):
        read_one(tmp_path, name, json.dumps({'text': f'a {word} b'}) if name.endswith('l') and 'json' in name else f'a {word} b')
    # An address or an image inside a tag is not text.
    assert len(read_one(tmp_path, 'y.html', f'<p>a <img src="data:{word}"> b</p>')) == 1


@pytest.mark.parametrize('name', ['x.txt', 'x.md', 'x.html', 'x.jsonl'])
def test_what_is_no_file_is_refused(tmp_path, name):
    with open(tmp_path / name, 'wb') as file:
        file.truncate(1 << 38)
    with pytest.raises(errors.InputFileError, match='expected at most|more than'):
        list(read_documents(tmp_path / name))
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    for path in (tmp_path / name, tmp_path):  # in a folder of documents too
        with pytest.raises(errors.InputFileError, match='no regular file'):
            list(read_documents(path))


def test_tables(tmp_path, capsys):
    found = read_one(tmp_path, 'corpus.tsv', 'ID\tText\tTitle\tlang\n7\ta, b\tT\ten\n\n8\tc\n')
    assert found == [Document('7', 'T', '', 'a, b'), Document('8', '', '', 'c')]
    assert 'not read: the fields lang' in capsys.readouterr().err
    # Without a text column, the row itself becomes the text.
    found = read_one(tmp_path, 'trees.csv', '\ufeffTree;Planted;Note\nBoskoop;1934;"old; tall"\nQuince;;\n')
    assert found == [Document('trees.csv:2', 'trees', '', 'tree: Boskoop. planted: 1934. note: old; tall'),
                     Document('trees.csv:3', 'trees', '', 'tree: Quince')]


def test_a_pdf_and_a_word_file_among_others(tmp_path, capsys):
    office_files.write_pdf(tmp_path / 'book.pdf', ['First page.', '', 'Third page.'])
    office_files.write_pdf(tmp_path / 'scan.pdf', [''])
    office_files.write_docx(tmp_path / 'notes.docx', [
        ('Title', 'Notes'), ('Normal', 'Above.'), ('Heading 1', 'Bees'), ('Normal', 'Hives.')])
    assert [dataclasses.astuple(each) for each in read_documents(tmp_path)] == [
        ('book.pdf/page-1', 'book', 'page 1', 'First page.'), ('book.pdf/page-3', 'book', 'page 3', 'Third page.'),
        ('notes.docx', 'Notes', '', 'Above.'), ('notes.docx/bees', 'Notes', 'Bees', 'Hives.')]
    assert 'skipped 1 files without text (scan.pdf); a PDF without text holds pictures of pages' in capsys.readouterr().err
    with pytest.raises(errors.InputFileError, match=r'scan.pdf: no text in this file; .*\(OCR\)'):
        list(read_documents(tmp_path / 'scan.pdf'))


def test_compressed_files_are_read_as_what_they_hold(tmp_path):
    (tmp_path / 'a.jsonl.gz').write_bytes(gzip.compress(b'{"text": "one"}'))
    (tmp_path / 'b.md.bz2').write_bytes(bz2.compress(b'Text.\n\n# T\n\n## S\n\nMore.'))
    (tmp_path / 'c.txt.gz').write_bytes(gzip.compress(b'Plain.'))
    (tmp_path / 'd.tar.gz').write_bytes(gzip.compress(b'no text'))
    assert [(found.docid, found.title, found.text) for found in read_documents(tmp_path)] == [
        ('a.jsonl.gz:1', '', 'one'), ('b.md.bz2', 'T', 'Text.'), ('b.md.bz2/s', 'T', 'More.'), ('c.txt.gz', 'c', 'Plain.')]
    with pytest.raises(errors.InputFileError, match='unknown kind of file ".gz"; known are .*compressed'):
        read_documents(tmp_path / 'd.tar.gz')
    (tmp_path / 'e.txt.gz').write_bytes(gzip.compress(b'Plain.')[:-4])
    with pytest.raises(errors.InputFileError, match='e.txt.gz: truncated or damaged gzip file'):
        list(read_documents(tmp_path / 'e.txt.gz'))
