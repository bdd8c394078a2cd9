"""One side of the search benchmark in a process of its own: builds its index, then searches whenever it is told to.

Asked through line_process by benchmarks/search.py.
"""

import functools
import math
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import search_vectors

from atlas_jax.runtime import line_process

Search = Callable[[np.ndarray], np.ndarray]  # queries [batch, dim] -> ids [batch, top_k]


def numpy_matmul(path: pathlib.Path, top_k: int) -> dict[str, Search]:
    """Matrix product, argpartition, sort."""
    vectors = search_vectors.read(path)

    def search(queries: np.ndarray) -> np.ndarray:
        scores = queries @ vectors.T
        best = np.argpartition(scores, -top_k, axis=1)[:, -top_k:]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
        return np.take_along_axis(best, order, axis=1)

    return {'numpy': search}


def faiss_flat(path: pathlib.Path, top_k: int) -> dict[str, Search]:
    """faiss's exact index."""
    index = _faiss().IndexFlatIP(search_vectors.DIM)
    for block in search_vectors.read_blocks(path):
        index.add(block)
    return {'faiss_flat': lambda queries: index.search(queries, top_k)[1]}


def faiss_ivfpq(path: pathlib.Path, top_k: int) -> dict[str, Search]:
    """faiss's inverted lists with product quantisation, 96 bytes a vector."""
    faiss = _faiss()
    rows = path.stat().st_size // (4 * search_vectors.DIM)
    lists = max(round(math.sqrt(rows)), 1)
    index = faiss.IndexIVFPQ(faiss.IndexFlatIP(search_vectors.DIM), search_vectors.DIM, lists, 96, 8, faiss.METRIC_INNER_PRODUCT)
    index.train(next(search_vectors.read_blocks(path)))
    for block in search_vectors.read_blocks(path):
        index.add(block)

    def search(queries: np.ndarray, probes: int) -> np.ndarray:
        index.nprobe = probes
        return index.search(queries, top_k)[1]

    settings = {probes: functools.partial(search, probes=probes) for probes in (8, 32, 128)}
    return {'faiss_ivfpq': settings[32], 'faiss_ivfpq, 8 lists': settings[8], 'faiss_ivfpq, 128 lists': settings[128]}


def faiss_hnsw(path: pathlib.Path, top_k: int) -> dict[str, Search]:
    """faiss's graph of neighbours, 32 links a vector."""
    faiss = _faiss()
    index = faiss.IndexHNSWFlat(search_vectors.DIM, 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 64
    for block in search_vectors.read_blocks(path):
        index.add(block)

    def search(queries: np.ndarray, effort: int) -> np.ndarray:
        index.hnsw.efSearch = effort
        return index.search(queries, top_k)[1]

    settings = {effort: functools.partial(search, effort=effort) for effort in (32, 128, 512)}
    return {'faiss_hnsw': settings[128], 'faiss_hnsw, effort 32': settings[32], 'faiss_hnsw, effort 512': settings[512]}


def exact(path: pathlib.Path, top_k: int) -> dict[str, Search]:
    """Ours, exact."""
    from atlas_jax.searchers import exact
    return {'exact': _jitted(lambda arrays, queries, mesh: exact.search(arrays, queries, top_k, mesh), _arrays(path))}


def int8(path: pathlib.Path, top_k: int) -> dict[str, Search]:
    """Ours, int8 beside the float rows, which score the candidates again: what the searcher int8 does with a float index."""
    from atlas_jax import partitioning
    from atlas_jax.searchers import config, in_graph, int8
    settings, arrays = config.SearchConfig('int8'), _arrays(path)
    scanned = int8.scanned_rows(arrays, partitioning.make_mesh(), settings.metric, settings.scan_share)
    return {'int8': _jitted(
        lambda both, queries, mesh: in_graph.search(both[0], queries, top_k, mesh, settings, scanned=both[1]), (arrays, scanned))}


def int8_index(path: pathlib.Path, top_k: int) -> dict[str, Search]:
    """Ours, an index that is int8 itself: a quarter of the memory, candidates scored again by the rows as they are."""
    from atlas_jax.searchers import config, in_graph
    settings = config.SearchConfig('int8')
    return {'int8_index': _jitted(lambda arrays, queries, mesh: in_graph.search(arrays, queries, top_k, mesh, settings), _quantized(path))}


def scann(path: pathlib.Path, top_k: int) -> dict[str, Search]:
    """Ours, ScaNN with the parameters that searchers/scann.py chooses, and with fewer and more leaves."""
    from atlas_jax.searchers import host_searcher, scann
    vectors = search_vectors.read(path)
    searcher = scann.build(vectors, np.ones(len(vectors), bool))
    chosen = dict(searcher.parameters)

    def search(queries: np.ndarray, leaves: int) -> np.ndarray:
        searcher.parameters = {**chosen, 'leaves_searched': leaves}
        return searcher.search(host_searcher.HostQueries([''] * len(queries), queries), top_k).passage_ids

    sides = {'scann': functools.partial(search, leaves=chosen['leaves_searched'])}
    if chosen['leaves']:
        for share in (0.01, 0.02, 0.05, 0.1):
            sides[f'scann, {share:.0%} of leaves'] = functools.partial(search, leaves=max(1, round(share * chosen['leaves'])))
    return sides


SIDES = {side.__name__: side for side in (numpy_matmul, faiss_flat, faiss_ivfpq, faiss_hnsw, exact, int8, int8_index, scann)}


def _faiss():
    import faiss
    faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))
    return faiss


