"""One side of the search benchmark in its own process: builds its index, then searches on request.

benchmarks/search.py asks it through line_process.
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
    """faiss's inverted lists with product quantisation, 96 bytes per vector."""
    faiss = _faiss()
    lists = max(round(math.sqrt(search_vectors.rows_of(path))), 1)
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
    """faiss's graph of neighbours, 32 links per vector."""
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


def faiss_ivfpq_rescored(path: pathlib.Path, top_k: int) -> dict[str, Search]:
    """faiss's product quantisation of 96 bytes in inverted lists, with 100 to 1,000 candidates scored by the rows."""
    lists = max(round(math.sqrt(search_vectors.rows_of(path))), 1)
    # np: no training for polysemous codes, which takes minutes and is useless without them.
    return _rescored(path, top_k, 'faiss_ivfpq', f'IVF{lists},PQ96np', probes=128)


def faiss_rabitq(path: pathlib.Path, top_k: int) -> dict[str, Search]:
    """faiss's RaBitQ, one bit per dimension, scanned whole, with 100 to 1,000 candidates scored by the rows."""
    return _rescored(path, top_k, 'faiss_rabitq', 'RaBitQfs')


def _rescored(path: pathlib.Path, top_k: int, name: str, factory: str, probes: int | None = None) -> dict[str, Search]:
    faiss = _faiss()
    # Candidates are scored by rows in memory: float32, or 8-bit rows (as ours then are) if float32 needs too many bytes.
    factory += ',Refine(SQ8)' if path.suffix == '.f16' else ',RFlat'
    index = faiss.index_factory(search_vectors.DIM, factory, faiss.METRIC_INNER_PRODUCT)
    index.train(next(search_vectors.read_blocks(path)))
    for block in search_vectors.read_blocks(path):
        index.add(block)
    if probes is not None:
        faiss.extract_index_ivf(index).nprobe = probes

    def search(queries: np.ndarray, candidates: int) -> np.ndarray:
        index.k_factor = candidates / top_k
        return index.search(queries, top_k)[1]

    return {f'{name}, {count} rescored': functools.partial(search, candidates=count) for count in (100, 300, 1000)}


def exact(path: pathlib.Path, top_k: int) -> dict[str, Search]:
    """Ours, exact."""
    from atlas_jax.searchers import exact
    return {'exact': _jitted(lambda arrays, queries, mesh: exact.search(arrays, queries, top_k, mesh), _arrays(path))}


def int8(path: pathlib.Path, top_k: int) -> dict[str, Search]:
    """Ours, int8 beside the float rows, which score the candidates again: the searcher int8 with a float index."""
    from atlas_jax import partitioning
    from atlas_jax.searchers import config, in_graph, int8
    settings, arrays = config.SearchConfig('int8'), _arrays(path)
    scanned = int8.scanned_rows(arrays, partitioning.make_mesh(), settings.metric, settings.scan_share)
    return {'int8': _jitted(
        lambda both, queries, mesh: in_graph.search(both[0], queries, top_k, mesh, settings, scanned=both[1]), (arrays, scanned))}


def int8_index(path: pathlib.Path, top_k: int) -> dict[str, Search]:
    """Ours, an int8 index: a quarter of the memory, candidates scored again by its own rows."""
    from atlas_jax.searchers import config, in_graph
    settings = config.SearchConfig('int8')
    return {'int8_index': _jitted(lambda arrays, queries, mesh: in_graph.search(arrays, queries, top_k, mesh, settings),
                                  _index(path, 'int8').device_arrays(_mesh()))}


def codes(path: pathlib.Path, top_k: int) -> dict[str, Search]:
    """Ours, codes of 64, 96 and 192 bytes; rows on the device score 100 to 1,000 candidates."""
    found, arrays = {}, _arrays(path)
    # 96 bytes come last and stay for codes_host. Speed hardly depends on the bytes left out.
    for size, counts in ((64, (300, 1000)), (192, (100, 300)), (96, (100, 300, 1000))):
        scanned = _compressed(path, size).device_arrays(_mesh(), len(arrays.valid), ~np.asarray(arrays.valid))
        for count in counts:
            found[f'codes, {size} bytes, {count} rescored'] = _jitted(functools.partial(_by_codes, top_k, count), (scanned, arrays))
    return found


def _by_codes(top_k: int, candidates: int, both: tuple, queries, mesh):
    from atlas_jax.searchers import codes
    return codes.search(*both, queries, top_k, mesh, candidates)


