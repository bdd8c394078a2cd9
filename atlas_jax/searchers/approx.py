"""Approximate search in the graph: XLA's own partial reduction for top-k (Chern et al. 2022), fast on TPU and exact elsewhere."""

import jax
from jax.sharding import Mesh

from atlas_jax import types
from atlas_jax.searchers import exact, scan

Array = jax.Array


def search(arrays: types.IndexArrays, queries: Array, top_k: int, mesh: Mesh, recall_target: float = 0.95,
           chunk_rows: int | None = None, metric: str = 'max_inner_product') -> types.Retrieved:
    """As exact.search, but finds only `recall_target` of the best rows on average.

    Args:
      recall_target: over the whole index, however many devices share it.

    Raises:
      ConfigError: as exact.search.
    """
    scan.check(arrays, queries, top_k, mesh, chunk_rows)
    rows = arrays.valid.shape[0]

    def select(scores: Array, top_k: int) -> tuple[Array, Array]:
        # The recall is that of the merged result, so each device may reduce as if it held all rows.
        values, places = jax.lax.approx_max_k(scores, top_k, reduction_dimension=0, recall_target=recall_target,
                                              reduction_input_size_override=rows, aggregate_to_topk=True)
        negated, places = jax.lax.sort((-values.T, places.T), num_keys=2)
        return -negated, places

    return scan.top_rows(arrays, exact.prepare(queries, metric), top_k, mesh, exact.score(metric), select, chunk_rows)