def _jitted(search, arrays) -> Search:
    import jax

    from atlas_jax import partitioning
    mesh = partitioning.make_mesh()
    arrays = jax.device_put(arrays)
    run = jax.jit(lambda arrays, queries: search(arrays, queries, mesh).passage_ids)
    return lambda queries: np.asarray(run(arrays, queries))


def _arrays(path: pathlib.Path):
    import jax

    from atlas_jax import types
    vectors = jax.device_put(search_vectors.read(path))
    return types.IndexArrays(embeddings=vectors, valid=np.ones(len(vectors), bool))


def _quantized(path: pathlib.Path):
    import jax

    from atlas_jax import types
    from atlas_jax.searchers import int8
    quantize = jax.jit(int8.quantize)
    parts = [jax.device_get(quantize(block)) for block in search_vectors.read_blocks(path)]
    values, scales = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return types.IndexArrays(embeddings=values, valid=np.ones(len(values), bool), scales=scales)


def _peak_bytes() -> int:
    # Not getrusage: its figure starts with what the parent had when it forked.
    status = pathlib.Path('/proc/self/status').read_text(encoding='ascii')
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith('VmHWM'))) * 1024


class Side:
    """Answers `build`, then `search`."""

    def build(self, side: str, vectors: str, top_k: int) -> dict[str, Any]:
        """Builds the side's index: names of its searchers, seconds."""
        start = time.perf_counter()
        self._searches = SIDES[side](pathlib.Path(vectors), top_k)
        return {'searchers': list(self._searches), 'build_seconds': time.perf_counter() - start}

    def search(self, searcher: str, batch: int, queries: str, ids: bool) -> dict[str, Any]:
        """Searches with the queries of an npy file, `batch` at a time: seconds, ids where asked for, peak memory so far."""
        asked, search = np.load(queries), self._searches[searcher]
        parts = [np.ascontiguousarray(asked[first:first + batch]) for first in range(0, len(asked), batch)]
        start = time.perf_counter()
        found = [search(part) for part in parts]
        seconds = time.perf_counter() - start
        return {'seconds': seconds, 'ids': np.concatenate(found).tolist() if ids else None, 'peak_bytes': _peak_bytes()}


if __name__ == '__main__':
    side = Side()
    line_process.serve({'build': side.build, 'search': side.search})