def codes_host(path: pathlib.Path, top_k: int, dtype: str | None = None) -> dict[str, Search]:
    """Ours, codes of 96 bytes in memory; rows of the index's files score the candidates, warm and cold."""
    from atlas_jax.searchers import codes_on_host, config, host_searcher
    _compressed(path, 96, dtype)
    index = _index(path, dtype)
    counts = (100, 300, 1000)
    one = codes_on_host.make(index, _mesh(), config.SearchConfig('codes', rescore='host'))
    searchers = {count: codes_on_host.CodesOnHost(one.codes, index.row_files(), one.valid, range(len(index)), _mesh(), config.SearchConfig(
        'codes', rescore='host', rescore_candidates=count)) for count in counts}
    files = [file for file in (pathlib.Path(index.path) / 'shards').rglob('*') if file.is_file()]
    os.sync()  # a page that is not on disk yet cannot be dropped

    def search(queries: np.ndarray, count: int, cold: bool) -> np.ndarray:
        for file in files if cold else []:
            descriptor = os.open(file, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
        return searchers[count].search(host_searcher.HostQueries([''] * len(queries), queries), top_k).passage_ids

    rows = f' in {dtype}' if dtype else ''
    return {f'codes on the host{rows}, {count} rescored{", cold" if cold else ""}': functools.partial(search, count=count, cold=cold)
            for count in counts for cold in (False, True)}


def codes_host_bfloat16(path: pathlib.Path, top_k: int) -> dict[str, Search]:
    """The same with bfloat16 rows on disk: 8-bit rows lose some of the nearest by themselves."""
    return codes_host(path, top_k, 'bfloat16')


def _mesh():
    from atlas_jax import partitioning
    return partitioning.make_mesh()


class _Vectors:
    """The vectors as a store of passages and their embedder: the two interfaces that building an index needs."""

    dim, fingerprint, path = search_vectors.DIM, 'vectors', 'vectors'

    def __init__(self, path: pathlib.Path):
        from atlas_jax.index.embedded_by import EmbeddedBy
        self._rows = np.memmap(path, search_vectors.TYPES[path.suffix], 'r').reshape(-1, self.dim)
        self.record = EmbeddedBy('vectors', 'float32', 'average', True, self.dim, '', '', 2)

    def __len__(self) -> int:
        return len(self._rows)

    def fingerprint_of(self, rows: int) -> str:
        """Returns the same fingerprint for any number of rows."""
        return self.fingerprint

    def superseded(self) -> np.ndarray:
        """Returns no rows: no passage is replaced."""
        return np.zeros(len(self), bool)

    def rows_of(self, store: '_Vectors', first: int, stop: int) -> Callable[..., np.ndarray]:
        """Returns rows unchanged."""
        return lambda rows, bar: self._rows[rows + first].astype(np.float32, copy=False)


def _index(path: pathlib.Path, dtype: str | None = None):
    """Returns the vectors as an index on disk, beside their file; in int8 if they are stored in float16."""
    from atlas_jax.index.embedding_index import EmbeddingIndex
    dtype = dtype or ('int8' if path.suffix == '.f16' else 'float32')
    folder = path.with_name(f'{path.name}.{dtype}')
    if not (folder / 'manifest.json').is_file():
        vectors = _Vectors(path)
        return EmbeddingIndex.build(vectors, vectors, folder, dtype=dtype, progress=False)
    return EmbeddingIndex.open(folder)


ENCODING: dict[int, dict[str, Any]] = {}  # by bytes: how this process made the codes


def _compressed(path: pathlib.Path, size: int, dtype: str | None = None):
    """Returns codes of the vectors, made as `atlas-jax index compress` makes them."""
    from atlas_jax.searchers import codes_building, codes_files
    index = _index(path, dtype)
    before = codes_files.read(index.path)
    start = time.perf_counter()
    made = codes_building.compress(index, codes_building.CodesSettings(size, accept_recall=True), show_progress=False)
    seconds = time.perf_counter() - start
    if made == before:  # another side made them, and was timed
        return codes_files.open_for(index, 'max_inner_product')
    ENCODING[size] = {'seconds': seconds, 'rows_per_second': len(index) / seconds, 'weight': made.weight,
                      'recall_at_20_of_perturbed_rows': float(made.recall_at_20)}
    print(f'codes of {size} bytes: {ENCODING[size]}', flush=True)
    return codes_files.open_for(index, 'max_inner_product')


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


SIDES = {side.__name__: side for side in (numpy_matmul, faiss_flat, faiss_ivfpq, faiss_ivfpq_rescored, faiss_rabitq, faiss_hnsw, exact,
                                          int8, int8_index, codes, codes_host, codes_host_bfloat16, scann)}


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
    if path.suffix == '.f16':
        return _index(path).device_arrays(_mesh())
    vectors = jax.device_put(search_vectors.read(path))
    return types.IndexArrays(embeddings=vectors, valid=np.ones(len(vectors), bool))


def _peak_bytes() -> int:
    # Not getrusage: its figure starts at the parent's size at the fork.
    status = pathlib.Path('/proc/self/status').read_text(encoding='ascii')
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith('VmHWM'))) * 1024


class Side:
    """Answers `build`, then `search`."""

    def build(self, side: str, vectors: str, top_k: int) -> dict[str, Any]:
        """Builds the side's index. Returns names of its searchers, seconds, how codes were made."""
        start = time.perf_counter()
        self._searches = SIDES[side](pathlib.Path(vectors), top_k)
        seconds = time.perf_counter() - start
        self._building_bytes = _peak_bytes()
        pathlib.Path('/proc/self/clear_refs').write_text('5', encoding='ascii')  # resets the peak
        return {'searchers': list(self._searches), 'build_seconds': seconds, 'encoding': ENCODING}

    def search(self, searcher: str, batch: int, queries: str, ids: bool) -> dict[str, Any]:
        """Searches with the queries of an npy file, `batch` at a time. Returns seconds, ids if asked for, peak memory so far."""
        asked, search = np.load(queries), self._searches[searcher]
        parts = [np.ascontiguousarray(asked[first:first + batch]) for first in range(0, len(asked), batch)]
        start = time.perf_counter()
        found = [search(part) for part in parts]
        seconds, peak = time.perf_counter() - start, _peak_bytes()
        return {'seconds': seconds, 'ids': np.concatenate(found).tolist() if ids else None,
                'peak_bytes': max(peak, self._building_bytes), 'searching_bytes': peak}


if __name__ == '__main__':
    side = Side()
    line_process.serve({'build': side.build, 'search': side.search})
