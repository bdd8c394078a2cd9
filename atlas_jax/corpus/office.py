"""Title and text of PDF and Word files. They are read in a process of their own, for a hostile one may take any time and memory."""

import contextlib
import functools
import importlib.util
import logging
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import re
import resource
import signal
import threading
import zipfile

from atlas_jax import errors
from atlas_jax.io import untrusted

SUFFIXES = ('.pdf', '.docx')
MAX_SECONDS = 60  # of processor time for one file; a thousand pages take about ten
_MAX_WAIT = 600  # seconds until a file is read: the other process may wait for a disk, or for processors
_MAX_MEMORY = 3 << 30
_MAX_UNPACKED = 1 << 28  # bytes of a Word file's parts
_MAX_TEXT = 1 << 26  # characters
_PACKAGES = {'.pdf': 'pypdf', '.docx': 'docx'}
_OLD_WORD = b'\xd0\xcf\x11\xe0'
_SPLIT_WORD = re.compile(r'(?<=[a-zà-ÿ])-\n(?=[a-zà-ÿ])')
# Half of a surrogate pair and control characters cannot be stored, and mean nothing.
_NO_TEXT = re.compile('[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]')

Sections = list[tuple[str, str]]
_turn = threading.Lock()  # the other process reads one file at a time


class _UnreadableError(Exception):
    """Says what is wrong with a file, and what to do."""


