"""BEIR folders: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv.

Documents are not cut, because the qrels name whole documents.
"""

import functools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from atlas_jax import errors
from atlas_jax.apps.datasets.corpora import file_lines, passage_rows
from atlas_jax.apps.datasets.records import PublishedRecord
from atlas_jax.apps.datasets.source import OutputRow, Piece, RowOrError, Source

_WHAT = 'the folder of a BEIR data set: corpus.jsonl, queries.jsonl and qrels/*.tsv'
_HEADER = ('query-id', 'corpus-id', 'score')
_FIELDS = ('_id', 'text')


def _file_of(files: Sequence[pathlib.Path], name: str) -> pathlib.Path:
    """Returns a file of a BEIR folder, compressed or not; or the one file that was given.

    Raises InputFileError: it is missing, or several files were given.
    """
    if len(files) != 1:
        raise errors.InputFileError('--from', f'{len(files)} files', remedy=f'give {_WHAT}')
    if not files[0].is_dir():
        return files[0]
    for suffix in ('', '.gz', '.bz2', '.zst'):
        if (file := pathlib.Path(files[0], name + suffix)).is_file():
            return file
    raise errors.InputFileError(files[0], f'no {name} in this folder', remedy=f'give {_WHAT}')


def _corpus_pieces(files: Sequence[pathlib.Path], options: Mapping[str, Any]) -> list[Piece]:
    file = _file_of(files, 'corpus.jsonl')
    file_lines.require_fields([file], _FIELDS, _WHAT)
    return file_lines.pieces([file], file_lines.convert_lines, required=_FIELDS,
                             passages_of=_document)


def _document(record: PublishedRecord) -> list[OutputRow]:
    docid, title, text = (passage_rows.text_field(record.fields, name)
                          for name in ('_id', 'title', 'text'))
    if not docid or title is None or text is None:
        raise record.wrong('', '_id, title and text must be text, and _id not empty')
    if passage_rows.clean(text):
        return [passage_rows.whole(docid, title, '', text)]
    # Some documents have only a title; the text of a passage must not be empty.
    if passage_rows.clean(title):
        return [passage_rows.whole(docid, '', '', title)]
    raise record.wrong('text', 'neither title nor text', 'remove the line')


def _query_pieces(files: Sequence[pathlib.Path], options: Mapping[str, Any]) -> list[Piece]:
    if len(files) != 1 or not files[0].is_dir():
        raise errors.InputFileError(files[0] if files else '--from', 'not a folder',
                                    remedy=f'give {_WHAT}')
    queries, corpus = _file_of(files, 'queries.jsonl'), _file_of(files, 'corpus.jsonl')
    file_lines.require_fields([queries], _FIELDS, _WHAT)
    qrels = sorted(pathlib.Path(files[0], 'qrels').glob('*.tsv'))
    if not qrels:
        raise errors.InputFileError(files[0], 'no qrels/*.tsv in this folder',
                                    remedy=f'give {_WHAT}')
    for file in qrels:
        file_lines.require_header(file, _HEADER, _WHAT)
    return [
        Piece(f'{order:04}', (file, queries, corpus),
              functools.partial(_questions, file, queries, corpus))
        for order, file in enumerate(qrels)]


def _questions(qrels: pathlib.Path, queries: pathlib.Path,
               corpus: pathlib.Path) -> Iterator[RowOrError]:
    """Yields a split's questions that have a relevant document, in the order of queries.jsonl."""
    gold: dict[str, list[str]] = {}
    query_lines: dict[str, int] = {}  # the line that first names a query
    document_lines: dict[str, int] = {}  # the line that first names a document
    for number, line in file_lines.lines(qrels):
        if number == 1:
            continue
        fields = (file_lines.text_of(line) or '').split('\t')
        if len(fields) != 3 or not fields[2].strip().lstrip('-').isdigit():
            yield errors.InputFileError(qrels, 'expected a query, a document and a whole number, '
                                               'with tabs between them', line=number)
            continue
        query_lines.setdefault(fields[0], number)
        document_lines.setdefault(fields[1], number)
        if int(fields[2]) > 0:  # 0: judged as not relevant
            gold.setdefault(fields[0], []).append(fields[1])
    # Found documents are removed; memory holds only the documents that qrels name, not the corpus.
    for record in file_lines.json_lines(corpus, required=('_id',)):
        if isinstance(record, PublishedRecord) and isinstance(record.fields['_id'], str):
            document_lines.pop(record.fields['_id'], None)
    for docid, number in document_lines.items():
        yield errors.InputFileError(qrels, f'no document "{docid[:80]}" in {corpus.name}',
                                    line=number, field='corpus-id',
                                    remedy='give corpus and qrels of the same release')
    for record in file_lines.json_lines(queries, required=_FIELDS):
        if isinstance(record, errors.InputFileError):
            yield record
            continue
        query, text = record.fields['_id'], record.fields['text']
        if not isinstance(query, str) or not isinstance(text, str) or not text.strip():
            yield record.wrong('', '_id and text must be text that is not empty')
        elif query_lines.pop(query, None):
            docids = [docid for docid in gold.get(query, ()) if docid not in document_lines]
            if docids:
                yield OutputRow(qrels.stem, {
                    'id': query, 'question': passage_rows.clean_line(text), 'gold_docids': docids})
    for query, number in query_lines.items():
        yield errors.InputFileError(qrels, f'no query "{query[:80]}" in {queries.name}',
                                    line=number, field='query-id',
                                    remedy='give queries and qrels of the same release')


SOURCES = (
    Source('beir', 'passages', '', 'the folder of a BEIR data set, or its corpus.jsonl',
           _corpus_pieces),
    Source('beir_queries', 'examples', 'qa',
           'the folder of a BEIR data set; its qrels make train, dev and test', _query_pieces),
)
