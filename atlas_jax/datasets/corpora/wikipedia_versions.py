"""Wikipedia as other benchmarks hand it out: KILT's knowledge source and FEVER's wiki-pages. Ids begin with the page's name."""

import pathlib
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from atlas_jax.corpus import passages
from atlas_jax.datasets.corpora import file_lines, passage_rows
from atlas_jax.datasets.source import Bad, Piece, Row, Source

_KILT = 'kilt_knowledgesource.json (a line for each page: wikipedia_id, wikipedia_title, text)'
_FEVER = 'the folder wiki-pages of FEVER, or its files wiki-001.jsonl … (id, text, lines)'
_SECTION, _BULLET = 'Section::::', 'BULLET::::'
# FEVER writes brackets as the Penn Treebank does, and its titles with underscores.
_BRACKETS = {'-LRB-': '(', '-RRB-': ')', '-LSB-': '[', '-RSB-': ']', '-LCB-': '{', '-RCB-': '}', '-COLON-': ':', '``': '"', "''": '"'}
_BRACKET = re.compile('|'.join(map(re.escape, _BRACKETS)))
_LINE = re.compile(r'(?:\A|\n)(\d+)\t')
_BEFORE_SPACE = re.compile(r' +([,.;:?!)\]}]|\'s\b|n\'t\b)')
_AFTER_SPACE = re.compile(r'([(\[{]) +')


def _kilt_pieces(files: Sequence[pathlib.Path], options: Mapping[str, Any]) -> list[Piece]:
    found = file_lines.expand(files, ('.json', '.jsonl'), _KILT)
    file_lines.require_fields(found, ('wikipedia_id', 'wikipedia_title', 'text'), _KILT)
    return file_lines.pieces(found, _kilt_pages, **options)


def _kilt_pages(file: pathlib.Path, start: int, stop: int | None, max_words: int) -> Iterator[Row | Bad]:
    for number, row in file_lines.json_rows(file, start, stop, ('wikipedia_id', 'wikipedia_title', 'text')):
        if isinstance(row, Bad):
            yield row
            continue
        page, title, paragraphs = str(row['wikipedia_id']), row['wikipedia_title'], row['text']
        is_whole = isinstance(title, str) and page and isinstance(paragraphs, list)
        if not is_whole or not all(isinstance(part, str) for part in paragraphs):
            yield file_lines.bad(file, start, number, 'expected wikipedia_title as text and text as a list of paragraphs')
            continue
        made = (row for section, text in _kilt_sections(title, paragraphs)
                for row in passage_rows.cut(page, title, section, text, max_words))
        # The page's id and the passage's number on it: gold passages name the page, and recall knows PAGE#N as a piece of PAGE.
        yield from (Row(row.output, {**row.fields, 'id': f'{page}#{place}'}) for place, row in enumerate(made))


def _kilt_sections(title: str, paragraphs: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yields (headings, text): a paragraph `Section::::Life:Early years.` opens a section, the first is the title, lists have bullets."""
    section, kept = '', list[str]()
    for number, paragraph in enumerate(map(str.strip, paragraphs)):
        if number == 0 and paragraph == title.strip():
            continue
        if paragraph.startswith(_SECTION):
            yield section, '\n\n'.join(kept)
            section, kept = paragraph.removeprefix(_SECTION).removesuffix('.').replace(':', ': '), []
        elif paragraph.startswith(_BULLET):
            entry = paragraph.removeprefix(_BULLET).lstrip('- ')
            # Entries follow one another on a line, as in other passages of Wikipedia.
            if entry and kept and number and paragraphs[number - 1].strip().startswith(_BULLET):
                kept[-1] += f'{"" if kept[-1][-1] in ".!?:;," else ";"} {entry}'
            elif entry:
                kept.append(entry)
        elif paragraph:
            kept.append(paragraph)
    yield section, '\n\n'.join(kept)


def _fever_pieces(files: Sequence[pathlib.Path], options: Mapping[str, Any]) -> list[Piece]:
    found = file_lines.expand(files, ('.jsonl',), _FEVER)
    file_lines.require_fields(found, ('id', 'text', 'lines'), _FEVER)
    return file_lines.pieces(found, _fever_pages, **options)


def _fever_pages(file: pathlib.Path, start: int, stop: int | None, max_words: int) -> Iterator[Row | Bad]:
    for number, row in file_lines.json_rows(file, start, stop, ('id', 'lines')):
        if isinstance(row, Bad):
            yield row
            continue
        page, lines = row['id'], row['lines']
        if not isinstance(page, str) or not isinstance(lines, str):
            yield file_lines.bad(file, start, number, 'id and lines must be text')
            continue
        if not page:  # the first line of wiki-001.jsonl is an empty page, and so are redirects
            continue
        page = unicodedata.normalize('NFC', page)  # as the claims' evidence, which writes some accents in another way
        title = fever_text(page.replace('_', ' '))
        yield from passage_rows.cut(page, title, '', ' '.join(filter(None, map(fever_text, _fever_sentences(lines)))), max_words)


def _fever_sentences(lines: str) -> Iterator[str]:
    """Yields the sentences of `number\\tsentence\\tlink\\tlink…` lines; a sentence may hold a line break."""
    starts = list(_LINE.finditer(lines))
    for match, following in zip(starts, [*starts[1:], None], strict=False):
        yield lines[match.end():following.start() if following else None].partition('\t')[0]


def fever_text(text: str) -> str:
    """Returns FEVER's text with its brackets and quotes restored, and without the spaces before punctuation."""
    text = _BRACKET.sub(lambda match: _BRACKETS[match[0]], text)
    return _AFTER_SPACE.sub(r'\1', _BEFORE_SPACE.sub(r'\1', ' '.join(text.split())))


SOURCES = (
    Source('kilt_wikipedia', 'passages', '', _KILT, _kilt_pieces, {'max_words': passages.MAX_WORDS}),
    Source('fever_wikipedia', 'passages', '', _FEVER, _fever_pieces, {'max_words': passages.MAX_WORDS}),
)
