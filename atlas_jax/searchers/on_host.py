"""The searchers that run on the host, chosen by name, for one index or several, and combined for hybrid search.

A searcher is opened if it was saved beside its index; otherwise it is built and saved there.
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
from atlas_jax.searchers import bm25, codes_on_host, fusion, host_searcher, in_graph, scann
from atlas_jax.searchers.config import IN_GRAPH, SearchConfig
from atlas_jax.searchers.host_searcher import HostQueries, HostRetrieved, HostSearcher, SavedSearcher

_NO_ROW = -1  # marks unused places in `excluded`


@dataclasses.dataclass(frozen=True)
class Part:
    """One index with its passages; its rows are first_row, first_row + 1 … of the whole."""

    index: EmbeddingIndex
    store: PassageStore
    first_row: int = 0


class Several:
    """Searchers of several indexes as one HostSearcher: the best of all their results, by score."""

    def __init__(self, searchers: Sequence[SavedSearcher], first_rows: Sequence[int]):
        self._searchers, self._first_rows = tuple(searchers), tuple(first_rows)
        self.needs_embeddings = any(searcher.needs_embeddings for searcher in searchers)

    def search(self, queries: HostQueries, top_k: int, excluded: np.ndarray | None = None) -> HostRetrieved:
        """Finds the best rows of all indexes, [batch, top_k]; see HostSearcher."""
        found = []
        for searcher, first_row in zip(self._searchers, self._first_rows, strict=True):
            inside = None
            if excluded is not None:
                is_inside = (excluded >= first_row) & (excluded < first_row + len(searcher.valid))
                inside = np.where(is_inside, excluded - first_row, _NO_ROW)
            found.append(searcher.search(queries, top_k, inside))
        ids = [part.passage_ids + first_row for part, first_row in zip(found, self._first_rows, strict=True)]
        return host_searcher.best(np.concatenate([part.scores for part in found], axis=1), np.concatenate(ids, axis=1), top_k)


class FromGraph:
    """A searcher in the graph as a HostSearcher, for hybrid search."""

    needs_embeddings = True

    def __init__(self, knowledge: types.Knowledge, mesh: Mesh, config: SearchConfig):
        self._knowledge, self._mesh, self._config = knowledge, mesh, config

    def search(self, queries: HostQueries, top_k: int, excluded: np.ndarray | None = None) -> HostRetrieved:
        """Finds the best rows by config.dense_searcher, [batch, top_k]; see HostSearcher."""
        found = jax.device_get(_search_in_graph(self._knowledge.index, self._knowledge.scanned, self._knowledge.codes, queries.embeddings,
                                                excluded, top_k, self._mesh, self._config))
        return HostRetrieved(scores=found.scores, passage_ids=found.passage_ids)


class Hybrid:
    """The candidates of a dense searcher and of BM25, put into one order; a HostSearcher whose scores are the fused ones."""

    needs_embeddings = True

    def __init__(self, dense: HostSearcher, lexical: HostSearcher, mix: fusion.Mix, candidates: int):
        self.dense, self.lexical, self.mix, self.candidates = dense, lexical, mix, candidates

    def search(self, queries: HostQueries, top_k: int, excluded: np.ndarray | None = None) -> HostRetrieved:
        """Searches on both sides and fuses their results into [batch, top_k]; see HostSearcher."""
        candidates = max(self.candidates, top_k)
        dense = self.dense.search(queries, candidates, excluded)
        lexical = self.lexical.search(queries, candidates, excluded)
        return fusion.fuse(dense, lexical, top_k, self.mix)


def make(config: SearchConfig, parts: Sequence[Part], knowledge: Callable[[], types.Knowledge], mesh: Mesh) -> HostSearcher:
    """Returns the host searcher that config names, over the parts.

    Args:
      config: with searcher scann, bm25 or hybrid, or codes that are rescored on the host.
      parts: the indexes, and the first rows of each.
      knowledge: gives the index on the devices, for hybrid search with a searcher in the graph.
      mesh: the devices.

    Raises:
      ConfigError: a package is missing, there are no passages or none has a word, or there are several processes.
      IndexFolderError: codes are missing or do not fit.
    """
    if jax.process_count() > 1:
        raise errors.ConfigError(f'the searcher "{config.searcher}" runs on one host and there are {jax.process_count()} processes; '
                                 f'choose one of {", ".join(IN_GRAPH)}')
    if config.searcher == 'codes':
        return _several(parts, lambda part: codes_on_host.make(part.index, mesh, config))
    if config.searcher == 'scann':
        return _several(parts, lambda part: _scann(part, config.metric))
    lexical = _several(parts, _bm25)
    if config.searcher == 'bm25':
        return lexical
    dense: HostSearcher
    if config.dense_searcher == 'scann':
        dense = _several(parts, lambda part: _scann(part, config.metric))
    elif config.dense_searcher == 'codes' and config.rescore == 'host':
        dense = _several(parts, lambda part: codes_on_host.make(part.index, mesh, config))
    else:
        dense = FromGraph(knowledge(), mesh, config)
    return Hybrid(dense, lexical, fusion.Mix.of(config), config.fusion_candidates)


def _several(parts: Sequence[Part], make_one: Callable[[Part], SavedSearcher]) -> HostSearcher:
    searchers = [make_one(part) for part in parts]
    return searchers[0] if len(parts) == 1 and parts[0].first_row == 0 else Several(searchers, [part.first_row for part in parts])


def _scann(part: Part, metric: str) -> SavedSearcher:
    # Deletions leave rows_digest as it is: ScaNN drops deleted rows from its results.
    valid, folder, digest = ~part.index.deleted, _folder(part, scann.FOLDER), part.index.rows_digest
    searcher = None if folder is None else scann.open_saved(folder, digest, valid, metric)
    if searcher is None:
        searcher = scann.build(part.index.embeddings(np.arange(len(part.index))), valid, metric)
        if folder is not None:
            searcher.save(folder, digest)
    return searcher


def _bm25(part: Part) -> SavedSearcher:
    valid, folder, digest = ~part.index.deleted, _folder(part, bm25.FOLDER), part.store.fingerprint
    searcher = None if folder is None else bm25.open_saved(folder, digest, valid)
    if searcher is None:
        passages = (part.store[row] for row in range(len(valid)))
        searcher = bm25.build((f'{passage.full_title} {passage.text}' for passage in passages), valid)
        if folder is not None:
            searcher.save(folder, digest)
    return searcher


def _folder(part: Part, name: str) -> pathlib.Path | None:
    """Returns the folder of the part's saved searcher; None for an index in a bucket, whose searcher lives in memory only."""
    return None if '://' in str(part.index.path) else pathlib.Path(part.index.path) / name


@functools.partial(jax.jit, static_argnames=('top_k', 'mesh', 'config'))
def _search_in_graph(index: types.IndexArrays, scanned: types.ScannedRows | None, codes: types.Codes | None, queries: jax.Array,
                     excluded: jax.Array | None, top_k: int, mesh: Mesh, config: SearchConfig) -> types.Retrieved:
    return in_graph.search(index, queries, top_k, mesh, config, searcher=config.dense_searcher, scanned=scanned, codes=codes,
                           excluded=excluded)
