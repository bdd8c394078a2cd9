"""Reads documents from JSON lines, tables, plain text, Markdown, HTML, PDF and Word files."""

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
_MAX_BYTES = 1 << 26  # limit for a text, Markdown or HTML file
SUFFIXES = _JSON_LINES + _PLAIN + _MARKDOWN + _HTML + table.SUFFIXES + office.SUFFIXES
_FIELDS = ('id', 'title', 'section', 'text')
_PICTURES = 'a PDF without text holds pictures of pages: recognise their text first (OCR)'


@dataclasses.dataclass(frozen=True)
class Document:
    """A text of any length, with a docid that is unique among the documents read.

    Title and section may be empty.
    """

    docid: str
    title: str
    section: str
    text: str


@dataclasses.dataclass(frozen=True)
class _File:
    """A file to read, and the path given for it: its own, or that of a folder above it."""

    path: pathlib.Path
    given: pathlib.Path

    @property
    def name(self) -> str:
        """The name from which documents without an id get theirs."""
        return (self.path.name if self.path == self.given
                else self.path.relative_to(self.given).as_posix())


def read_documents(paths: file_list.Paths) -> Iterator[Document]:
    """Yields the documents of files, and of all files in folders in the order of their paths.

    Files in folders are skipped if they are hidden or of another kind. Files may be compressed,
    such as corpus.jsonl.gz, .bz2 or .zst.

    - .jsonl: a document a line, with `text` and optionally `id`, `title` and `section`; lines of
      BEIR and FlashRAG are read too (see `in_our_fields`).
    - .csv, .tsv: a document a row, with the same columns; without a column `text`, the text is all
      cells with their columns' names.
    - .txt: one document.
    - .md, .html, .docx: a document for each heading with text below it.
    - .pdf: a document a page.

    A document without an id is named by its file, relative to the folder, and its line
    (file.jsonl:3), heading (file.md/heading) or page (file.pdf/page-3).

    Prints at the end, on stderr, the fields that were not read and the files without text.

    Raises:
      InputFileError: a missing file, a folder without documents, another kind of file, text that is
        not UTF-8, no text, a field of the wrong type, or a repeated id. The message names file,
        line and field.
    """
    # Paths are checked at once, not when the first document is asked for.
    files = [_File(file, path) for path in file_list.expanded(paths) for file in _files_of(path)]
    return _checked(files, file_list.summary(paths))


