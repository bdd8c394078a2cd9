"""Passages in lines: the original's passage files, DPR's psgs_w100.tsv, FlashRAG's corpora and
CCNet's documents.
"""

import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from atlas_jax.apps.datasets import records
from atlas_jax.apps.datasets.corpora import file_lines, passage_rows
from atlas_jax.apps.datasets.records import PublishedRecord
from atlas_jax.apps.datasets.source import OutputRow, Piece, RowOrError, Source
from atlas_jax.corpus import documents, passages

_ATLAS = ('passage files of Atlas, such as text-list-100-sec.jsonl and infobox.jsonl (id, title, '
          'section, text)')
_DPR = 'psgs_w100.tsv or psgs_w100.tsv.gz (id, text, title, with tabs between them)'
_FLASHRAG = 'a corpus of FlashRAG or Pyserini, such as wiki18_100w.jsonl (id, contents)'
_CCNET = 'files of CCNet, such as en_head_0000.json.gz (raw_content, title, url)'


def _atlas_passage(record: PublishedRecord) -> list[OutputRow]:
    return [_whole(record, record.fields)]


def _flashrag_passage(record: PublishedRecord) -> list[OutputRow]:
    return [_whole(record, documents.in_our_fields(dict(record.fields)))]


def _whole(record: PublishedRecord, row: Mapping[str, Any]) -> OutputRow:
    """Returns a line's passage, uncut. Raises InputFileError: a field is wrong."""
    docid = str(row['id']) if records.is_whole(row['id']) else row['id']
    title, section, text = (passage_rows.text_field(row, name)
                            for name in ('title', 'section', 'text'))
    if not isinstance(docid, str) or not docid:
        raise record.wrong('id', 'expected text or a whole number')
    if title is None or section is None or text is None:
        raise record.wrong('', 'title, section and text must be text')
    passage = passage_rows.whole(docid, title, section, text)
    if not passage.fields['text']:
        raise record.wrong('text', 'empty', 'remove the line')
    return passage


def _dpr_pieces(files: Sequence[pathlib.Path], options: Mapping[str, Any]) -> list[Piece]:
    found = file_lines.expand(files, ('.tsv',), _DPR)
    for file in found:
        file_lines.require_header(file, ('id', 'text', 'title'), _DPR)
    return file_lines.pieces(found, _dpr_passages)


def _dpr_passages(file: pathlib.Path, start: int, stop: int | None) -> Iterator[RowOrError]:
    for number, line in file_lines.lines(file, start, stop):
        if number == 1 and not start:  # the header
            continue
        passage = _dpr_passage(PublishedRecord(file, {}, number), file_lines.text_of(line))
        yield passage if isinstance(passage, OutputRow) else file_lines.in_whole_file(
            passage, file, start)


def _dpr_passage(record: PublishedRecord, text: str | None) -> RowOrError:
    if text is None:
        return record.wrong('', 'not UTF-8 text')
    fields = [_unquoted(field) for field in text.split('\t')]
    if len(fields) != 3 or not fields[0].strip():
        return record.wrong('', f'{len(fields)} fields, expected id, text and title')
    passage = passage_rows.whole(fields[0].strip(), fields[2], '', fields[1])
    return passage if passage.fields['text'] else record.wrong('text', 'empty')


def _unquoted(field: str) -> str:
    # A csv writer wrote these files: it puts a field with a quote in quotes, and doubles the
    # field's own quotes. No field has a line break.
    is_quoted = len(field) > 1 and field[0] == field[-1] == '"'
    return field[1:-1].replace('""', '"') if is_quoted else field


def _ccnet_passages(record: PublishedRecord, max_words: int) -> Iterable[OutputRow]:
    text, title, digest, url = (passage_rows.text_field(record.fields, name)
                                for name in ('raw_content', 'title', 'digest', 'url'))
    if text is None or title is None:
        raise record.wrong('', 'raw_content and title must be text')
    # One paragraph a line; a blank line lets passages end there.
    text = '\n\n'.join(filter(None, map(str.strip, passage_rows.clean(text).split('\n'))))
    docid = (digest or url or f'{record.path.name}:{record.line}').removeprefix('sha1:')
    return passage_rows.cut(docid, title, '', text, max_words)


SOURCES = (
    file_lines.line_source('atlas', _ATLAS, ('.jsonl',), ('id', 'text'), _atlas_passage),
    Source('dpr', 'passages', '', _DPR, _dpr_pieces),
    file_lines.line_source('flashrag', _FLASHRAG, ('.jsonl',), ('id', 'contents'),
                           _flashrag_passage),
    # Not cut into pieces: a document without a digest is named after its line in the file.
    file_lines.line_source('ccnet', _CCNET, ('.json', '.jsonl'), ('raw_content',), _ccnet_passages,
                           {'max_words': passages.MAX_WORDS}, is_cuttable=False),
)
