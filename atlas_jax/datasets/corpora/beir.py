"""BEIR folders: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv. The documents stay whole, for the qrels name them."""

import functools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from atlas_jax import errors
from atlas_jax.datasets.corpora import file_lines, passage_rows
from atlas_jax.datasets.source import Bad, Piece, Row, Source

_WHAT = 'the folder of a BEIR data set: corpus.jsonl, queries.jsonl and qrels/*.tsv'
_HEADER = ['query-id', 'corpus-id', 'score']


def _file_of(files: Sequence[pathlib.Path], name: str) -> pathlib.Path:
    """Returns a file of a BEIR folder, compressed or not; or the one file that was given. Raises InputFileError."""
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
    file_lines.require_fields([file], ('_id', 'text'), _WHAT)
    return file_lines.pieces([file], _documents)


def _documents(file: pathlib.Path, start: int, stop: int | None) -> Iterator[Row | Bad]:
    for number, row in file_lines.json_rows(file, start, stop, ('_id', 'text')):
        if isinstance(row, Bad):
            yield row
            continue
        docid, title, text = (passage_rows.text_field(row, name) for name in ('_id', 'title', 'text'))
        if not docid or title is None or text is None:
            yield file_lines.bad(file, start, number, '_id, title and text must be text, and _id not empty')
        # Some corpora have documents of a title alone; the text of a passage may not be empty.
        elif passage_rows.clean(text):
            yield passage_rows.whole(docid, title, '', text)
        elif passage_rows.clean(title):
            yield passage_rows.whole(docid, '', '', title)
        else:
            yield file_lines.bad(file, start, number, 'neither title nor text', 'text', 'remove the line')


def _query_pieces(files: Sequence[pathlib.Path], options: Mapping[str, Any]) -> list[Piece]:
    if len(files) != 1 or not files[0].is_dir():
        raise errors.InputFileError(files[0] if files else '--from', 'not a folder', remedy=f'give {_WHAT}')
    queries, corpus = _file_of(files, 'queries.jsonl'), _file_of(files, 'corpus.jsonl')
    file_lines.require_fields([queries], ('_id', 'text'), _WHAT)
    qrels = sorted(pathlib.Path(files[0], 'qrels').glob('*.tsv'))
    if not qrels:
        raise errors.InputFileError(files[0], 'no qrels/*.tsv in this folder', remedy=f'give {_WHAT}')
    for file in qrels:
        header = next((line for _, line in file_lines.lines(file, 0, None)), b'')
        if (file_lines.text_of(header) or '').split('\t') != _HEADER:
            raise errors.InputFileError(file, f'the first line is not {" ".join(_HEADER)}, with tabs between them', line=1,
                                        remedy=f'give {_WHAT}')
    return [Piece(f'{order:04}', (file, queries, corpus), functools.partial(_questions, file, queries, corpus))
            for order, file in enumerate(qrels)]


def _questions(qrels: pathlib.Path, queries: pathlib.Path, corpus: pathlib.Path) -> Iterator[Row | Bad]:
    """Yields a split's questions that have a relevant document, in the order of queries.jsonl."""
    gold: dict[str, list[str]] = {}
    named: dict[str, int] = {}  # the line that names a query or document first
    documents: dict[str, int] = {}
    for number, line in file_lines.lines(qrels, 0, None):
        if number == 1:
            continue
        fields = (file_lines.text_of(line) or '').split('\t')
        if len(fields) != 3 or not fields[2].strip().lstrip('-').isdigit():
            yield file_lines.bad(qrels, 0, number, 'expected a query, a document and a whole number, with tabs between them')
            continue
        named.setdefault(fields[0], number)
        documents.setdefault(fields[1], number)
        if int(fields[2]) > 0:  # 0: judged, and not relevant
            gold.setdefault(fields[0], []).append(fields[1])
    # Only the documents that are named are held, not the corpus.
    for _, row in file_lines.json_rows(corpus, 0, None, ('_id',)):
        if not isinstance(row, Bad) and isinstance(row['_id'], str):
            documents.pop(row['_id'], None)
    for docid, number in documents.items():
        yield file_lines.bad(qrels, 0, number, f'no document "{docid[:80]}" in {corpus.name}', 'corpus-id',
                             'give corpus and qrels of the same release')
    for number, row in file_lines.json_rows(queries, 0, None, ('_id', 'text')):
        if isinstance(row, Bad):
            yield row
        elif not isinstance(row['_id'], str) or not isinstance(row['text'], str) or not row['text'].strip():
            yield file_lines.bad(queries, 0, number, '_id and text must be text that is not empty')
        elif named.pop(row['_id'], None) and (docids := [docid for docid in gold.get(row['_id'], ()) if docid not in documents]):
            yield Row(qrels.stem, {'id': row['_id'], 'question': passage_rows.clean_line(row['text']), 'gold_docids': docids})
    for query, number in named.items():
        yield file_lines.bad(qrels, 0, number, f'no query "{query[:80]}" in {queries.name}', 'query-id',
                             'give queries and qrels of the same release')


SOURCES = (
    Source('beir', 'passages', '', 'the folder of a BEIR data set, or its corpus.jsonl', _corpus_pieces),
    Source('beir_queries', 'examples', 'qa', 'the folder of a BEIR data set; its qrels make train, dev and test', _query_pieces),
)
