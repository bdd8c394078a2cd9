"""Exact search in the graph: the scores of all rows, in float32."""

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh

from atlas_jax import types
from atlas_jax.searchers import scan

Array = jax.Array
_TINY = 1e-30  # added to squared norms: the zero vector has cosine 0 with everything


@struct.dataclass
class Exact:
    """A Searcher over device arrays; a pytree, so it can be an argument of a jitted function.

    arrays  the index, rows sharded over every axis of `mesh`
    """

    arrays: types.IndexArrays
    mesh: Mesh = struct.field(pytree_node=False)

    def search(self, queries: Array, top_k: int) -> types.Retrieved:
        """See protocol.Searcher."""
        return search(self.arrays, queries, top_k, self.mesh)


def search(arrays: types.IndexArrays, queries: Array, top_k: int, mesh: Mesh, chunk_rows: int | None = None,
           metric: str = 'max_inner_product') -> types.Retrieved:
    """The rows with the largest inner products (or cosines), exactly. Works inside jit; no gradient flows through it.

    Args:
      arrays: the index; rows a multiple of the device count.
      queries: [batch, dim] float32.
      top_k: rows a query gets; may exceed the number of rows.
      mesh: the mesh whose axes shard the rows.
      chunk_rows: rows of a device that are scored at a time; None chooses by memory.
      metric: max_inner_product or cosine.

    Returns:
      scores [batch, top_k] float32, passage_ids [batch, top_k] int32; ties by the lower id; -inf and 0 past the last valid row.

    Raises:
      ConfigError: shapes that do not fit, or a top_k or chunk_rows below 1.
    """
    scan.check(arrays, queries, top_k, mesh, chunk_rows)
    return scan.top_rows(arrays, prepare(queries, metric), top_k, mesh, score(metric), chunk_rows=chunk_rows)


def prepare(queries: Array, metric: str) -> Array:
    """The queries in float32, normalised for cosine."""
    queries = queries.astype(jnp.float32)
    return queries if metric == 'max_inner_product' else queries * jax.lax.rsqrt(_squares(queries) + _TINY)[:, None]


def score(metric: str) -> scan.Score:
    """Scores in float32 whatever the rows' type: float32, bfloat16, or int8 with scales."""
    def run(arrays: types.IndexArrays, queries: Array) -> Array:
        embeddings = arrays.embeddings.astype(jnp.float32)
        # r: rows, n: batch, d: dim. Rows first: this way round XLA's product is the faster one on CPU.
        scores = jnp.einsum('rd,nd->rn', embeddings, queries, precision=jax.lax.Precision.HIGHEST)
        if metric == 'cosine':
            return scores * jax.lax.rsqrt(_squares(embeddings) + _TINY)[:, None]  # a row's scale stands above and below, and goes
        return scores if arrays.scales is None else scores * arrays.scales[:, None]

    return run


def _squares(vectors: Array) -> Array:
    return jnp.sum(jnp.square(vectors), axis=-1)
