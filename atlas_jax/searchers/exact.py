"""Exact and approximate search in the graph: the scores of all rows, in float32."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from atlas_jax import partitioning, types
from atlas_jax.searchers import scan

Array = jax.Array
_TINY = 1e-30  # added to squared norms: the zero vector has cosine 0 with everything


def search(arrays: types.IndexArrays, queries: Array, top_k: int, mesh: Mesh,
           chunk_rows: int | None = None, metric: str = 'max_inner_product') -> types.Retrieved:
    """Finds the rows with the largest inner products (or cosines), exactly. Works inside jit; no
    gradient flows through it.

    Args:
      arrays: the index; rows a multiple of the device count.
      queries: [batch, dim] float32.
      top_k: rows for a query; may exceed the number of rows.
      mesh: the mesh whose axes shard the rows.
      chunk_rows: rows of a device that are scored at a time; None chooses by memory.
      metric: max_inner_product or cosine.

    Returns:
      scores [batch, top_k] float32, passage_ids [batch, top_k] int32; ties by the lower id; -inf
      and 0 past the last valid row.

    Raises:
      ConfigError: shapes that do not fit, or a top_k or chunk_rows below 1.
    """
    scan.check(arrays, queries, top_k, mesh, chunk_rows)
    return scan.top_rows(arrays, prepare_queries(queries, metric), top_k, mesh, score(metric),
                         chunk_rows=chunk_rows)


def search_approximately(arrays: types.IndexArrays, queries: Array, top_k: int, mesh: Mesh,
                         recall_target: float = 0.95, chunk_rows: int | None = None,
                         metric: str = 'max_inner_product') -> types.Retrieved:
    """Finds `recall_target` of the best rows on average, by XLA's partial reduction (Chern et al.
    2022).

    The reduction is fast on TPU, and exact on other devices.

    Args:
      recall_target: recall of the merged result, for any number of devices.

    The other arguments, results and errors are those of `search`.
    """
    scan.check(arrays, queries, top_k, mesh, chunk_rows)
    rows = arrays.valid.shape[0]
    if chunk_rows is None and partitioning.platform() == 'tpu':
        chunk_rows = rows  # the product is fused with the reduction, so no scores are kept

    def select(scores: Array, top_k: int) -> tuple[Array, Array]:
        # The target holds for the merged result, so each device may reduce as if it held all rows.
        values, places = jax.lax.approx_max_k(scores, top_k, reduction_dimension=0,
                                              recall_target=recall_target,
                                              reduction_input_size_override=rows,
                                              aggregate_to_topk=True)
        negated, places = jax.lax.sort((-values.T, places.T), num_keys=2)  # ties by the lower row
        return -negated, places

    return scan.top_rows(arrays, prepare_queries(queries, metric), top_k, mesh, score(metric),
                         select, chunk_rows)


def rescore(found: types.Retrieved, arrays: types.IndexArrays, queries: Array, top_k: int,
            mesh: Mesh, metric: str) -> types.Retrieved:
    """Sorts candidates [batch, n] by their exact scores; see scan.rescore. `queries` are [batch,
    dim] float32.
    """
    return scan.rescore(found, arrays, prepare_queries(queries, metric), top_k, mesh, score(metric))


def prepare_queries(queries: Array, metric: str) -> Array:
    """Returns the queries [batch, dim] in float32, normalised for cosine."""
    queries = queries.astype(jnp.float32)
    if metric == 'max_inner_product':
        return queries
    return queries * jax.lax.rsqrt(_squares(queries) + _TINY)[:, None]


def score(metric: str) -> scan.Score:
    """Returns a function that scores rows in float32: rows of float32, bfloat16, or int8 with
    scales.
    """
    def run(arrays: types.IndexArrays, queries: Array) -> Array:
        embeddings = arrays.embeddings.astype(jnp.float32)
        # r: rows, n: batch, d: dim. XLA's product is faster on a CPU with rows first.
        scores = jnp.einsum('rd,nd->rn', embeddings, queries, precision=jax.lax.Precision.HIGHEST)
        if metric == 'cosine':
            # A row's scale would cancel, so it is left out.
            return scores * jax.lax.rsqrt(_squares(embeddings) + _TINY)[:, None]
        return scores if arrays.scales is None else scores * arrays.scales[:, None]

    return run


def _squares(vectors: Array) -> Array:
    """Squared lengths [n] of vectors [n, dim]."""
    return jnp.sum(jnp.square(vectors), axis=-1)
