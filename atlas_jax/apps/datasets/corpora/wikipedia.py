"""Wikipedia from its XML dumps: passages from the sections of articles, including lists, and from
infoboxes.
"""

import functools
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from atlas_jax import errors
from atlas_jax.apps.datasets.corpora import passage_rows, wiki_dump, wiki_text
from atlas_jax.apps.datasets.source import OutputRow, Piece, RowOrError, Source
from atlas_jax.corpus import passages

_INFOBOX, _INFOBOX_SECTION = 'infobox', 'Infobox'
_ENTRY = re.compile(rf'\s*{wiki_text.ITEM}[{wiki_text.ITEM}\s]*')


def _pieces(files: Sequence[pathlib.Path], options: Mapping[str, Any]) -> list[Piece]:
    # The index beside a dump is not needed to find its streams.
    dumps = [file for file in files if '-index' not in file.name]
    if not dumps:
        raise errors.InputFileError(files[0] if files else '--from', 'no dump',
                                    remedy=f'give {wiki_dump.WHAT}')
    wiki_text.parser()  # reports a missing package before the first page
    found = []
    for order, file in enumerate(dumps):
        namespaces = wiki_dump.link_namespaces(file)
        found += [
            Piece(f'{order:04}-{start}', (file, ),
                  functools.partial(_passages, file, start, stop, namespaces, **options))
            for start, stop in wiki_dump.parts(file)]
    return found


def _passages(file: pathlib.Path, start: int, stop: int | None, namespaces: tuple[str, ...],
              max_words: int, together: bool) -> Iterator[RowOrError]:
    for page in wiki_dump.pages(file, start, stop):
        if isinstance(page, errors.InputFileError):
            yield page
            continue
        if page.is_stub:
            raise errors.InputFileError(file, f'the page "{page.title[:80]}" has no text: these '
                                              'are stubs', remedy=f'give {wiki_dump.WHAT}')
        # Redirects of old dumps have no tag. Other namespaces hold no articles, other models no
        # wikitext.
        if (page.namespace != '0' or page.is_redirect or page.model not in ('', 'wikitext')
                or page.text[:200].lstrip().lower().startswith('#redirect')
                or wiki_text.is_disambiguation(page.title, page.text)):
            continue
        article = wiki_text.read(page.text, namespaces)
        title = passage_rows.clean_line(page.title)
        for number, (headings, text) in enumerate(article.sections):
            yield from _cut(f'{page.page_id}-{number}', title, ': '.join(headings), text, max_words,
                            passage_rows.OUTPUT)
        for number, entries in enumerate(article.infoboxes):
            text = '\n\n'.join(f'{wiki_text.ITEM}{entry}' for entry in entries)
            yield from _cut(f'{page.page_id}-infobox{number or ""}', title, _INFOBOX_SECTION, text,
                            max_words, passage_rows.OUTPUT if together else _INFOBOX)


def _cut(docid: str, title: str, section: str, text: str, max_words: int,
         output: str) -> Iterator[OutputRow]:
    """Yields the passages of a section, each on one line.

    Entries of lists are joined only after cutting, because cutting needs to find them.
    """
    for row in passage_rows.cut(docid, title, section, text, max_words, output):
        joined = _joined(row.fields['text'])
        if any(letter.isalnum() for letter in joined):  # not the rest of a section of files
            yield OutputRow(output, {**row.fields, 'text': joined})


def _joined(text: str) -> str:
    """Returns a passage on one line, with a semicolon after each entry of a list."""
    first, *entries = _ENTRY.split(text)
    parts = [first, *(part for entry in entries for part in entry.split('\n\n'))]
    joined = ''
    for part in filter(None, map(str.strip, parts)):
        # No semicolon after a full stop or colon.
        joined += part if not joined else f' {part}' if joined[-1] in '.!?:;,…。' else f'; {part}'
    return ' '.join(joined.split())


SOURCES = (Source('wikipedia', 'passages', '', f'{wiki_dump.WHAT}; or .xml, .xml.gz, .xml.zst',
                  _pieces, {'max_words': passages.MAX_WORDS, 'together': False}), )
