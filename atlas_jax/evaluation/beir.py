"""Evaluates a retriever alone on a BEIR folder (Thakur et al. 2021, arXiv 2104.08663): corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Sequence

from atlas_jax import api, errors
from atlas_jax.corpus import documents
from atlas_jax.corpus.passages import Passage
from atlas_jax.evaluation.results import Row
from atlas_jax.io import jsonl, untrusted
from atlas_jax.knowledge.index import Index
from atlas_jax.metrics import ranking, trec
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.steps import prepare
from atlas_jax.tasks import task as task_lib

TOP_K = 100  # documents a query, as BEIR has it


@dataclasses.dataclass(frozen=True)
class BeirFolder:
    """A BEIR folder that was read and found to fit together.

    corpus     corpus.jsonl
    documents  its ids
    queries    the text of each query that the qrels name, by id
    qrels      query -> document -> relevance
    """

    corpus: pathlib.Path
    documents: frozenset[str]
    queries: dict[str, str]
    qrels: trec.Qrels


def read(path: str | os.PathLike, split: str = 'test') -> BeirFolder:
    """Reads a BEIR folder, the texts of the corpus apart.

    Raises InputFileError: a file is missing or broken, an id comes twice or has a blank, or the qrels name unknown ids.
    """
    folder = pathlib.Path(path)
    if not folder.is_dir():
        raise errors.InputFileError(folder, 'no such folder', remedy='give a folder with corpus.jsonl, queries.jsonl and qrels/')
    try:
        judged = untrusted.inside(folder, f'qrels/{split}.tsv')
    except ValueError as error:
        raise errors.InputFileError(folder, str(error), remedy='give the name of a split, such as test') from error
    # The qrels first: they are short, and a misspelt split shows at once.
    qrels = trec.read_qrels(judged)
    queries = {query: _query(folder / 'queries.jsonl', line, row) for query, line, row in _ids(folder / 'queries.jsonl')}
    names = frozenset(name for name, _, _ in _ids(folder / 'corpus.jsonl'))
    trec.check_ids(judged, qrels, queries, names)
    return BeirFolder(folder / 'corpus.jsonl', names, {query: queries[query] for query in qrels}, qrels)


def open_or_build(folder: BeirFolder, atlas: api.Atlas, out: str | os.PathLike) -> Index:
    """Opens the index of the corpus in `out`, or builds it there; one that was killed goes on.

    Raises InputFileError: of a document. StoreError, IndexFolderError: `out` holds something else. DiskFullError.
    """
    out = pathlib.Path(out)
    if not (out / 'store').exists():
        # Whole documents: the retriever cuts them at its limit, and a judgment is of a document.
        passages = (Passage(each.docid, each.title, each.section, each.text) for each in documents.read_documents(folder.corpus))
        api.PassageStore.from_passages(passages, out / 'store', reader_tokenizer=atlas.reader_tokenizer,
                                       retriever_tokenizer=atlas.retriever_tokenizer)
    # Opens a finished index as it is, and completes any other.
    index = api.Index.build(api.PassageStore.open(out / 'store'), atlas, out / 'index')
    if len(index.store) != len(folder.documents):
        raise errors.IndexFolderError(f'{out}: it has {len(index.store)} documents, {folder.corpus} {len(folder.documents)}; give another '
                                      'folder, or remove this one')
    return index


def evaluate(atlas: api.Atlas, folder: BeirFolder, index: Index, *, batch_size: int = 64, search: SearchConfig | str | None = None,
             with_prompt: bool = False) -> tuple[list[Row], trec.Run]:
    """Searches for each query and scores the first 100 documents as trec_eval does.

    Args:
      atlas: the model; only its retriever is used.
      folder: queries and judgments.
      index: of the corpus, one row a document or pieces (id#0, id#1, …), of which the best counts.
      batch_size: queries at a time.
      search: how documents are found, or the name of a searcher; None is exact.
      with_prompt: writes queries as the model's task does; without, they are searched for as they are.

    Returns:
      Rows of a results file with nDCG@10, recall@100, reciprocal rank, average precision and precision@10; and the run.

    Raises IndexFolderError, StoreError: another model built the index. ConfigError: an unknown searcher.
    """
    index.check(atlas)
    examples = [_example(atlas, text, number, with_prompt) for number, text in enumerate(folder.queries.values())]
    # One more where a query may be a document of the corpus itself, which BEIR leaves out.
    top_k = TOP_K + any(query in folder.documents for query in folder.queries)
    size = atlas.whole_batch(min(batch_size, len(examples)))
    prepared = prepare.prepare(atlas, examples, index, min(top_k, len(index.store)), size, search=search)
    rows: list[Row] = []
    run: trec.Run = {}
    names = iter(folder.queries.items())
    for chunk, retrieved in prepared.search(atlas.device_params(), examples, size, 'searching'):
        for row, example in enumerate(chunk):
            query, text = next(names)
            found = [(passage.docid, passage.score) for passage in api.passages_of(example, retrieved, row, prepared)]
            run[query] = dict(list(_by_document(found, folder.documents, query))[:TOP_K])
            rows.append(_row(query, text, example.query, run[query], folder.qrels[query]))
    return rows, run


def _row(query: str, text: str, searched: str, scores: dict[str, float], relevance: ranking.Relevance) -> Row:
    order = ranking.order(scores)
    return {'example_id': query, 'question': text, 'query': searched, 'answers': [],
            'ndcg_at_10': ranking.ndcg(order, relevance, 10), 'recall_at_100': ranking.recall_at(order, relevance, 100),
            'mrr': ranking.reciprocal_rank(order, relevance), 'map': ranking.average_precision(order, relevance),
            'precision_at_10': ranking.precision_at(order, relevance, 10)}


def _by_document(found: Sequence[tuple[str, float]], names: frozenset[str], query: str) -> Iterator[tuple[str, float]]:
    """Yields (document, score) once each, best piece first, without the query itself."""
    seen = {query}
    for docid, score in found:
        document = docid if docid in names else docid.rpartition('#')[0]
        if document not in seen:
            seen.add(document)
            yield document, score


def _example(atlas: api.Atlas, text: str, number: int, with_prompt: bool) -> task_lib.TaskExample:
    if with_prompt:
        return task_lib.ask(atlas.task, text, number)
    return task_lib.TaskExample(query=text, target='', answers=[], example_id=number, question=text)


def _ids(path: pathlib.Path) -> Iterator[tuple[str, int, dict]]:
    """Yields (id, line, row). Raises InputFileError: an id is missing, comes twice, or has a blank, which a run file cannot hold."""
    seen: set[str] = set()
    for line, row in jsonl.read(path):
        name = documents.in_our_fields(row).get('id')
        name = str(name) if isinstance(name, int) and not isinstance(name, bool) else name
        if not isinstance(name, str) or name.split() != [name]:
            shown = 'missing' if name is None else f'expected a text without blanks, found {untrusted.shown(name)}'
            raise errors.InputFileError(path, shown, line=line, field='_id', remedy='give each line an id of its own')
        if name in seen:
            raise errors.InputFileError(path, f'"{name}" was the id of an earlier line', line=line, field='_id',
                                        remedy='give each line an id of its own')
        seen.add(name)
        yield name, line, row


def _query(path: pathlib.Path, line: int, row: dict) -> str:
    text = row.get('text')
    if not isinstance(text, str) or not text.strip():
        raise errors.InputFileError(path, f'expected a text that is not blank, found {untrusted.shown(text)}', line=line, field='text',
                                    remedy='remove the line or fill it in')
    return text.strip()
