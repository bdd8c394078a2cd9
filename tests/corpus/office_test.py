import functools
import importlib.util
import pathlib
import resource
import signal
import zipfile
import zlib

import pytest

from atlas_jax import errors
from atlas_jax.corpus import office
from tests.testing import office_files

PAGES = b'<< /Type /Pages /Kids [3 0 R] /Count 1 >>'
PAGE = b'<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources << >> >>'
CATALOG = b'<< /Type /Catalog /Pages 2 0 R >>'


def test_lines_of_a_pdf_become_paragraphs(tmp_path):
    office_files.write_pdf(tmp_path / 'a.PDF', ['The exam-\nple ends\nhere.', 'Sec-\nOND'])
    assert office.read(tmp_path / 'a.PDF') == ('', [('page 1', 'The example ends here.'), ('page 2', 'Sec- OND')])


def test_a_word_file_with_a_table(tmp_path):
    office_files.write_docx(tmp_path / 'a.docx', [('Normal', 'Above.'), ('Heading 2', 'Trees')], [['Tree', 'Planted'], ['Quince', '1960']])
    assert office.read(tmp_path / 'a.docx') == ('', [('', 'Above.'), ('Trees', 'Tree, Planted\nQuince, 1960')])


def encrypted(tmp_path):
    import pypdf
    office_files.write_pdf(tmp_path / 'plain.pdf', ['Secret.'])
    writer = pypdf.PdfWriter(tmp_path / 'plain.pdf')
    writer.encrypt('password', algorithm='RC4-128')
    writer.write(tmp_path / 'a.pdf')


def bomb(tmp_path):
    with zipfile.ZipFile(tmp_path / 'a.docx', 'w', zipfile.ZIP_DEFLATED) as archive, archive.open('word/document.xml', 'w') as part:
        for _ in range(300):
            part.write(bytes(1 << 20))


HOSTILE = [
    ('a.pdf', b'no pdf at all', 'damaged, or not what its name says'),
    ('a.pdf', b'', 'damaged, or not what its name says'),
    ('a.docx', b'PK\x03\x04', 'damaged, or not what its name says'),
    ('a.docx', b'\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1', 'before 2007; save it as .docx'),
    ('a.pdf', encrypted, 'encrypted; save it without a password'),
    ('a.docx', bomb, 'unpacks to more than 268,435,456 bytes'),
    # A tree of pages that is its own branch.
    ('a.pdf', office_files.pdf([CATALOG, b'<< /Type /Pages /Kids [2 0 R 2 0 R] /Count 2 >>']), ''),
    # Compressed twice: a few kilobytes unpack to gigabytes.
    ('a.pdf', office_files.pdf([CATALOG, PAGES, PAGE, office_files.stream(
        zlib.compress(zlib.compress(bytes(1 << 28), 1)), b'/Filter [/FlateDecode /FlateDecode]')]), ''),
]


@pytest.mark.parametrize(('name', 'content', 'message'), HOSTILE)
def test_hostile_files_end_with_one_line_or_without_text(tmp_path, name, content, message):
    if callable(content):
        content(tmp_path)
    else:
        (tmp_path / name).write_bytes(content)
    if not message:  # the library repairs what it can
        try:
            assert not office.read(tmp_path / name)[1]
        except errors.InputFileError as error:
            assert str(error).startswith(f'{tmp_path / name}: ') and '\n' not in str(error)
        return
    with pytest.raises(errors.InputFileError, match=message) as caught:
        office.read(tmp_path / name)
    assert str(caught.value).startswith(f'{tmp_path / name}: ') and '\n' not in str(caught.value)


@pytest.mark.parametrize('handler', [signal.SIG_DFL, signal.SIG_IGN], ids=['default', 'ignored'])
def test_a_file_that_takes_too_long_is_named_and_the_next_is_read(tmp_path, monkeypatch, handler):
    # A new process inherits ignored signals; a profiler in this one may have left SIGPROF so.
    monkeypatch.setattr(office, '_process', functools.cache(office._process.__wrapped__))
    before = signal.signal(signal.SIGPROF, handler)
    try:
        _check_slow_file(tmp_path, monkeypatch)
    finally:
        signal.signal(signal.SIGPROF, before)
        office._process().shutdown()


def _check_slow_file(tmp_path, monkeypatch):
    office_files.write_pdf(tmp_path / 'long.pdf', ['word\n' * 20_000])
    office_files.write_pdf(tmp_path / 'short.pdf', ['word'])
    monkeypatch.setattr(office, 'MAX_SECONDS', .05)
    with pytest.raises(errors.InputFileError, match='long.pdf: takes more than'):
        office.read(tmp_path / 'long.pdf')
    monkeypatch.setattr(office, 'MAX_SECONDS', 30)
    assert office.read(tmp_path / 'short.pdf') == ('', [('page 1', 'word')])


def _spoil():
    # As a large file does that leaves the process just below its limit.
    used = int(pathlib.Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 23), resource.getrlimit(resource.RLIMIT_AS)[1]))


def test_what_earlier_files_left_in_the_process_fails_no_good_file(tmp_path, monkeypatch):
    monkeypatch.setattr(office, '_process', functools.cache(office._process.__wrapped__))
    office_files.write_docx(tmp_path / 'good.docx', [('Normal', 'word ' * 2_000_000)])
    (tmp_path / 'bad.docx').write_bytes(b'PK\x03\x04')
    expected = office.read(tmp_path / 'good.docx')
    assert office._process().submit(_spoil).result() is None
    assert office._process().submit(office._read_here, str(tmp_path / 'good.docx'), 30).result()[0]
    assert office.read(tmp_path / 'good.docx') == expected
    before = office._process()
    with pytest.raises(errors.InputFileError, match='damaged'):
        office.read(tmp_path / 'bad.docx')
    assert office.read(tmp_path / 'good.docx') == expected and office._process() is not before
    office._process().shutdown()


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *package: None if name == 'pypdf' else real(name, *package))
    with pytest.raises(errors.ConfigError, match=r'a.pdf: .pdf files need a package .*pip install "atlas-jax\[documents\]"'):
        office.read(tmp_path / 'a.pdf')
    with pytest.raises(errors.InputFileError, match=r'a.pdf.gz: a compressed PDF or Word file; unpack it'):
        office.read(tmp_path / 'a.pdf.gz')
