"""The searchers of the host for one index or several: opened where they were saved, else built and saved beside the index."""

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
from atlas_jax.searchers import bm25, host_top_k, hybrid, in_graph, protocol, scann
from atlas_jax.searchers.config import IN_GRAPH, SearchConfig


@dataclasses.dataclass(frozen=True)
class Part:
    """One index with its passages; its rows are first_row, first_row + 1 … of the whole."""

    index: EmbeddingIndex
    store: PassageStore
    first_row: int = 0


class Several:
    """HostSearchers of several indexes as one: the best of all their results, by score."""

    def __init__(self, searchers: Sequence[protocol.HostSearcher], first_rows: Sequence[int]):
        self._searchers, self._first_rows = tuple(searchers), tuple(first_rows)
        self.needs_embeddings = any(searcher.needs_embeddings for searcher in searchers)

    def search(self, queries: protocol.HostQueries, top_k: int, excluded: np.ndarray | None = None) -> types.Retrieved:
        """See protocol.HostSearcher."""
        found = []
        for searcher, first_row in zip(self._searchers, self._first_rows, strict=True):
            rows = len(searcher.valid)
            inside = None if excluded is None else np.where((excluded >= first_row) & (excluded < first_row + rows),
                                                            excluded - first_row, -1)
            found.append(searcher.search(queries, top_k, inside))
        ids = [part.passage_ids + first_row for part, first_row in zip(found, self._first_rows, strict=True)]
        return host_top_k.best(np.concatenate([part.scores for part in found], axis=1), np.concatenate(ids, axis=1), top_k)


class FromGraph:
    """A searcher in the graph as a HostSearcher, for hybrid search."""

    needs_embeddings = True

    def __init__(self, knowledge: types.Knowledge, mesh: Mesh, config: SearchConfig):
        self._knowledge, self._mesh, self._config = knowledge, mesh, config

    def search(self, queries: protocol.HostQueries, top_k: int, excluded: np.ndarray | None = None) -> types.Retrieved:
        """See protocol.HostSearcher."""
        found = _search_in_graph(self._knowledge.index, self._knowledge.scanned, queries.embeddings, excluded, top_k, self._mesh,
                                 self._config)
        return jax.device_get(found)


def make(config: SearchConfig, parts: Sequence[Part], knowledge: Callable[[], types.Knowledge], mesh: Mesh) -> protocol.HostSearcher:
    """The host searcher that config names, over the parts.

    Args:
      config: with searcher scann, bm25 or hybrid.
      parts: the indexes, and where their rows begin.
      knowledge: gives the index on the devices, for hybrid search with a searcher in the graph.
      mesh: the devices.

    Raises:
      ConfigError: a package is missing, or there are several processes.
    """
    if jax.process_count() > 1:
        raise errors.ConfigError(f'the searcher "{config.searcher}" runs on one host and there are {jax.process_count()} processes; '
                                 f'choose one of {", ".join(IN_GRAPH)}')
    if config.searcher == 'scann':
        return _several(parts, lambda part: _scann(part, config.metric))
    lexical = _several(parts, _bm25)
    if config.searcher == 'bm25':
        return lexical
    if config.dense_searcher == 'scann':
        dense: protocol.HostSearcher = _several(parts, lambda part: _scann(part, config.metric))
    else:
        dense = FromGraph(knowledge(), mesh, config)
    return hybrid.Hybrid(dense, lexical, config)


def _several(parts: Sequence[Part], make_one: Callable[[Part], protocol.HostSearcher]) -> protocol.HostSearcher:
    searchers = [make_one(part) for part in parts]
    return searchers[0] if len(parts) == 1 and parts[0].first_row == 0 else Several(searchers, [part.first_row for part in parts])


def _scann(part: Part, metric: str) -> protocol.HostSearcher:
    valid, folder, digest = ~part.index.deleted, _folder(part, scann.FOLDER), part.index.rows_digest
    searcher = None if folder is None else scann.open_saved(folder, digest, valid, metric)
    if searcher is None:
        searcher = scann.build(part.index.embeddings(np.arange(len(part.index))), valid, metric)
        if folder is not None:
            scann.save(searcher, folder, digest)
    return searcher


def _bm25(part: Part) -> protocol.HostSearcher:
    valid, folder, digest = ~part.index.deleted, _folder(part, bm25.FOLDER), part.store.fingerprint
    searcher = None if folder is None else bm25.open_saved(folder, digest, valid)
    if searcher is None:
        passages = (part.store[row] for row in range(len(valid)))
        searcher = bm25.build((f'{passage.full_title} {passage.text}' for passage in passages), valid)
        if folder is not None:
            searcher.save(folder, digest)
    return searcher


def _folder(part: Part, name: str) -> pathlib.Path | None:
    """Where the part's searcher is saved; None for an index in a bucket, whose searcher lives in memory only."""
    return None if '://' in str(part.index.path) else pathlib.Path(part.index.path) / name


@functools.partial(jax.jit, static_argnames=('top_k', 'mesh', 'config'))
def _search_in_graph(index: types.IndexArrays, scanned: types.IndexArrays | None, queries: jax.Array, excluded: jax.Array | None,
                     top_k: int, mesh: Mesh, config: SearchConfig) -> types.Retrieved:
    return in_graph.search(index, queries, top_k, mesh, config, searcher=config.dense_searcher, scanned=scanned, excluded=excluded)
