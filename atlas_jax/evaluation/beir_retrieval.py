"""Searches the corpus of a BEIR folder with a retriever, without a reader."""

import os
import pathlib
from collections.abc import Iterator, Sequence

from atlas_jax import errors
from atlas_jax.answering import api, prepare
from atlas_jax.corpus import documents
from atlas_jax.corpus.passages import Passage
from atlas_jax.evaluation.beir_folder import BeirFolder
from atlas_jax.knowledge.index_with_store import Index
from atlas_jax.metrics import trec
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.tasks import task as task_lib

TOP_K = 100  # documents per query, as in BEIR


def open_or_build(folder: BeirFolder, atlas: api.Atlas, out: str | os.PathLike) -> Index:
    """Opens the index of the corpus in `out`, or builds it there; resumes an interrupted build.

    Raises InputFileError: a document is broken. StoreError, IndexFolderError: `out` holds something
    else. DiskFullError.
    """
    out = pathlib.Path(out)
    if not (out / 'store').exists():
        # Documents stay whole, since judgments are of documents; the retriever cuts them.
        passages = (Passage(each.docid, each.title, each.section, each.text)
                    for each in documents.read_documents(folder.corpus))
        api.PassageStore.from_passages(passages, out / 'store',
                                       reader_tokenizer=atlas.reader_tokenizer,
                                       retriever_tokenizer=atlas.retriever_tokenizer)
    store = api.PassageStore.open(out / 'store')
    if len(store) != len(folder.documents):
        raise errors.IndexFolderError(
            f'{out}: it has {len(store)} documents, {folder.corpus} {len(folder.documents)}; give '
            'another folder, or remove this one')
    # The manifest is written last. Building a complete index again would embed everything again.
    if (out / 'index' / 'manifest.json').is_file():
        return api.Index.open(out / 'index', store)
    return api.Index.build(store, atlas, out / 'index')


def check_index(index: Index, folder: BeirFolder) -> None:
    """Raises IndexFolderError: relevant documents are not in the index, so no search finds them."""
    wanted = dict.fromkeys(document for judged in folder.qrels.values()
                           for document, relevance in judged.items() if relevance > 0)
    missing = [document for document in wanted if index.store.find(document) is None
               and index.store.find(f'{document}#0') is None]
    if missing:
        raise errors.IndexFolderError(
            f'{index.index.path}: it lacks {len(missing)} of {len(wanted)} relevant documents '
            f'({", ".join(missing[:5])}); give the index of {folder.corpus}, or none to build it')


def search(atlas: api.Atlas, folder: BeirFolder, index: Index, *, batch_size: int = 64,
           searcher: SearchConfig | str | None = None, with_prompt: bool = False) -> trec.Run:
    """Searches for each query, and returns the run of the first 100 documents.

    Args:
      atlas: The model; only its retriever is used.
      folder: Queries and judgments.
      index: Index of the corpus. A row is a document or a piece (id#0, id#1, …); a document's best
        piece counts.
      batch_size: Queries per batch.
      searcher: Options or name of a searcher; None is exact.
      with_prompt: Searches for queries with the prompt of the model's task, not for bare queries.

    Raises IndexFolderError, StoreError: the index is from another model or corpus. ConfigError: an
    unknown searcher.
    """
    index.check(atlas)
    check_index(index, folder)
    examples = [task_lib.search_example(atlas.task, text, number, with_prompt)
                for number, text in enumerate(folder.queries.values())]
    # One more if queries may be documents of the corpus: BEIR removes a query from its own results.
    top_k = TOP_K + any(query in folder.documents for query in folder.queries)
    size = atlas.whole_batch(min(batch_size, len(examples)))
    prepared = prepare.prepare_examples(atlas, examples, index, min(top_k, len(index.store)), size,
                                        search=searcher)
    run: trec.Run = {}
    queries = iter(folder.queries)
    for chunk, retrieved in prepared.search(atlas.device_params(), examples, size, 'searching'):
        for row, example in enumerate(chunk):
            query = next(queries)
            found = [(passage.docid, passage.score)
                     for passage in api.passages_of(example, retrieved, row, prepared)]
            run[query] = dict(list(_by_document(found, folder.documents, query))[:TOP_K])
    return run


def _by_document(found: Sequence[tuple[str, float]], names: frozenset[str],
                 query: str) -> Iterator[tuple[str, float]]:
    """Yields (document, score), each once with its best piece, without the query itself."""
    seen = {query}
    for docid, score in found:
        document = docid if docid in names else docid.rpartition('#')[0]
        # The index may hold other documents too.
        if document in names and document not in seen:
            seen.add(document)
            yield document, score