def in_our_fields(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a row of BEIR, FlashRAG or Pyserini with our fields; other rows are unchanged.

    BEIR has `_id` in place of `id`. FlashRAG and Pyserini have `contents` in place of `text`, with
    the title in its first line.
    """
    if '_id' in row and 'id' not in row:
        row = {'id': row['_id'], **{name: value for name, value in row.items() if name != '_id'}}
    if isinstance(row.get('contents'), str) and 'text' not in row:
        first, _, rest = row['contents'].partition('\n')
        title = first.strip()
        # FlashRAG's Wikipedia quotes its titles.
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
            raise errors.InputFileError(
                path, f'unknown kind of file "{path.suffix}"',
                remedy=f'known are {", ".join(SUFFIXES)}, and these compressed (.gz, .bz2, .zst)')
        return [path]
    found = []
    for folder, folders, names in os.walk(path):
        # Changed in place, so that os.walk skips hidden folders such as .git.
        folders[:] = [name for name in folders if not name.startswith('.')]
        found += [pathlib.Path(folder, name) for name in names if not name.startswith('.')]
    files = sorted(file for file in found if compressed.plain_suffix(file) in SUFFIXES)
    if not files:
        raise errors.InputFileError(path, 'no documents in this folder',
                                    remedy=f'it needs files that end in {", ".join(SUFFIXES)}')
    # A note, not an error: folders of documents often hold images.
    if others := sorted({file.suffix or file.name for file in set(found) - set(files)}):
        print(f'{path}: skipped {len(found) - len(files)} files of other kinds '
              f'({", ".join(others[:9])})', file=sys.stderr)
    return files


def _checked(files: list[_File], given: str) -> Iterator[Document]:
    """Yields the files' documents; messages about all files name `given`.

    Raises InputFileError: see read_documents.
    """
    seen: set[str] = set()  # ids of all files
    empty: list[str] = []
    unread: set[str] = set()
    for file, name, line, document in _read_all(files, unread):
        if document is None:
            empty.append(name)
            continue
        if document.docid in seen:
            # The files are read again for the first place: keeping the places of all documents
            # would take as much memory as their ids.
            first, at = next((name, at) for _, name, at, other in _read_all(files, set())
                             if other and other.docid == document.docid)
            raise errors.InputFileError(
                file.path, f'"{document.docid}" was the id of an earlier document '
                f'({f"{first}:{at}" if at else first})', line=line, field='id',
                remedy='give each document its own')
        seen.add(document.docid)
        yield document
    if not seen:
        what = ('no text in this file' if len(files) == 1
                else f'no text in any of its {len(files)} files')
        raise errors.InputFileError(
            given, what, remedy=_PICTURES if _pictures(empty) else 'remove it or fill it in')
    # A note, not an error: folders of pages often have some with links only.
    if empty:
        more = f' and {len(empty) - 9} more' if len(empty) > 9 else ''
        print(f'{given}: skipped {len(empty)} files without text ({", ".join(empty[:9])}{more})'
              f'{f"; {_PICTURES}" if _pictures(empty) else ""}', file=sys.stderr)
    if unread:
        print(f'{given}: not read: the fields {", ".join(sorted(unread)[:9])}', file=sys.stderr)


def _pictures(names: list[str]) -> bool:
    return any(name.lower().endswith('.pdf') for name in names)


def _read_all(files: list[_File],
              unread: set[str]) -> Iterator[tuple[_File, str, int | None, Document | None]]:
    """Yields (file, its name, line, document); the document is None for a file without text.

    Adds the names of fields that are not read to `unread`.
    """
    for file in files:
        suffix = compressed.plain_suffix(file.path)
        documents: Iterator[tuple[int | None, Document | None]]
        if suffix in _JSON_LINES + table.SUFFIXES:
            rows = (jsonl if suffix in _JSON_LINES else table).read(file.path)
            documents = _read_rows(rows, file.path, file.name, unread)
        else:
            documents = _read_text(file.path, file.name)
        for line, document in documents:
            if document is not None:
                _check_words(document.text, file.path, line)
            yield file, file.name, line, document


def _check_words(text: str, file: pathlib.Path, line: int | None) -> None:
    """Raises InputFileError: a word is too long to be text; a passage would have to hold all of it.
    """
    if len(text) > _MAX_WORD and (word := re.search(rf'\S{{{_MAX_WORD + 1}}}', text)):
        raise errors.InputFileError(
            file, f'a word of more than {_MAX_WORD:,} characters ("{word[0][:20]}…")', line=line,
            remedy='remove everything that is not text, such as encoded images')


def _read_rows(rows: Iterator[tuple[int, Any]], file: pathlib.Path, name: str,
               unread: set[str]) -> Iterator[tuple[int, Document]]:
    """Yields (line, document) of JSON lines or a table; adds names of unread fields to `unread`."""
    for line, written in rows:
        row = in_our_fields(written)
        if 'text' not in row and compressed.plain_suffix(file) in table.SUFFIXES:
            # A table of facts becomes texts that name its columns.
            cells = '. '.join(f'{column}: {cell}' for column, cell in row.items()
                              if cell and column not in _FIELDS)
            row = {'title': compressed.plain_name(file).stem, 'text': cells,
                   **{key: row[key] for key in _FIELDS if row.get(key)}}
        if 'text' not in row:
            found = ', '.join(sorted(written)) or 'none'
            raise errors.InputFileError(file, 'missing', line=line, field='text',
                                        remedy=f'fields found: {found}')
        if isinstance(row.get('id'), int) and not isinstance(row['id'], bool):
            row['id'] = str(row['id'])
        fields = {field: _string(row.get(field), file, line, field) for field in _FIELDS}
        # Some of BEIR's documents have only a title.
        if not fields['text'] and fields['title']:
            fields |= {'title': '', 'text': fields['title']}
        if not fields['text']:
            raise errors.InputFileError(file, 'empty', line=line, field='text',
                                        remedy='remove the line or fill it in')
        unread.update(row.keys() - set(_FIELDS))
        yield line, Document(fields['id'] or f'{name}:{line}', fields['title'], fields['section'],
                             fields['text'])


def _string(value: object, file: pathlib.Path, line: int, field: str) -> str:
    """Returns a field's text, stripped; '' for null or a missing field. Raises InputFileError."""
    if value is None:
        return ''
    if not isinstance(value, str):
        raise errors.InputFileError(file, f'expected text, found {type(value).__name__}', line=line,
                                    field=field)
    try:
        value.encode()  # JSON can write half of a surrogate pair; UTF-8 cannot
    except UnicodeEncodeError as error:
        raise errors.InputFileError(file, f'half a surrogate pair (character {error.start})',
                                    line=line, field=field,
                                    remedy='write the character in full') from error
    return value.strip()


def _read_text(file: pathlib.Path, name: str) -> Iterator[tuple[None, Document | None]]:
    """Yields (None, document) for each section, whose line is unknown.

    Yields (None, None) for a file without text.
    """
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
    for docid, (heading, body) in zip(_docids(name, [heading for heading, _ in sections]), sections,
                                      strict=True):
        yield None, Document(docid, title or compressed.plain_name(file).stem, heading, body)


def _decode(file: pathlib.Path) -> str:
    with compressed.reading(file) as stream:
        content = stream.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise errors.InputFileError(file, f'more than {_MAX_BYTES:,} bytes',
                                    remedy='give text files, and large corpora as JSON lines')
    try:
        # utf-8-sig, since some editors write a byte order mark.
        return content.decode('utf-8-sig').replace('\r\n', '\n').replace('\r', '\n')
    except UnicodeDecodeError as error:
        line = content.count(b'\n', 0, error.start) + 1
        raise errors.InputFileError(file, f'not UTF-8 text ({error.reason})', line=line,
                                    remedy='save the file as UTF-8') from error


def _docids(name: str, headings: list[str]) -> Iterator[str]:
    """Yields an id for each section: file/heading in lower case, numbered if it is taken."""
    taken: set[str] = set()
    for heading in headings:
        slug = '-'.join(''.join(
            letter if letter.isalnum() else ' ' for letter in heading.lower()).split())
        # Made from the heading, so that it stays when sections are added above.
        docid = base = f'{name}/{slug or "section"}' if heading else name
        number = 1
        while docid in taken:
            number += 1
            docid = f'{base}-{number}'
        taken.add(docid)
        yield docid
