"""Search by codes with the embeddings on the host: the devices scan, and rows of the index's files score the candidates."""

import functools

import jax
import numpy as np
from jax.sharding import Mesh

from atlas_jax import types
from atlas_jax.index.embedding_index import EmbeddingIndex
from atlas_jax.index.row_reader import RowReader
from atlas_jax.searchers import code as code_lib
from atlas_jax.searchers import codes as codes_lib
from atlas_jax.searchers import codes_files, host_searcher
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.searchers.host_searcher import HostQueries, HostRetrieved


class CodesOnHost:
    """A HostSearcher over the codes of one index; `valid` [rows] bool is False for deleted rows."""

    needs_embeddings = True

    def __init__(self, codes: types.Codes, rows: RowReader, valid: np.ndarray, mesh: Mesh, config: SearchConfig):
        self.codes, self.valid = codes, valid
        self._rows, self._mesh, self._config = rows, mesh, config

    def search(self, queries: HostQueries, top_k: int, excluded: np.ndarray | None = None) -> HostRetrieved:
        """Finds the best rows, [batch, top_k]; see HostSearcher. Raises IndexFolderError: an embedding cannot be read."""
        if not len(queries):
            return host_searcher.nothing(top_k)
        embeddings = np.asarray(types.required(queries.embeddings), np.float32)
        # Those excluded may all be among the candidates.
        count = max(self._config.rescore_candidates, top_k + (0 if excluded is None else excluded.shape[1]))
        found = jax.device_get(_find(self.codes, embeddings, count, self._mesh, self._config.metric))
        ids, there = found.passage_ids, np.isfinite(found.scores)
        if excluded is not None:
            there &= ~host_searcher.is_excluded(ids, excluded)
        # Neighbouring questions share candidates: each row is read once, in the order of the files.
        rows, places = np.unique(ids[there], return_inverse=True)
        vectors = code_lib.normalised(self._rows.take(rows.astype(np.int64)), self._config.metric)
        embeddings = code_lib.normalised(embeddings, self._config.metric)
        scores = np.full(ids.shape, -np.inf, np.float32)
        first = 0
        for number, valid in enumerate(there):
            mine = places[first:first + valid.sum()]
            first += len(mine)
            scores[number, valid] = vectors[mine] @ embeddings[number]
        # A number that was damaged on disk must not be the best of all.
        return host_searcher.best(np.where(np.isfinite(scores), scores, -np.inf), ids, top_k)


def make(index: EmbeddingIndex, mesh: Mesh, config: SearchConfig) -> CodesOnHost:
    """Loads the codes of an index onto the devices. Raises IndexFolderError: they are missing or do not fit the index."""
    rows = -(-max(len(index), 1) // mesh.size) * mesh.size
    codes = codes_files.open_for(index, config.metric).device_arrays(mesh, rows, index.deleted)
    return CodesOnHost(codes, index.row_files(), ~index.deleted, mesh, config)


@functools.partial(jax.jit, static_argnames=('candidates', 'mesh', 'metric'))
def _find(codes: types.Codes, queries: jax.Array, candidates: int, mesh: Mesh, metric: str) -> types.Retrieved:
    return codes_lib.find_candidates(codes, queries, candidates, mesh, metric)
