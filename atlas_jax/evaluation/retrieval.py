"""Searches the corpus of a BEIR folder with a retriever alone."""

import os
import pathlib
from collections.abc import Iterator, Sequence

from atlas_jax import api, errors
from atlas_jax.corpus import documents
from atlas_jax.corpus.passages import Passage
from atlas_jax.evaluation.beir import BeirFolder
from atlas_jax.knowledge.index import Index
from atlas_jax.metrics import trec
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.steps import prepare
from atlas_jax.tasks import task as task_lib

TOP_K = 100  # documents a query, as BEIR has it


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
    store = api.PassageStore.open(out / 'store')
    if len(store) != len(folder.documents):
        raise errors.IndexFolderError(f'{out}: it has {len(store)} documents, {folder.corpus} {len(folder.documents)}; give another '
                                      'folder, or remove this one')
    # A manifest is written when the build has ended; building again would embed all anew.
    if (out / 'index' / 'manifest.json').is_file():
        return api.Index.open(out / 'index', store)
    return api.Index.build(store, atlas, out / 'index')


def check_index(index: Index, folder: BeirFolder) -> None:
    """Raises IndexFolderError: documents that count as relevant are not in the index, so that nobody could find them."""
    wanted = dict.fromkeys(document for judged in folder.qrels.values() for document, relevance in judged.items() if relevance > 0)
    missing = [document for document in wanted if index.store.find(document) is None and index.store.find(f'{document}#0') is None]
    if missing:
        raise errors.IndexFolderError(f'{index.index.path}: it lacks {len(missing)} of {len(wanted)} relevant documents '
                                      f'({", ".join(missing[:5])}); give the index of {folder.corpus}, or none to build it')


def search(atlas: api.Atlas, folder: BeirFolder, index: Index, *, batch_size: int = 64, searcher: SearchConfig | str | None = None,
             with_prompt: bool = False) -> trec.Run:
    """Searches for each query, and returns the run of the first 100 documents.

    Args:
      atlas: the model; only its retriever is used.
      folder: queries and judgments.
      index: of the corpus, one row a document or pieces (id#0, id#1, …), of which the best counts.
      batch_size: queries at a time.
      searcher: how documents are found, or the name of a searcher; None is exact.
      with_prompt: writes queries as the model's task does; without, they are searched for as they are.

    Raises IndexFolderError, StoreError: another model built the index, or it is of another corpus. ConfigError: an unknown searcher.
    """
    index.check(atlas)
    check_index(index, folder)
    examples = [task_lib.searched(atlas.task, text, number, with_prompt) for number, text in enumerate(folder.queries.values())]
    # One more where a query may be a document of the corpus itself, which BEIR leaves out.
    top_k = TOP_K + any(query in folder.documents for query in folder.queries)
    size = atlas.whole_batch(min(batch_size, len(examples)))
    prepared = prepare.prepare(atlas, examples, index, min(top_k, len(index.store)), size, search=searcher)
    run: trec.Run = {}
    queries = iter(folder.queries)
    for chunk, retrieved in prepared.search(atlas.device_params(), examples, size, 'searching'):
        for row, example in enumerate(chunk):
            query = next(queries)
            found = [(passage.docid, passage.score) for passage in api.passages_of(example, retrieved, row, prepared)]
            run[query] = dict(list(_by_document(found, folder.documents, query))[:TOP_K])
    return run


def _by_document(found: Sequence[tuple[str, float]], names: frozenset[str], query: str) -> Iterator[tuple[str, float]]:
    """Yields (document, score) once each, best piece first, without the query itself."""
    seen = {query}
    for docid, score in found:
        document = docid if docid in names else docid.rpartition('#')[0]
        # An index may hold more than this corpus.
        if document in names and document not in seen:
            seen.add(document)
            yield document, score
