"""Wikipedia as other benchmarks publish it: KILT's knowledge source and FEVER's wiki-pages.

Docids begin with the page's id.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence

from atlas_jax.apps.datasets.corpora import file_lines, passage_rows
from atlas_jax.apps.datasets.records import PublishedRecord
from atlas_jax.apps.datasets.source import OutputRow
from atlas_jax.corpus import passages

_KILT = 'kilt_knowledgesource.json (a line for each page: wikipedia_id, wikipedia_title, text)'
_FEVER = 'the folder wiki-pages of FEVER, or its files wiki-001.jsonl … (id, text, lines)'
_SECTION, _BULLET = 'Section::::', 'BULLET::::'
_KILT_FIELDS = ('wikipedia_id', 'wikipedia_title', 'text')
# FEVER writes brackets as the Penn Treebank does.
_BRACKETS = {
    '-LRB-': '(', '-RRB-': ')', '-LSB-': '[', '-RSB-': ']', '-LCB-': '{', '-RCB-': '}',
    '-COLON-': ':', '``': '"', "''": '"'}
_BRACKET = re.compile('|'.join(map(re.escape, _BRACKETS)))
_LINE = re.compile(r'(?:\A|\n)(\d+)\t')
_BEFORE_SPACE = re.compile(r' +([,.;:?!)\]}]|\'s\b|n\'t\b)')
_AFTER_SPACE = re.compile(r'([(\[{]) +')


def _kilt_passages(record: PublishedRecord, max_words: int) -> Iterator[OutputRow]:
    page, title, paragraphs = (record.fields[name] for name in _KILT_FIELDS)
    page = str(page)
    is_page = isinstance(title, str) and page and isinstance(paragraphs, list)
    if not is_page or not all(isinstance(part, str) for part in paragraphs):
        raise record.wrong('', 'expected wikipedia_title as text and text as a list of paragraphs')
    rows = (row for section, text in _kilt_sections(title, paragraphs)
            for row in passage_rows.cut(page, title, section, text, max_words))
    # Gold passages name the page. Recall counts PAGE#N as a part of PAGE.
    for number, row in enumerate(rows):
        yield OutputRow(row.output, {**row.fields, 'id': f'{page}#{number}'})


def _kilt_sections(title: str, paragraphs: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yields (headings, text) of each section.

    The first paragraph is the title. A paragraph such as `Section::::Life:Early years.` opens a
    section, and entries of lists begin with a bullet.
    """
    section, kept = '', list[str]()
    for number, paragraph in enumerate(map(str.strip, paragraphs)):
        if number == 0 and paragraph == title.strip():
            continue
        if paragraph.startswith(_SECTION):
            yield section, '\n\n'.join(kept)
            headings = paragraph.removeprefix(_SECTION).removesuffix('.')
            section, kept = headings.replace(':', ': '), []
        elif paragraph.startswith(_BULLET):
            entry = paragraph.removeprefix(_BULLET).lstrip('- ')
            # Entries of a list share one line, as in our other passages of Wikipedia.
            if entry and kept and number and paragraphs[number - 1].strip().startswith(_BULLET):
                kept[-1] += f'{"" if kept[-1][-1] in ".!?:;," else ";"} {entry}'
            elif entry:
                kept.append(entry)
        elif paragraph:
            kept.append(paragraph)
    yield section, '\n\n'.join(kept)


def _fever_passages(record: PublishedRecord, max_words: int) -> Iterator[OutputRow]:
    page, lines = record.fields['id'], record.fields['lines']
    if not isinstance(page, str) or not isinstance(lines, str):
        raise record.wrong('', 'id and lines must be text')
    if not page:  # the first line of wiki-001.jsonl, and redirects
        return
    # The claims' evidence composes some accents differently; NFC makes them equal.
    page = unicodedata.normalize('NFC', page)
    text = ' '.join(filter(None, map(fever_text, _fever_sentences(lines))))
    yield from passage_rows.cut(page, fever_text(page.replace('_', ' ')), '', text, max_words)


def _fever_sentences(lines: str) -> Iterator[str]:
    """Yields the sentences of `number\\tsentence\\tlink\\tlink…` lines. A sentence may contain a
    line break.
    """
    starts = list(_LINE.finditer(lines))
    for match, following in zip(starts, [*starts[1:], None], strict=False):
        yield lines[match.end():following.start() if following else None].partition('\t')[0]


def fever_text(text: str) -> str:
    """Returns FEVER's text with brackets and quotes restored, without spaces before punctuation.
    """
    text = _BRACKET.sub(lambda match: _BRACKETS[match[0]], text)
    return _AFTER_SPACE.sub(r'\1', _BEFORE_SPACE.sub(r'\1', ' '.join(text.split())))


SOURCES = (
    file_lines.line_source('kilt_wikipedia', _KILT, ('.json', '.jsonl'), _KILT_FIELDS,
                           _kilt_passages, {'max_words': passages.MAX_WORDS}),
    file_lines.line_source('fever_wikipedia', _FEVER, ('.jsonl',), ('id', 'text', 'lines'),
                           _fever_passages, {'max_words': passages.MAX_WORDS}),
)
