"""The searchers that run on the host, chosen by name, for one index or several, and combined for
hybrid search.

A searcher that was saved beside its index is opened; otherwise it is built and saved there. Where
several processes run, each searches its share of the rows, and their results are merged.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from atlas_jax import errors, types
from atlas_jax.corpus.store import PassageStore
from atlas_jax.index.embedding_index import EmbeddingIndex
from atlas_jax.runtime import hosts
from atlas_jax.searchers import bm25, codes_on_host, fusion, host_searcher, in_graph, scann
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.searchers.host_searcher import (
    HostQueries,
    HostRetrieved,
    HostSearcher,
    IndexSearcher,
    SavedSearcher,
)

_NO_ROW = -1  # marks unused places in `excluded`


@dataclasses.dataclass(frozen=True)
class SearcherPart:
    """Rows of one index with their passages: all, or a process's share.

    Attributes:
      index, store: the index and its passages.
      first_row: number of the index's first row among the rows of all indexes.
      share: (n, count): these are the rows of part n of `count` equal parts.
    """

    index: EmbeddingIndex
    store: PassageStore
    first_row: int = 0
    share: tuple[int, int] = (0, 1)

    @property
    def rows(self) -> range:
        """Rows of the index."""
        number, count = self.share
        return range(len(self.index) * number // count, len(self.index) * (number + 1) // count)

    @property
    def valid(self) -> np.ndarray:
        """[rows] bool, False for deleted rows."""
        return ~self.index.deleted[self.rows.start:self.rows.stop]

    def folder(self, name: str) -> pathlib.Path | None:
        """Returns the folder for the part's saved searcher; None for an index in a bucket, whose
        searcher stays in memory.
        """
        number, count = self.share
        name = name if count == 1 else f'{name}-{number + 1}-of-{count}'
        return None if '://' in str(self.index.path) else pathlib.Path(self.index.path) / name


class Several:
    """Searchers of several indexes as one HostSearcher: the best of all their results, by score."""

    def __init__(self, searchers: Sequence[IndexSearcher], first_rows: Sequence[int]):
        self._searchers, self._first_rows = tuple(searchers), tuple(first_rows)
        self.needs_embeddings = any(searcher.needs_embeddings for searcher in searchers)

    def search(self, queries: HostQueries, top_k: int,
               excluded: np.ndarray | None = None) -> HostRetrieved:
        """Finds the best rows of all indexes, [batch, top_k]; see HostSearcher."""
        # A process without rows returns these alone.
        found = [
            HostRetrieved(np.zeros((len(queries), 0), np.float32),
                          np.zeros((len(queries), 0), np.int32))]
        for searcher, first_row in zip(self._searchers, self._first_rows, strict=True):
            inside = None
            if excluded is not None:
                is_inside = (excluded >= first_row) & (excluded < first_row + len(searcher.valid))
                inside = np.where(is_inside, excluded - first_row, _NO_ROW)
            found.append(searcher.search(queries, top_k, inside))
        ids = [
            part.passage_ids + first_row
            for part, first_row in zip(found, (0, *self._first_rows), strict=True)]
        return host_searcher.best(np.concatenate([part.scores for part in found], axis=1),
                                  np.concatenate(ids, axis=1), top_k)


class Together:
    """Searches all rows with a searcher of this process's rows; all processes search together, for
    the same queries.
    """

    def __init__(self, own: HostSearcher, needs_embeddings: bool):
        self._own, self.needs_embeddings = own, needs_embeddings

    def search(self, queries: HostQueries, top_k: int,
               excluded: np.ndarray | None = None) -> HostRetrieved:
        """Finds the best rows of all processes, [batch, top_k]; see HostSearcher."""
        own = self._own.search(queries, top_k, excluded)
        # [processes, batch, top_k] to [batch, processes * top_k]
        scores, ids = (np.concatenate(hosts.gather(values), axis=1)
                       for values in (own.scores, own.passage_ids))
        return host_searcher.best(scores, ids, top_k)


class FromGraph:
    """A searcher in the graph as a HostSearcher, for hybrid search."""

    needs_embeddings = True

    def __init__(self, knowledge: types.Knowledge, mesh: Mesh, config: SearchConfig):
        self._knowledge, self._mesh, self._config = knowledge, mesh, config

    def search(self, queries: HostQueries, top_k: int,
               excluded: np.ndarray | None = None) -> HostRetrieved:
        """Finds the best rows with config.dense_searcher, [batch, top_k]; see HostSearcher."""
        found = hosts.to_host(
            _search_in_graph(self._knowledge.index, self._knowledge.scanned, self._knowledge.codes,
                             queries.embeddings, excluded, top_k, self._mesh, self._config))
        return HostRetrieved(scores=found.scores, passage_ids=found.passage_ids)


class Hybrid:
    """A HostSearcher that sorts the candidates of a dense searcher and of BM25 together; its scores
    are the fused ones.
    """

    needs_embeddings = True

    def __init__(self, dense: HostSearcher, lexical: HostSearcher, mix: fusion.Mix,
                 candidates: int):
        self.dense, self.lexical, self.mix, self.candidates = dense, lexical, mix, candidates

    def search(self, queries: HostQueries, top_k: int,
               excluded: np.ndarray | None = None) -> HostRetrieved:
        """Searches on both sides and fuses their results into [batch, top_k]; see HostSearcher."""
        candidates = max(self.candidates, top_k)
        dense = self.dense.search(queries, candidates, excluded)
        lexical = self.lexical.search(queries, candidates, excluded)
        return fusion.fuse(dense, lexical, top_k, self.mix)


def make(config: SearchConfig, parts: Sequence[SearcherPart],
         knowledge: Callable[[], types.Knowledge], mesh: Mesh) -> HostSearcher:
    """Returns the host searcher that config names, over the parts.

    Args:
      config: its searcher is scann, bm25 or hybrid, or codes that the host rescores.
      parts: the indexes, and the first row of each.
      knowledge: returns the index on the devices, for hybrid search with a searcher in the graph.
      mesh: the devices.

    Raises:
      ConfigError: a package is missing, there are no passages, or no passage has a word.
      IndexFolderError: codes are missing or do not fit.
    """
    parts = [
        dataclasses.replace(part, share=(jax.process_index(), jax.process_count()))
        for part in parts]
    if config.searcher == 'codes':
        return _several(parts, [_codes(part, mesh, config) for part in parts])
    if config.searcher == 'scann':
        return _several(parts, _scanns(parts, config.metric))
    by_words = _several(parts, [lexical(part) for part in parts])
    if config.searcher == 'bm25':
        return by_words
    dense: HostSearcher
    if config.dense_searcher == 'scann':
        dense = _several(parts, _scanns(parts, config.metric))
    elif config.dense_searcher == 'codes' and config.rescore == 'host':
        dense = _several(parts, [_codes(part, mesh, config) for part in parts])
    else:
        dense = FromGraph(knowledge(), mesh, config)
    return Hybrid(dense, by_words, fusion.Mix.of(config), config.fusion_candidates)


def _several(parts: Sequence[SearcherPart],
             searchers: Sequence[IndexSearcher | None]) -> HostSearcher:
    """Returns one searcher over those of the parts; None marks a part without rows to find."""
    first_rows = [part.first_row + part.rows.start for part in parts]
    there = [(searcher, first_row)
             for searcher, first_row in zip(searchers, first_rows, strict=True)
             if searcher is not None]
    if len(there) == 1 and there[0][1] == 0:
        own: HostSearcher = there[0][0]
    else:
        own = Several([searcher for searcher, _ in there], [first_row for _, first_row in there])
    if jax.process_count() == 1:
        return own
    # All processes must agree, though one may have no rows.
    return Together(own, bool(hosts.gather(np.array(own.needs_embeddings)).any()))


def _scanns(parts: Sequence[SearcherPart], metric: str) -> list[SavedSearcher | None]:
    with hosts.together():  # or processes that succeed would wait for one that fails
        if not any(len(part.index) for part in parts):
            raise errors.ConfigError('ScaNN needs at least one passage, and the index has none; '
                                     'build the index first')
        return [_scann(part, metric) if part.rows else None for part in parts]


def _codes(part: SearcherPart, mesh: Mesh, config: SearchConfig) -> IndexSearcher:
    # Also for a share without rows: the devices of all processes scan together.
    return codes_on_host.make(part.index, mesh, config, part.rows)


def _scann(part: SearcherPart, metric: str) -> SavedSearcher:
    # Deletions do not change rows_digest: ScaNN drops deleted rows from its results.
    folder, digest = part.folder(scann.FOLDER), part.index.rows_digest
    searcher = None if folder is None else scann.open_saved(folder, digest, part.valid, metric)
    if searcher is None:
        searcher = scann.build(part.index.embeddings(np.asarray(part.rows)), part.valid, metric)
        if folder is not None:
            searcher.save(folder, digest)
    return searcher


def lexical(part: SearcherPart) -> SavedSearcher | None:
    """Opens the part's BM25 searcher, or builds and saves it; None where no passage has a word. All
    processes call it together.

    Raises:
      ConfigError: bm25s is not installed, or no passage of any process has a word.
      DiskFullError: the searcher cannot be saved.
    """
    folder, digest = part.folder(bm25.FOLDER), part.store.fingerprint
    with hosts.together():
        searcher = None if folder is None else bm25.open_saved(folder, digest, part.valid)
    # A process that has to count its words needs the counts of the others. A share without words is
    # never saved, and is quick to count again.
    if hosts.gather(np.array(searcher is not None)).all():
        return searcher
    with hosts.together():
        passages = (part.store[row] for row in part.rows)
        words = bm25.count(f'{passage.full_title} {passage.text}' for passage in passages)
    words = bm25.of_all(words)
    with hosts.together():
        searcher = bm25.build(words, part.valid)
        if folder is not None and searcher is not None:
            searcher.save(folder, digest)
    return searcher


@functools.partial(jax.jit, static_argnames=('top_k', 'mesh', 'config'))
def _search_in_graph(index: types.IndexArrays, scanned: types.ScannedRows | None,
                     codes: types.Codes | None, queries: jax.Array, excluded: jax.Array | None,
                     top_k: int, mesh: Mesh, config: SearchConfig) -> types.Retrieved:
    return in_graph.search(index, queries, top_k, mesh, config, searcher=config.dense_searcher,
                           scanned=scanned, codes=codes, excluded=excluded)