def read(path: pathlib.Path) -> tuple[str, Sections]:
    """Returns (title, [(section, text)]): of a PDF a section for each page with text, of a Word file one for each heading.

    Raises:
      InputFileError: encrypted, damaged, of another format, or one that takes too long or too much memory to read.
      ConfigError: the extra `documents` is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise errors.InputFileError(path, 'a compressed PDF or Word file', remedy='unpack it')
    # Here, for the other process has no way to say it in one line.
    if importlib.util.find_spec(_PACKAGES[path.suffix.lower()]) is None:
        raise errors.ConfigError(f'{path}: {path.suffix} files need a package that is missing: pip install "atlas-jax[documents]"')
    try:
        untrusted.require_regular_file(path)
    except ValueError as error:
        raise errors.InputFileError(path, str(error), remedy='give the path of a file') from error
    problem, title, sections = _ask(path)
    if problem:
        raise errors.InputFileError(path, problem)
    return title, sections


def _ask(path: pathlib.Path) -> tuple[str, str, Sections]:
    """Returns what _read_here returns in the other process. Raises InputFileError: it has ended, or needs more than _MAX_WAIT."""
    with _turn:
        pipe, process = _process()
        try:
            pipe.send((str(path), MAX_SECONDS))
            if pipe.poll(_MAX_WAIT):
                return pipe.recv()
            raise TimeoutError
        except BaseException as error:  # Ctrl-C too: what is still to come must not be taken for the next file's
            process.kill()
            _process.cache_clear()  # the next file gets a new process
            if not isinstance(error, EOFError | OSError):
                raise
            raise errors.InputFileError(path, f'takes more than {MAX_SECONDS} seconds or {_MAX_MEMORY >> 30} GiB to read',
                                        remedy='leave the file out, or save it as text') from error


@functools.cache
def _process() -> tuple[multiprocessing.connection.Connection, multiprocessing.process.BaseProcess]:
    # Not forked: a fork of a process with threads may hang. No pool: it holds the other end of its pipes too, so that it would wait for
    # ever for the rest of what a killed process was sending.
    context = multiprocessing.get_context('spawn')
    pipe, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    return pipe, process


def _serve(pipe: multiprocessing.connection.Connection) -> None:
    """Reads files for the process that started this one, until that one ends."""
    _begin()
    with contextlib.suppress(EOFError):
        while True:
            pipe.send(_read_here(*pipe.recv()))


def _begin() -> None:
    """Limits this process, and ends it with the one that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to both; the other one ends this one
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY, _MAX_MEMORY))
    logging.getLogger('pypdf').setLevel(logging.CRITICAL)  # it warns of what it repairs

    def follow() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _read_here(path: str, seconds: float) -> tuple[str, str, Sections]:
    """Returns (problem or '', title, sections); runs in the other process, which the alarm ends."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        title, sections = (_pdf if path.lower().endswith('.pdf') else _docx)(pathlib.Path(path))
        return '', _NO_TEXT.sub(' ', title).strip()[:1000], [(_NO_TEXT.sub(' ', name), _NO_TEXT.sub(' ', text)) for name, text in sections]
    except _UnreadableError as error:
        return str(error), '', []
    # Both libraries raise what their own code happens to meet in a damaged file: a page that is no page is an AttributeError.
    except Exception as error:
        what = ' '.join(str(error).split())[:200] or type(error).__name__
        return f'damaged, or not what its name says ({what}); save it again, or as text', '', []
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _pdf(path: pathlib.Path) -> tuple[str, Sections]:
    import pypdf
    reader = pypdf.PdfReader(path)
    if reader.is_encrypted:
        # Many are encrypted with an empty password, which only forbids to print them. Some ciphers need a package that may be missing.
        with contextlib.suppress(Exception):
            if reader.decrypt(''):
                return _pages(reader)
        raise _UnreadableError('encrypted; save it without a password')
    return _pages(reader)


def _pages(reader) -> tuple[str, Sections]:
    # A title is worth no error: some files have one in an unknown encoding.
    title = ''
    with contextlib.suppress(Exception):
        title = str(reader.metadata.title or '')
    sections, characters = [], 0
    for number, page in enumerate(reader.pages, start=1):
        text = _paragraphs(page.extract_text())
        characters = _counted(characters, text)
        if text:
            sections.append((f'page {number}', text))
    return title, sections


def _paragraphs(text: str) -> str:
    """Joins the lines of each paragraph, and the words that were cut at the end of a line."""
    blocks = re.split(r'\n[ \t]*\n', _SPLIT_WORD.sub('', text))
    return '\n\n'.join(filter(None, (' '.join(block.split()) for block in blocks)))


def _counted(characters: int, text: str) -> int:
    if characters + len(text) > _MAX_TEXT:
        raise _UnreadableError(f'more than {_MAX_TEXT:,} characters of text; split the file')
    return characters + len(text)


def _docx(path: pathlib.Path) -> tuple[str, Sections]:
    with open(path, 'rb') as file:
        if file.read(4) == _OLD_WORD:
            raise _UnreadableError('encrypted, or in the format of Word before 2007; save it as .docx without a password')
    with zipfile.ZipFile(path) as archive:
        # zipfile never unpacks more of a part than its entry says.
        if sum(entry.file_size for entry in archive.infolist()) > _MAX_UNPACKED:
            raise _UnreadableError(f'unpacks to more than {_MAX_UNPACKED:,} bytes; save it without pictures, or as text')
    import docx
    from docx.table import Table
    document = docx.Document(str(path))
    title, heading, characters = document.core_properties.title or '', '', 0
    sections: Sections = []
    lines: list[str] = []
    # In the order of the page, tables between their paragraphs.
    for block in document.iter_inner_content():
        if isinstance(block, Table):
            text = '\n'.join(_row(row) for row in block.rows)
        else:
            text, style = block.text.strip(), (block.style.name or '') if block.style is not None else ''
            if style == 'Title' and text:
                title = title or text
                continue
            # The library gives the built-in styles their English names, whatever the language of the file.
            if style.startswith('Heading') and text:
                sections.append((heading, '\n\n'.join(lines)))
                heading, lines = text, []
                continue
        characters = _counted(characters, text)
        if text:
            lines.append(text)
    return title, [*sections, (heading, '\n\n'.join(lines))]


def _row(row) -> str:
    # A merged cell comes once for each column that it spans.
    texts = [' '.join(cell.text.split()) for cell in row.cells]
    return ', '.join(text for place, text in enumerate(texts) if text and text not in texts[:place][-1:])
