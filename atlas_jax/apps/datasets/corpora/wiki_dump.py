"""Wikipedia's XML dumps: cut into parts that can be read separately, and streamed page by page.

No entity is expanded, and memory holds one page at a time.
"""

import bz2
import dataclasses
import pathlib
import re
import xml.parsers.expat
from collections.abc import Iterator
from xml.sax import saxutils

from atlas_jax import errors
from atlas_jax.apps.datasets.corpora import file_lines
from atlas_jax.io import compressed

WHAT = 'a dump of articles, such as enwiki-20181220-pages-articles-multistream.xml.bz2'
_PART_BYTES = 16 << 20  # compressed: bzip2 unpacks them to about 70 MB of XML
_BLOCK_BYTES = 1 << 20
_HEAD_BYTES = 1 << 20
_STREAM = b'BZh91AY&SY'
_MOST_TEXT = 16 << 20  # characters of a page; MediaWiki allows 2 MiB
_ROOT = 'mediawiki'
# Elements below the page whose text is kept, and the field of Page that holds it.
_KEPT = {('title', ): 'title', ('ns', ): 'namespace', ('id', ): 'page_id',
         ('revision', 'text'): 'text', ('revision', 'model'): 'model'}
_NAMESPACE = re.compile(r'<namespace key="(-?\d+)"[^<>]{0,200}>([^<]{1,200})</namespace>')
_MEDIA, _FILE, _CATEGORY = -2, 6, 14


@dataclasses.dataclass
class Page:
    """A page of a dump, with the text of its last revision."""

    title: str = ''
    namespace: str = ''
    page_id: str = ''
    text: str = ''
    model: str = ''
    is_redirect: bool = False
    is_stub: bool = False


def link_namespaces(file: pathlib.Path) -> tuple[str, ...]:
    """Returns the names, in lower case, of the namespaces whose links are not text: files and
    categories, in English and in the wiki's language.

    Raises InputFileError: the file is not a dump.
    """
    with compressed.reading(file) as stream:
        head = stream.read(_HEAD_BYTES).decode(errors='replace')
    if f'<{_ROOT}' not in head[:4096]:
        raise errors.InputFileError(file, f'not an XML dump (it does not begin with <{_ROOT}>)',
                                    remedy=f'give {WHAT}')
    names = {'file', 'image', 'category', 'media'}
    names |= {
        saxutils.unescape(name).lower()
        for key, name in _NAMESPACE.findall(head)
        if int(key) in (_MEDIA, _FILE, _CATEGORY)}
    return tuple(sorted(names))


def parts(file: pathlib.Path) -> list[tuple[int, int | None]]:
    """Returns [(first byte, byte behind the last or None)] of parts that hold whole pages.

    A multistream dump is cut between its streams, which are found by their first bytes, so the
    index is not needed. A plain XML file is cut between pages. A file of one stream is one part.

    Raises InputFileError: see compressed.reading.
    """
    is_plain = not file_lines.is_compressed(file)
    with open(file, 'rb') as raw:
        if not is_plain and raw.read(3) != b'BZh':
            return [(0, None)]
    starts, size = [0], file.stat().st_size
    while (place := starts[-1] + _PART_BYTES) < size:
        start = _next_start(file, place, is_plain)
        if start is None:
            break
        starts.append(start)
    return list(zip(starts, [*starts[1:], None], strict=True))


def _next_start(file: pathlib.Path, place: int, is_plain: bool) -> int | None:
    """Returns the first byte from `place` on where a page begins (in a compressed file: a stream
    that begins with a page), or None.
    """
    # Texts escape <, so <page> is always a tag. A stream's ten bytes do not occur by chance.
    wanted = b'<page>' if is_plain else _STREAM
    with open(file, 'rb') as raw:
        raw.seek(place)
        before = b''
        while block := raw.read(_BLOCK_BYTES):
            window, start = before + block, place - len(before)
            found = window.find(wanted)
            while found >= 0:
                if is_plain or _begins_with_page(file, start + found):
                    return start + found
                found = window.find(wanted, found + 1)
            place += len(block)
            before = window[1 - len(wanted):]
    return None


