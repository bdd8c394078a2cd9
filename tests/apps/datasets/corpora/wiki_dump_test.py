"""XML dumps: pages of every kind of file, parts that together hold each page once, and hostile or truncated files."""

import bz2

import pytest

from atlas_jax import errors
from atlas_jax.apps.datasets.corpora import wiki_dump
from tests.testing import wiki_dumps

PAGES = [wiki_dumps.page(number, f'Page {number} & é', f'Text of {number} <ref>x</ref>' * 9) for number in range(1, 12)]
FORMS = ['wiki.xml', 'wiki.xml.bz2', 'wiki-multistream.xml.bz2']


def _titles(path, part=(0, None)):
    return [page.title for page in wiki_dump.pages(path, *part)]


@pytest.mark.parametrize('form', FORMS)
def test_all_pages_are_read(tmp_path, form):
    path = wiki_dumps.write(tmp_path / form, [*PAGES, wiki_dumps.page(99, 'Old', '#REDIRECT [[x]]', redirect='x')])
    pages = list(wiki_dump.pages(path, 0, None))
    assert [page.title for page in pages] == [*(f'Page {number} & é' for number in range(1, 12)), 'Old']
    assert (pages[0].page_id, pages[0].namespace, pages[0].model) == ('1', '0', 'wikitext')
    assert pages[2].text == 'Text of 3 <ref>x</ref>' * 9 and [page.is_redirect for page in pages] == [False] * 11 + [True]
    assert wiki_dump.link_namespaces(path) == ('category', 'datei', 'file', 'image', 'kategorie', 'media')


@pytest.mark.parametrize('form, least', [('wiki.xml', 5), ('wiki.xml.bz2', 1), ('wiki-multistream.xml.bz2', 4)])
def test_parts_hold_each_page_once(tmp_path, monkeypatch, form, least):
    path = wiki_dumps.write(tmp_path / form, PAGES)
    monkeypatch.setattr(wiki_dump, '_PART_BYTES', 300)
    monkeypatch.setattr(wiki_dump, '_BLOCK_BYTES', 77)  # streams and pages begin across the borders of blocks
    parts = wiki_dump.parts(path)
    assert len(parts) >= least and parts[0][0] == 0 and parts[-1][1] is None
    assert [title for part in parts for title in _titles(path, part)] == [f'Page {number} & é' for number in range(1, 12)]


def test_streams_that_begin_inside_a_page_are_no_parts(tmp_path, monkeypatch):
    # Parallel compressors write such streams.
    whole = (wiki_dumps.HEAD + ''.join(PAGES) + wiki_dumps.TAIL).encode()
    path = tmp_path / 'wiki.xml.bz2'
    path.write_bytes(b''.join(bz2.compress(whole[start:start + 500]) for start in range(0, len(whole), 500)))
    monkeypatch.setattr(wiki_dump, '_PART_BYTES', 50)
    parts = wiki_dump.parts(path)
    assert [title for part in parts for title in _titles(path, part)] == [f'Page {number} & é' for number in range(1, 12)]


@pytest.mark.parametrize('form', FORMS)
def test_a_cut_file_is_told(tmp_path, form):
    path = wiki_dumps.write(tmp_path / form, PAGES)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(errors.InputFileError, match=f'{form}: truncated.*download'):
        _titles(path)


@pytest.mark.parametrize('content, message', [
    ('<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><mediawiki>&b;</mediawiki>', 'a document type, which no dump of Wikipedia has'),
    ('<mediawiki><page><title>A</title></pag></mediawiki>', 'broken XML after the page "A"'),
    ('<mediawiki>\0</mediawiki>', 'broken XML at'),
    ('<mediawiki>&b;</mediawiki>', 'broken XML')])
def test_hostile_xml_is_refused(tmp_path, content, message):
    (tmp_path / 'x.xml').write_text(content)
    with pytest.raises(errors.InputFileError, match=f'x.xml: {message}'):
        _titles(tmp_path / 'x.xml')


def test_other_files_are_told(tmp_path):
    for content in (b'{"id": 1}\n', b'', b'<feed>', bz2.compress(b'616:10:AccessibleComputing\n')):
        (tmp_path / 'x').write_bytes(content)
        with pytest.raises(errors.InputFileError, match=r'x: not an XML dump .*; give a dump of articles, such as'):
            wiki_dump.link_namespaces(tmp_path / 'x')


def test_huge_pages_are_left_out_and_stubs_are_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(wiki_dump, '_MOST_TEXT', 300)
    stub = wiki_dumps.page(3, 'Stub', '').replace('<text bytes="0" xml:space="preserve"></text>', '<text id="7" bytes="99" />')
    path = wiki_dumps.write(tmp_path / 'wiki.xml', [wiki_dumps.page(1, 'Large', 'x' * 301), wiki_dumps.page(2, 'Small', 'x' * 300), stub])
    large, page, small, empty = wiki_dump.pages(path, 0, None)
    assert isinstance(large, errors.InputFileError) and 'the page "Large" has more than 300 characters' in str(large) and page.text == ''
    assert small.text == 'x' * 300 and not small.is_stub and empty.is_stub
