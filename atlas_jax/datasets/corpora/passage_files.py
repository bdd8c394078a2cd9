"""Passages in lines: the original's passage files, DPR's psgs_w100.tsv, FlashRAG's corpora and CCNet's documents."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from atlas_jax import errors
from atlas_jax.corpus import documents, passages
from atlas_jax.datasets.corpora import file_lines, passage_rows
from atlas_jax.datasets.source import Bad, Piece, Row, Source

_ATLAS = 'passage files of Atlas, such as text-list-100-sec.jsonl and infobox.jsonl (id, title, section, text)'
_DPR = 'psgs_w100.tsv or psgs_w100.tsv.gz (id, text, title, with tabs between them)'
_FLASHRAG = 'a corpus of FlashRAG or Pyserini, such as wiki18_100w.jsonl (id, contents)'
_CCNET = 'files of CCNet, such as en_head_0000.json.gz (raw_content, title, url)'
_DPR_HEADER = ['id', 'text', 'title']


def _atlas_pieces(files: Sequence[pathlib.Path], options: Mapping[str, Any]) -> list[Piece]:
    found = file_lines.expand(files, ('.jsonl',), _ATLAS)
    file_lines.require_fields(found, ('id', 'text'), _ATLAS)
    # In the order of the command line: max_passages takes the first, as in the original.
    return file_lines.pieces(found, _atlas_passages)


def _atlas_passages(file: pathlib.Path, start: int, stop: int | None) -> Iterator[Row | Bad]:
    for number, row in file_lines.json_rows(file, start, stop, ('id', 'text')):
        yield row if isinstance(row, Bad) else _whole(file, start, number, row)


def _flashrag_pieces(files: Sequence[pathlib.Path], options: Mapping[str, Any]) -> list[Piece]:
    found = file_lines.expand(files, ('.jsonl',), _FLASHRAG)
    file_lines.require_fields(found, ('id', 'contents'), _FLASHRAG)
    return file_lines.pieces(found, _flashrag_passages)


def _flashrag_passages(file: pathlib.Path, start: int, stop: int | None) -> Iterator[Row | Bad]:
    for number, row in file_lines.json_rows(file, start, stop, ('id', 'contents')):
        yield row if isinstance(row, Bad) else _whole(file, start, number, documents.in_our_fields(row))


def _whole(file: pathlib.Path, start: int, number: int, row: Mapping[str, Any]) -> Row | Bad:
    """Returns a line's passage as it is, or what is bad about it."""
    docid = row['id']
    if isinstance(docid, int) and not isinstance(docid, bool):
        docid = str(docid)
    title, section, text = (passage_rows.text_field(row, name) for name in ('title', 'section', 'text'))
    if not isinstance(docid, str) or not docid:
        return file_lines.bad(file, start, number, 'expected text or a whole number', 'id')
    if title is None or section is None or text is None:
        return file_lines.bad(file, start, number, 'title, section and text must be text')
    made = passage_rows.whole(docid, title, section, text)
    return made if made.fields['text'] else file_lines.bad(file, start, number, 'empty', 'text', 'remove the line')


def _dpr_pieces(files: Sequence[pathlib.Path], options: Mapping[str, Any]) -> list[Piece]:
    found = file_lines.expand(files, ('.tsv',), _DPR)
    for file in found:
        first = next((line for _, line in file_lines.lines(file, 0, None)), b'')
        if (file_lines.text_of(first) or '').split('\t') != _DPR_HEADER:
            raise errors.InputFileError(file, 'the first line is not id, text, title, with tabs between them', line=1,
                                        remedy=f'give {_DPR}')
    return file_lines.pieces(found, _dpr_passages)


def _dpr_passages(file: pathlib.Path, start: int, stop: int | None) -> Iterator[Row | Bad]:
    for number, line in file_lines.lines(file, start, stop):
        if number == 1 and not start:
            continue
        text = file_lines.text_of(line)
        fields = [] if text is None else [_unquoted(field) for field in text.split('\t')]
        if len(fields) != 3 or not fields[0].strip():
            problem = 'not UTF-8 text' if text is None else f'{len(fields)} fields, expected id, text and title'
            yield file_lines.bad(file, start, number, problem)
            continue
        made = passage_rows.whole(fields[0].strip(), fields[2], '', fields[1])
        yield made if made.fields['text'] else file_lines.bad(file, start, number, 'empty', 'text')


def _unquoted(field: str) -> str:
    # Written by a csv writer: a field with a quote in it stands in quotes, and its quotes are doubled. No field has a line break.
    is_quoted = len(field) > 1 and field[0] == field[-1] == '"'
    return field[1:-1].replace('""', '"') if is_quoted else field


def _ccnet_pieces(files: Sequence[pathlib.Path], options: Mapping[str, Any]) -> list[Piece]:
    found = file_lines.expand(files, ('.json', '.jsonl'), _CCNET)
    file_lines.require_fields(found, ('raw_content',), _CCNET)
    # Not cut: a document without a digest is called by its line.
    return file_lines.pieces(found, _ccnet_documents, cuttable=False, **options)


def _ccnet_documents(file: pathlib.Path, start: int, stop: int | None, max_words: int) -> Iterator[Row | Bad]:
    for number, row in file_lines.json_rows(file, start, stop, ('raw_content',)):
        if isinstance(row, Bad):
            yield row
            continue
        text, title, digest, url = (passage_rows.text_field(row, name) for name in ('raw_content', 'title', 'digest', 'url'))
        if text is None or title is None:
            yield file_lines.bad(file, start, number, 'raw_content and title must be text')
            continue
        # One paragraph a line; a blank line lets passages end there.
        text = '\n\n'.join(filter(None, map(str.strip, passage_rows.clean(text).split('\n'))))
        yield from passage_rows.cut((digest or url or f'{file.name}:{number}').removeprefix('sha1:'), title, '', text, max_words)


SOURCES = (
    Source('atlas', 'passages', '', _ATLAS, _atlas_pieces),
    Source('dpr', 'passages', '', _DPR, _dpr_pieces),
    Source('flashrag', 'passages', '', _FLASHRAG, _flashrag_pieces),
    Source('ccnet', 'passages', '', _CCNET, _ccnet_pieces, {'max_words': passages.MAX_WORDS}),
)
