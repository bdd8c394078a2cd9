"""Reads BEIR folders and scores runs over them.

A folder has corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv.

Source: Thakur et al. 2021, arXiv 2104.08663.
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from atlas_jax import errors
from atlas_jax.corpus import documents
from atlas_jax.evaluation.results import Row
from atlas_jax.io import jsonl, untrusted
from atlas_jax.metrics import ranking, trec


@dataclasses.dataclass(frozen=True)
class BeirFolder:
    """A BEIR folder whose files were read and are consistent.

    Attributes:
      corpus: Path of corpus.jsonl.
      documents: Ids of its documents.
      queries: Query id -> text, for the queries in the qrels.
      qrels: Query id -> document id -> relevance.
    """

    corpus: pathlib.Path
    documents: frozenset[str]
    queries: dict[str, str]
    qrels: trec.Qrels


def read(path: str | os.PathLike, split: str = 'test') -> BeirFolder:
    """Reads a BEIR folder, but not the texts of its corpus.

    Raises InputFileError: a file is missing or broken, an id is repeated or contains a blank, or
    the qrels name unknown ids.
    """
    folder = pathlib.Path(path)
    if not folder.is_dir():
        raise errors.InputFileError(
            folder, 'no such folder',
            remedy='give a folder with corpus.jsonl, queries.jsonl and qrels/')
    try:
        judged = untrusted.inside(folder, f'qrels/{split}.tsv')
    except ValueError as error:
        raise errors.InputFileError(folder, str(error),
                                    remedy='give the name of a split, such as test') from error
    # The qrels come first: they are short, and reveal a misspelt split at once.
    qrels = trec.read_qrels(judged)
    queries = {query: _query(folder / 'queries.jsonl', line, row)
               for query, line, row in _ids(folder / 'queries.jsonl')}
    names = frozenset(name for name, _, _ in _ids(folder / 'corpus.jsonl'))
    trec.check_ids(judged, qrels, queries, names)
    return BeirFolder(folder / 'corpus.jsonl', names, {query: queries[query] for query in qrels},
                      qrels)


def scored(folder: BeirFolder, run: trec.Run) -> list[Row]:
    """Returns a row of a results file for each judged query.

    Its metrics are nDCG@10, recall@100, reciprocal rank, average precision and precision@10. A
    query missing from the run counts as having found nothing. As in trec_eval, queries without
    judgments are not counted.
    """
    rows: list[Row] = []
    for query, text in folder.queries.items():
        order, relevance = ranking.order(run.get(query, {})), folder.qrels[query]
        rows.append({
            'example_id': query, 'question': text, 'query': text, 'answers': [],
            'ndcg_at_10': ranking.ndcg(order, relevance, 10),
            'recall_at_100': ranking.recall_at(order, relevance, 100),
            'mrr': ranking.reciprocal_rank(order, relevance),
            'map': ranking.average_precision(order, relevance),
            'precision_at_10': ranking.precision_at(order, relevance, 10)})
    return rows


def read_run(folder: BeirFolder, path: str | os.PathLike) -> trec.Run:
    """Reads a run over the folder.

    Raises InputFileError: the same errors as trec.read_run, or the run has none of the judged
    queries, or unknown documents.
    """
    run = trec.read_run(path)
    if not run.keys() & folder.queries.keys():
        raise errors.InputFileError(path, 'it has none of the queries that the qrels name',
                                    remedy=f'give a run over {folder.corpus.parent}')
    # Only documents are checked: a run may have the queries of several splits.
    trec.check_ids(path, {query: dict.fromkeys(scores, 0) for query, scores in run.items()}, run,
                   folder.documents)
    return run


def _ids(path: pathlib.Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yields (id, line, row).

    Raises InputFileError: an id is missing, repeated, or contains a blank, which run files cannot
    hold.
    """
    seen: set[str] = set()
    for line, row in jsonl.read(path):
        name = documents.in_our_fields(row).get('id')
        name = str(name) if isinstance(name, int) and not isinstance(name, bool) else name
        if not isinstance(name, str) or name.split() != [name]:
            problem = ('missing' if name is None else
                       f'expected a text without blanks, found {untrusted.shown(name)}')
            raise errors.InputFileError(path, problem, line=line, field='_id',
                                        remedy='give each line an id of its own')
        if name in seen:
            raise errors.InputFileError(path, f'"{name}" was the id of an earlier line', line=line,
                                        field='_id', remedy='give each line an id of its own')
        seen.add(name)
        yield name, line, row


def _query(path: pathlib.Path, line: int, row: dict[str, Any]) -> str:
    text = row.get('text')
    if not isinstance(text, str) or not text.strip():
        raise errors.InputFileError(
            path, f'expected a text that is not blank, found {untrusted.shown(text)}', line=line,
            field='text', remedy='remove the line or fill it in')
    return text.strip()
