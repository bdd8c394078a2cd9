"""Documents: read from JSON lines, tables, plain text, Markdown, HTML, PDF and Word files, or a folder of them."""

import dataclasses
import os
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any

from atlas_jax import errors
from atlas_jax.corpus import markup, office
from atlas_jax.io import compressed, file_list, jsonl, table

_JSON_LINES, _PLAIN, _MARKDOWN, _HTML = ('.jsonl',), ('.txt',), ('.md',), ('.html', '.htm')
_MAX_WORD = 100_000  # characters
_MAX_BYTES = 1 << 26  # of a file that is one document, or a few
SUFFIXES = _JSON_LINES + _PLAIN + _MARKDOWN + _HTML + table.SUFFIXES + office.SUFFIXES
_FIELDS = ('id', 'title', 'section', 'text')
_PICTURES = 'a PDF without text holds pictures of pages: recognise their text first (OCR)'


@dataclasses.dataclass(frozen=True)
class Document:
    """A text of any length. `docid` is unique among the documents read; title and section may be empty."""

    docid: str
    title: str
    section: str
    text: str


@dataclasses.dataclass(frozen=True)
class _File:
    """A file to read, and the path that was given for it: itself, or a folder above it."""

    path: pathlib.Path
    given: pathlib.Path

    @property
    def name(self) -> str:
        """The name that its documents without an id are called by."""
        return self.path.relative_to(self.given).as_posix() if self.path != self.given else self.path.name


def read_documents(paths: file_list.Paths) -> Iterator[Document]:
    """Reads files, and all files of folders in the order of their paths, without hidden ones and other kinds; paths as given.

    Any of them may be compressed, such as corpus.jsonl.gz, .bz2 or .zst. Each line of a .jsonl file is a document: `text`, and optionally
    `id`, `title`, `section`; or a line of BEIR or FlashRAG, see `in_our_fields`. A .txt file is one document. A .md or .html file is one
    document for each heading with text below it, a .docx file too, and a .pdf file one for each page. A row of a .csv or .tsv file is one
    document: of the column `text`, with `id`, `title` and `section` as in JSON lines; without that column, of all its cells with their
    columns' names. A document without an id is called by its file, relative to the folder, and its line (file.jsonl:3), heading
    (file.md/heading) or page (file.pdf/page-3).

    Says at the end, on stderr, which fields it has not read and which files of a folder hold no text.

    Raises:
      InputFileError: no such file, a folder without documents, another kind of file, not UTF-8, no text, a field of the wrong type, or an
        id twice. The message names file, line and field.
    """
    # Before the first document is asked for, so that a wrong path is an error at once.
    files = [_File(file, path) for path in file_list.expanded(paths) for file in _files_of(path)]
    return _checked(files, file_list.shown(paths))