def _begins_with_page(file: pathlib.Path, start: int) -> bool:
    """Returns whether a stream begins with a page. Parallel compressors start streams anywhere."""
    with open(file, 'rb') as raw:
        raw.seek(start)
        unpacked, head = bz2.BZ2Decompressor(), b''
        # bzip2 unpacks nothing before a whole block is read.
        while len(head) < 64 and not unpacked.eof and (block := raw.read(1 << 16)):
            try:
                head += unpacked.decompress(block, max_length=64)
            except OSError:
                return False
    return head.lstrip().startswith(b'<page>')


def pages(file: pathlib.Path, start: int,
          stop: int | None) -> Iterator[Page | errors.InputFileError]:
    """Yields the pages of a part, in all namespaces; a page with too long a text gives its error,
    then itself with no text.

    Raises InputFileError: the file is truncated, is broken XML, or has a document type. No dump has
    one, and its entities could fill the memory.
    """
    reader = _PageReader(file)
    if start:
        reader.feed(f'<{_ROOT}>'.encode())
    with compressed.reading(file, start, stop) as stream:
        while block := stream.read1(_BLOCK_BYTES):
            reader.feed(block)
            yield from reader.take()
    reader.finish(is_last=stop is None)
    yield from reader.take()


class _PageReader:
    """Collects pages from expat's events."""

    def __init__(self, file: pathlib.Path):
        self._file = file
        self._path: list[str] = []  # open tags, outermost first
        self._page, self._pages = Page(), list[Page | errors.InputFileError]()
        self._pieces: list[str] = []
        self._size = 0
        self._ended = False
        self._parser = xml.parsers.expat.ParserCreate('UTF-8')
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._data
        self._parser.StartDoctypeDeclHandler = self._refuse

    def feed(self, block: bytes) -> None:
        """Parses the next block. Raises InputFileError: the XML is broken."""
        try:
            # White space may follow the end of the document.
            if not self._ended or block.strip():
                self._parser.Parse(block, False)
        except (xml.parsers.expat.ExpatError, UnicodeError) as error:
            raise errors.InputFileError(self._file,
                                        f'broken XML {self._where("at its beginning")} ({error})',
                                        remedy=f'download it again, or give {WHAT}') from error

    def take(self) -> list[Page | errors.InputFileError]:
        """Returns the pages that have ended since the last call."""
        taken, self._pages = self._pages, []
        return taken

    def finish(self, is_last: bool) -> None:
        """Raises InputFileError: the part does not end between pages."""
        if len(self._path) > (0 if is_last else 1):
            where = self._where('before its first page')
            raise errors.InputFileError(self._file, f'truncated: it ends {where}',
                                        remedy='download it again')

    def _where(self, no_page: str) -> str:
        return f'after the page "{self._page.title[:80]}"' if self._page.title else no_page

    def _refuse(self, *_) -> None:
        raise errors.InputFileError(self._file, 'a document type, which no dump of Wikipedia has',
                                    remedy=f'give {WHAT}')

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._path.append(name)
        self._pieces, self._size = [], 0
        if self._path[1:] == ['page']:
            self._page = Page()
        elif self._path[1:] == ['page', 'redirect']:
            self._page.is_redirect = True
        elif self._path[1:] == ['page', 'revision', 'text']:
            # Stub dumps have the sizes of texts, but no texts.
            self._page.is_stub = attributes.get('bytes', '0') != '0' and 'deleted' not in attributes

    def _data(self, data: str) -> None:
        if tuple(self._path[2:]) in _KEPT:
            self._size += len(data)
            if self._size <= _MOST_TEXT:  # the rest of a hostile page is not held
                self._pieces.append(data)

    def _end(self, name: str) -> None:
        path = tuple(self._path[2:])
        if self._path[1:2] == ['page'] and path in _KEPT:
            setattr(self._page, _KEPT[path], ''.join(self._pieces))
            self._page.is_stub = self._page.is_stub and not (path[-1] == 'text' and self._pieces)
            if self._size > _MOST_TEXT:
                self._pages.append(errors.InputFileError(
                    self._file, f'the page "{self._page.title[:80]}" has more than {_MOST_TEXT:,} '
                    'characters'))
                self._page.text = ''
        elif self._path[1:] == ['page']:
            self._pages.append(self._page)
        self._path.pop()
        self._pieces, self._size = [], 0
        self._ended = not self._path
