"""Search by codes with the embeddings on the host: the devices scan, and rows read from the index's
files score the candidates.
"""

import functools

import jax
import numpy as np
from jax.sharding import Mesh

from atlas_jax import partitioning, types
from atlas_jax.index.embedding_index import EmbeddingIndex
from atlas_jax.index.row_reader import RowReader
from atlas_jax.runtime import hosts
from atlas_jax.searchers import code as code_lib
from atlas_jax.searchers import codes as codes_lib
from atlas_jax.searchers import codes_files, host_searcher
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.searchers.host_searcher import HostQueries, HostRetrieved


class CodesOnHost:
    """A HostSearcher over the codes of one index, or of the share of its rows that this process
    scores.

    Its ids count from the first row of the share. `valid` [rows of the share] bool is False for
    deleted rows.
    """

    needs_embeddings = True

    def __init__(self, codes: types.Codes, rows: RowReader, valid: np.ndarray, share: range,
                 mesh: Mesh, config: SearchConfig):
        self.codes, self.valid = codes, valid[share.start:share.stop]
        self._rows, self._share, self._mesh, self._config = rows, share, mesh, config

    def search(self, queries: HostQueries, top_k: int,
               excluded: np.ndarray | None = None) -> HostRetrieved:
        """Finds the best rows, [batch, top_k]; see HostSearcher. Raises IndexFolderError: an
        embedding cannot be read.
        """
        if not len(queries):
            return host_searcher.nothing(top_k)
        embeddings = np.asarray(types.required(queries.embeddings), np.float32)
        # All excluded passages may be among the candidates.
        count = max(self._config.rescore_candidates,
                    top_k + (0 if excluded is None else excluded.shape[1]))
        found = hosts.to_host(find(self.codes, embeddings, count, self._mesh, self._config.metric))
        first = self._share.start
        ids = found.passage_ids - first
        there = np.isfinite(found.scores) & (ids >= 0) & (ids < len(self._share))
        if excluded is not None:
            there &= ~host_searcher.is_excluded(ids, excluded)
        # Neighbouring questions share candidates. Each row is read once, in the order of the files.
        rows, places = np.unique(ids[there], return_inverse=True)
        vectors = code_lib.normalised(self._rows.take(rows.astype(np.int64) + first),
                                      self._config.metric)
        embeddings = code_lib.normalised(embeddings, self._config.metric)
        scores = np.full(ids.shape, -np.inf, np.float32)
        bounds = np.cumsum(there.sum(axis=1))[:-1]
        for number, (valid, mine) in enumerate(zip(there, np.split(places, bounds), strict=True)):
            scores[number, valid] = vectors[mine] @ embeddings[number]
        # A number that is damaged on disk must not become the best score.
        return host_searcher.best(np.where(np.isfinite(scores), scores, -np.inf), ids, top_k)


def make(index: EmbeddingIndex, mesh: Mesh, config: SearchConfig,
         share: range | None = None) -> CodesOnHost:
    """Loads the codes of an index onto the devices; `share` has the rows that this process scores,
    all by default.

    Raises IndexFolderError, ConfigError: the same errors as codes_files.open_for.
    """
    rows = -(-max(len(index), 1) // mesh.size) * mesh.size
    codes = codes_files.open_for(index, config.metric).device_arrays(mesh, rows, index.deleted)
    return CodesOnHost(codes, index.row_files(), ~index.deleted,
                       range(len(index)) if share is None else share, mesh, config)


@functools.partial(jax.jit, static_argnames=('candidates', 'mesh', 'metric'))
def find(codes: types.Codes, queries: jax.Array, candidates: int, mesh: Mesh,
         metric: str) -> types.Retrieved:
    """Finds candidates for queries [batch, dim] float32 on the devices; see codes.find_candidates.
    Planning compiles this function.
    """
    with partitioning.on_mesh(mesh):
        return codes_lib.find_candidates(codes, queries, candidates, mesh, metric)