def in_our_fields(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a row of another library's corpus with the fields `id`, `title` and `text`; any other row as it is.

    BEIR has `_id` in place of `id`. FlashRAG and Pyserini have `contents` in place of `text`, with the title in its first line.
    """
    if '_id' in row and 'id' not in row:
        row = {'id': row['_id'], **{name: value for name, value in row.items() if name != '_id'}}
    if isinstance(row.get('contents'), str) and 'text' not in row:
        first, _, rest = row['contents'].partition('\n')
        title = first.strip()
        # FlashRAG's Wikipedia has its titles in quotes.
        if len(title) > 2 and title[0] == title[-1] == '"':
            title = title[1:-1].strip()
        row = {name: value for name, value in row.items() if name != 'contents'}
        row['text'] = rest if rest.strip() else first
        if rest.strip() and not row.get('title'):
            row['title'] = title
    return row


def _files_of(path: pathlib.Path) -> list[pathlib.Path]:
    if not path.is_dir():
        if compressed.plain_suffix(path) not in SUFFIXES:
            raise errors.InputFileError(path, f'unknown kind of file "{path.suffix}"', remedy=f'known are {", ".join(SUFFIXES)}, and these '
                                        'compressed (.gz, .bz2, .zst)')
        return [path]
    found = []
    for folder, folders, names in os.walk(path):
        # In place: os.walk then skips the hidden folders, such as .git.
        folders[:] = [name for name in folders if not name.startswith('.')]
        found += [pathlib.Path(folder, name) for name in names if not name.startswith('.')]
    files = sorted(file for file in found if compressed.plain_suffix(file) in SUFFIXES)
    if not files:
        raise errors.InputFileError(path, 'no documents in this folder', remedy=f'it needs files that end in {", ".join(SUFFIXES)}')
    # Said, not refused: a folder of documents often holds images.
    if others := sorted({file.suffix or file.name for file in set(found) - set(files)}):
        print(f'{path}: skipped {len(found) - len(files)} files of other kinds ({", ".join(others[:9])})', file=sys.stderr)
    return files


def _checked(files: list[_File], given: str) -> Iterator[Document]:
    """Yields the files' documents; `given` is what messages call them. Raises InputFileError: see read_documents."""
    seen: set[str] = set()  # ids of all files: they name passages of one store
    empty: list[str] = []
    unread: set[str] = set()
    for file, name, line, document in _read_all(files, unread):
        if document is None:
            empty.append(name)
            continue
        if document.docid in seen:
            # Read again to its first place: keeping the place of every document would cost as much memory as their ids.
            first = next(place for place in _read_all(files, set()) if place[3] and place[3].docid == document.docid)
            place = f'{first[1]}:{first[2]}' if first[2] else first[1]
            raise errors.InputFileError(file.path, f'"{document.docid}" was the id of an earlier document ({place})', line=line, field='id',
                                        remedy='give each document its own')
        seen.add(document.docid)
        yield document
    if not seen:
        what = 'no text in this file' if len(files) == 1 else f'no text in any of its {len(files)} files'
        raise errors.InputFileError(given, what, remedy=_PICTURES if _pictures(empty) else 'remove it or fill it in')
    # Said, not refused: a folder of pages often has some with links alone.
    if empty:
        more = f' and {len(empty) - 9} more' if len(empty) > 9 else ''
        print(f'{given}: skipped {len(empty)} files without text ({", ".join(empty[:9])}{more})'
              f'{f"; {_PICTURES}" if _pictures(empty) else ""}', file=sys.stderr)
    if unread:
        print(f'{given}: not read: the fields {", ".join(sorted(unread)[:9])}', file=sys.stderr)


def _pictures(names: list[str]) -> bool:
    return any(name.lower().endswith('.pdf') for name in names)


def _read_all(files: list[_File], unread: set[str]) -> Iterator[tuple[_File, str, int | None, Document | None]]:
    """Yields (file, its name in the folder, line, document); None as document for a file without text. Adds to `unread` fields."""
    for file in files:
        suffix = compressed.plain_suffix(file.path)
        rows = jsonl.read(file.path) if suffix in _JSON_LINES else table.read(file.path) if suffix in table.SUFFIXES else None
        documents = _read_text(file.path, file.name) if rows is None else _read_rows(rows, file.path, file.name, unread)
        for line, document in documents:
            if document is not None:
                _check_words(document.text, file.path, line)
            yield file, file.name, line, document


def _check_words(text: str, file: pathlib.Path, line: int | None) -> None:
    """Raises InputFileError: a word so long that it is no text; a passage is never cut inside a word, and would hold all of it."""
    if len(text) > _MAX_WORD and (word := re.search(rf'\S{{{_MAX_WORD + 1}}}', text)):
        raise errors.InputFileError(file, f'a word of more than {_MAX_WORD:,} characters ("{word[0][:20]}…")', line=line,
                                    remedy='remove what is no text, such as encoded images')


def _read_rows(rows: Iterator[tuple[int, Any]], file: pathlib.Path, name: str, unread: set[str]) -> Iterator[tuple[int, Document]]:
    """Yields (line, document) of JSON lines or a table; adds to `unread` the names of fields that have no use here."""
    for line, written in rows:
        row = in_our_fields(written)
        if 'text' not in row and compressed.plain_suffix(file) in table.SUFFIXES:
            # A table of facts: each row is a text that names its columns.
            cells = '. '.join(f'{column}: {cell}' for column, cell in row.items() if cell and column not in _FIELDS)
            row = {'title': compressed.plain_name(file).stem, 'text': cells, **{key: row[key] for key in _FIELDS if row.get(key)}}
        if 'text' not in row:
            found = ', '.join(sorted(written)) or 'none'
            raise errors.InputFileError(file, 'missing', line=line, field='text', remedy=f'fields found: {found}')
        if isinstance(row.get('id'), int) and not isinstance(row['id'], bool):  # Python's bool is an int
            row['id'] = str(row['id'])
        fields = {field: _string(row.get(field), file, line, field) for field in _FIELDS}
        # Corpora of BEIR have documents of a title alone.
        if not fields['text'] and fields['title']:
            fields |= {'title': '', 'text': fields['title']}
        if not fields['text']:
            raise errors.InputFileError(file, 'empty', line=line, field='text', remedy='remove the line or fill it in')
        unread.update(row.keys() - set(_FIELDS))
        yield line, Document(fields['id'] or f'{name}:{line}', fields['title'], fields['section'], fields['text'])


def _string(value: object, file: pathlib.Path, line: int, field: str) -> str:
    """Returns a field's text without white space around it; '' for null or a missing field. Raises InputFileError."""
    if value is None:
        return ''
    if not isinstance(value, str):
        raise errors.InputFileError(file, f'expected text, found {type(value).__name__}', line=line, field=field)
    try:
        value.encode()  # JSON can write half of a surrogate pair; UTF-8 cannot
    except UnicodeEncodeError as error:
        raise errors.InputFileError(file, f'half a surrogate pair (character {error.start})', line=line, field=field,
                                    remedy='write the character in full') from error
    return value.strip()


def _read_text(file: pathlib.Path, name: str) -> Iterator[tuple[None, Document | None]]:
    """Yields (None, document), since a section's line is not known; (None, None) for a file without text."""
    suffix = compressed.plain_suffix(file)
    if suffix in office.SUFFIXES:
        title, sections = office.read(file)
    elif suffix in _PLAIN:
        title, sections = '', [('', _decode(file))]
    elif suffix in _MARKDOWN:
        title, sections = markup.read_markdown(_decode(file))
    else:
        title, sections = markup.read_html(_decode(file))
    sections = [(heading, body.strip()) for heading, body in sections if body.strip()]
    if not sections:
        yield None, None
    for docid, (heading, body) in zip(_docids(name, [heading for heading, _ in sections]), sections, strict=True):
        yield None, Document(docid, title or compressed.plain_name(file).stem, heading, body)


def _decode(file: pathlib.Path) -> str:
    with compressed.reading(file) as stream:
        content = stream.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise errors.InputFileError(file, f'more than {_MAX_BYTES:,} bytes', remedy='give text files, and large corpora as JSON lines')
    try:
        # utf-8-sig: some editors put a byte order mark first.
        return content.decode('utf-8-sig').replace('\r\n', '\n').replace('\r', '\n')
    except UnicodeDecodeError as error:
        line = content.count(b'\n', 0, error.start) + 1  # error.start is a byte
        raise errors.InputFileError(file, f'not UTF-8 text ({error.reason})', line=line, remedy='save the file as UTF-8') from error


def _docids(name: str, headings: list[str]) -> Iterator[str]:
    """Yields an id for each section: file/heading in small letters, with a number where that is taken."""
    taken: set[str] = set()
    for heading in headings:
        slug = '-'.join(''.join(letter if letter.isalnum() else ' ' for letter in heading.lower()).split())
        # From the heading and not a running number: it stays when sections are added above.
        docid = base = f'{name}/{slug or "section"}' if heading else name
        number = 1
        while docid in taken:
            number += 1
            docid = f'{base}-{number}'
        taken.add(docid)
        yield docid
