"""Reads and writes runs and relevance judgments (qrels) in TREC's formats, and reads BEIR's qrels.
Errors name file and line; files are written atomically.

    run      query Q0 document rank score tag
    qrels    query 0 document relevance
    BEIR     query-id<TAB>corpus-id<TAB>score, with that line as header
"""

import math
import os
import pathlib
from collections.abc import Collection, Iterator, Mapping

from atlas_jax import errors
from atlas_jax.io import atomic, untrusted

Run = dict[str, dict[str, float]]  # query -> document -> score
Qrels = dict[str, dict[str, int]]  # query -> document -> relevance
_MAX_LINE = 1 << 16  # bytes: ids are short
_MOST_RELEVANT = 10**6
_RUN = 'a run has lines of "query Q0 document rank score tag"'
_QRELS = 'qrels have lines of "query 0 document relevance"'
_BEIR = 'qrels of BEIR have lines of query-id, corpus-id and score with tabs between them'


def read_run(path: str | os.PathLike) -> Run:
    """Reads a run, ignoring its ranks: trec_eval orders by score.

    Raises InputFileError: there is no such file, it is empty, a line does not have six fields with
    a finite score, or a query has a document twice.
    """
    run: Run = {}
    for number, line in _lines(path, _RUN):
        parts = line.split()
        if len(parts) != 6:
            raise errors.InputFileError(path, f'{len(parts)} fields, expected 6', line=number,
                                        remedy=_RUN)
        query, document = parts[0], parts[2]
        if document in run.setdefault(query, {}):
            raise errors.InputFileError(path, f'document {document} is listed twice for query '
                                              f'{query}', line=number,
                                        remedy='remove one of the lines')
        run[query][document] = _score(path, number, parts[4])
    return run


def read_qrels(path: str | os.PathLike) -> Qrels:
    """Reads qrels of TREC, or of BEIR if the first line is BEIR's header.

    Raises InputFileError: there is no such file, it is empty, a line has the wrong number of fields
    or a relevance that is not a whole number, or a query has a document twice.
    """
    qrels: Qrels = {}
    is_beir, first = False, True
    for number, line in _lines(path, _QRELS):
        # Some of BEIR's files have "query-id", others "query_id".
        if first and line.lower().replace('_', '-').split()[:2] == ['query-id', 'corpus-id']:
            is_beir, first = True, False
            continue
        first = False
        # BEIR's ids may contain spaces.
        parts = line.split('\t') if is_beir else line.split()
        if len(parts) != (3 if is_beir else 4) or not all(part.strip() for part in parts):
            raise errors.InputFileError(path,
                                        f'{len(parts)} fields, expected {3 if is_beir else 4}',
                                        line=number, remedy=_BEIR if is_beir else _QRELS)
        query, document = parts[0].strip(), parts[-2].strip()
        if document in qrels.setdefault(query, {}):
            raise errors.InputFileError(path,
                                        f'document {document} is judged twice for query {query}',
                                        line=number, remedy='remove one of the lines')
        qrels[query][document] = _relevance(path, number, parts[-1].strip())
    if not qrels:
        raise errors.InputFileError(path, 'no judgment below the header', remedy=_BEIR)
    return qrels


def check_ids(path: str | os.PathLike, qrels: Qrels, queries: Collection[str],
              documents: Collection[str]) -> None:
    """Checks that all queries and documents of qrels are in the data set.

    Raises InputFileError: the qrels from `path` name unknown queries or documents.
    """
    lost = sorted(query for query in qrels if query not in queries)
    missing = sorted({
        document for judged in qrels.values() for document in judged if document not in documents})
    if lost or missing:
        found = [f'{len(ids)} unknown {kind} ({", ".join(ids[:5])}{", …" if len(ids) > 5 else ""})'
                 for kind, ids in (('queries', lost), ('documents', missing)) if ids]
        raise errors.InputFileError(
            path, f'it names {" and ".join(found)}',
            remedy='give corpus, queries and qrels of one release of the data set')


def write_run(path: str | os.PathLike, run: Mapping[str, Mapping[str, float]]) -> None:
    """Writes a run, best documents first.

    Raises:
      ConfigError: an id has white space, which the format cannot hold.
      DiskFullError: the disk is full.
    """
    with atomic.writing(path) as file:
        for query, scores in run.items():
            # trec_eval's order: sort by descending docid, then stably by descending score.
            for rank, document in enumerate(
                    sorted(sorted(scores, reverse=True), key=lambda name: -scores[name]), start=1):
                file.write(f'{_id(query)} Q0 {_id(document)} {rank} {scores[document]!r} '
                           'atlas_jax\n')


def write_qrels(path: str | os.PathLike, qrels: Mapping[str, Mapping[str, int]]) -> None:
    """Writes qrels of TREC.

    Raises:
      ConfigError: an id has white space, which the format cannot hold.
      DiskFullError: the disk is full.
    """
    with atomic.writing(path) as file:
        for query, judged in qrels.items():
            for document, relevance in judged.items():
                file.write(f'{_id(query)} 0 {_id(document)} {relevance}\n')


def _lines(path: str | os.PathLike, remedy: str) -> Iterator[tuple[int, str]]:
    """Yields (number from 1, line) for the lines that are not blank.

    Raises InputFileError: there is no such file, it is not text, or all lines are blank.
    """
    path, empty = pathlib.Path(path), True
    try:
        untrusted.require_regular_file(path)
    except ValueError as error:
        raise errors.InputFileError(path, str(error), remedy=remedy) from error
    if not path.is_file():
        raise errors.InputFileError(path, 'no such file', remedy=remedy)
    with open(path, 'rb') as file:
        for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE + 1), b''), start=1):
            if len(line) > _MAX_LINE:
                raise errors.InputFileError(path, f'more than {_MAX_LINE:,} bytes', line=number,
                                            remedy=remedy)
            try:
                text = line.decode('utf-8-sig' if number == 1 else 'utf-8').rstrip('\r\n')
            except UnicodeDecodeError as error:
                raise errors.InputFileError(path, f'not UTF-8 text ({error.reason})', line=number,
                                            remedy=remedy) from error
            if text.strip():
                empty = False
                yield number, text
    if empty:
        raise errors.InputFileError(path, 'the file is empty', remedy=remedy)


def _score(path: str | os.PathLike, number: int, text: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    # trec_eval holds scores in single precision, where larger scores are infinite.
    if not math.isfinite(score) or abs(score) > 3e38:
        raise errors.InputFileError(path, f'the score is {untrusted.shown(text)}, expected a '
                                          'finite number', line=number, remedy=_RUN)
    return score


def _relevance(path: str | os.PathLike, number: int, text: str) -> int:
    # Some files of BEIR write 1.0.
    whole = text.removesuffix('.0')
    if not whole.removeprefix('-').isdecimal() or len(whole) > 7 or abs(
            int(whole)) > _MOST_RELEVANT:
        raise errors.InputFileError(path, f'the relevance is {untrusted.shown(text)}, expected a '
                                          'whole number', line=number,
                                    remedy='above 0 is relevant, 0 is not')
    return int(whole)


def _id(name: str) -> str:
    if not name or name.split() != [name]:
        raise errors.ConfigError(f'the id {untrusted.shown(name)} is empty or has white space, '
                                 'which files of TREC cannot hold; rename it')
    return name
