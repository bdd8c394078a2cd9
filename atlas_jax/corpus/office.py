"""Extracts title and text of PDF and Word files.

They are read in a separate process, since a hostile file may take any time and memory.
"""

import concurrent.futures
import concurrent.futures.process
import contextlib
import functools
import importlib.util
import itertools
import logging
import multiprocessing
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
MAX_SECONDS = 60  # processor time for one file; a thousand pages take about ten
_MAX_MEMORY = 3 << 30
_MAX_UNPACKED = 1 << 28  # bytes of a Word file's parts
_MAX_TEXT = 1 << 26  # characters
_PACKAGES = {'.pdf': 'pypdf', '.docx': 'docx'}
_OLD_WORD = b'\xd0\xcf\x11\xe0'
_SPLIT_WORD = re.compile(r'(?<=[a-zà-ÿ])-\n(?=[a-zà-ÿ])')
# Control characters and halves of surrogate pairs, which cannot be stored.
_NO_TEXT = re.compile('[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]')

Sections = list[tuple[str, str]]


class _UnreadableError(Exception):
    """The message names the mistake in a file and the remedy."""


def read(path: pathlib.Path) -> tuple[str, Sections]:
    """Returns (title, [(section, text)]), a section for each PDF page with text or Word heading.

    Raises:
      InputFileError: the file is encrypted, damaged, of another format, or takes too much time or
        memory to read.
      ConfigError: the extra `documents` is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise errors.InputFileError(path, 'a compressed PDF or Word file', remedy='unpack it')
    # Checked here: the other process cannot report it in one line.
    if importlib.util.find_spec(_PACKAGES[path.suffix.lower()]) is None:
        raise errors.ConfigError(f'{path}: {path.suffix} files need a package that is missing: '
                                 'pip install "atlas-jax[documents]"')
    try:
        untrusted.require_regular_file(path)
    except ValueError as error:
        raise errors.InputFileError(path, str(error), remedy='give the path of a file') from error
    fresh = not _process.cache_info().currsize
    try:
        return _read_apart(path)
    except errors.InputFileError:
        # What earlier files left in the process, such as memory near its limit, can fail a good
        # file. So a process that has read others is not believed.
        if fresh:
            raise
    return _read_apart(path)


def _read_apart(path: pathlib.Path) -> tuple[str, Sections]:
    """Returns `read` of a file by the process, which ends if the file could not be read."""
    try:
        problem, title, sections = _process().submit(_read_here, str(path), MAX_SECONDS).result()
    except concurrent.futures.process.BrokenProcessPool as error:
        _process.cache_clear()  # the next file gets a new process
        raise errors.InputFileError(
            path, f'takes more than {MAX_SECONDS} seconds or {_MAX_MEMORY >> 30} GiB to read',
            remedy='leave the file out, or save it as text') from error
    if problem:
        _process().shutdown()
        _process.cache_clear()
        raise errors.InputFileError(path, problem)
    return title, sections


@functools.cache
def _process() -> concurrent.futures.ProcessPoolExecutor:
    # Spawned, since a fork of a process with threads may hang.
    return concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context('spawn'), _begin)


def _begin() -> None:
    """Limits this process, and ends it with its parent."""
    # The terminal sends SIGINT to both processes; the parent ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The timer's signal must end this process, even if the parent ignores or blocks it.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY, _MAX_MEMORY))
    logging.getLogger('pypdf').setLevel(logging.CRITICAL)  # it warns of what it repairs

    def follow() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _read_here(path: str, seconds: float) -> tuple[str, str, Sections]:
    """Returns (problem or '', title, sections); runs in the other process, which a timer ends."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        title, sections = (_pdf if path.lower().endswith('.pdf') else _docx)(pathlib.Path(path))
        return '', _NO_TEXT.sub(' ', title).strip()[:1000], [
            (_NO_TEXT.sub(' ', name), _NO_TEXT.sub(' ', text)) for name, text in sections]
    except _UnreadableError as error:
        return str(error), '', []
    # On damaged files both libraries raise all kinds of errors, such as AttributeError.
    except Exception as error:
        what = ' '.join(str(error).split())[:200] or type(error).__name__
        return f'damaged, or not what its name says ({what}); save it again, or as text', '', []
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _pdf(path: pathlib.Path) -> tuple[str, Sections]:
    import pypdf
    reader = pypdf.PdfReader(path)
    if reader.is_encrypted:
        # Many are encrypted with an empty password, to forbid printing. Some ciphers need a package
        # that may be missing.
        with contextlib.suppress(Exception):
            if reader.decrypt(''):
                return _pages(reader)
        raise _UnreadableError('encrypted; save it without a password')
    return _pages(reader)


def _pages(reader) -> tuple[str, Sections]:
    # Without the title if it cannot be read: some have an unknown encoding.
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
    """Joins the lines of each paragraph, and words that were hyphenated at the end of a line."""
    blocks = re.split(r'\n[ \t]*\n', _SPLIT_WORD.sub('', text))
    return '\n\n'.join(filter(None, (' '.join(block.split()) for block in blocks)))


def _counted(characters: int, text: str) -> int:
    if characters + len(text) > _MAX_TEXT:
        raise _UnreadableError(f'more than {_MAX_TEXT:,} characters of text; split the file')
    return characters + len(text)


def _docx(path: pathlib.Path) -> tuple[str, Sections]:
    with open(path, 'rb') as file:
        if file.read(4) == _OLD_WORD:
            raise _UnreadableError('encrypted, or in the format of Word before 2007; save it as '
                                   '.docx without a password')
    with zipfile.ZipFile(path) as archive:
        # zipfile never unpacks more of a part than its entry says.
        if sum(entry.file_size for entry in archive.infolist()) > _MAX_UNPACKED:
            raise _UnreadableError(f'unpacks to more than {_MAX_UNPACKED:,} bytes; save it '
                                   'without pictures, or as text')
    import docx
    from docx.table import Table
    document = docx.Document(str(path))
    title, heading, characters = document.core_properties.title or '', '', 0
    sections: Sections = []
    lines: list[str] = []
    # Paragraphs and tables in the order of the page.
    for block in document.iter_inner_content():
        if isinstance(block, Table):
            text = '\n'.join(_row(row) for row in block.rows)
        else:
            text = block.text.strip()
            style = (block.style.name or '') if block.style is not None else ''
            if style == 'Title' and text:
                title = title or text
                continue
            # python-docx gives built-in styles their English names in all languages.
            if style.startswith('Heading') and text:
                sections.append((heading, '\n\n'.join(lines)))
                heading, lines = text, []
                continue
        characters = _counted(characters, text)
        if text:
            lines.append(text)
    return title, [*sections, (heading, '\n\n'.join(lines))]


def _row(row) -> str:
    # python-docx repeats a merged cell for each column that it spans.
    texts = [' '.join(cell.text.split()) for cell in row.cells]
    return ', '.join(text for text, _ in itertools.groupby(texts) if text)
