"""Exact search in the graph: every device scans its own rows, then the candidates are merged."""

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh, PartitionSpec

from atlas_jax import errors, types

Array = jax.Array

# Rows are scored all at once while their scores take no more than this on a device; otherwise in chunks, small ones, because XLA on CPU
# copies each chunk before it multiplies: at 200,000 x 384, batch 64, 8192 rows cost 8 % over the whole, 131072 rows 85 %.
_WHOLE_SCORES_BYTES = 256 * 2**20
_CHUNK_ROWS = 8192
# Width of the blocks of the two-level top-k, and the fewest blocks a candidate at which it pays.
_BLOCK = 128
_MIN_BLOCKS_PER_CANDIDATE = 4


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


def search(arrays: types.IndexArrays, queries: Array, top_k: int, mesh: Mesh, chunk_rows: int | None = None) -> types.Retrieved:
    """The rows with the largest inner products, exactly. Works inside jit; no gradient flows through it.

    Args:
      arrays: embeddings [rows, dim], valid [rows]; rows a multiple of the device count.
      queries: [batch, dim] float32.
      top_k: rows a query gets; may exceed the number of rows.
      mesh: the mesh whose axes shard the rows.
      chunk_rows: rows of a device that are scored at a time; None chooses by memory.

    Returns:
      scores [batch, top_k] float32, passage_ids [batch, top_k] int32; ties by the lower id; -inf and 0 past the last valid row.

    Raises:
      ConfigError: shapes that do not fit, or a top_k or chunk_rows below 1.
    """
    rows, dim = arrays.embeddings.shape
    _check(rows, dim, queries, top_k, mesh, chunk_rows)
    axes = mesh.axis_names
    local_rows = rows // mesh.size
    if chunk_rows is None:
        chunk_rows = local_rows if 4 * queries.shape[0] * local_rows <= _WHOLE_SCORES_BYTES else _CHUNK_ROWS

    def local(embeddings: Array, valid: Array, queries: Array) -> tuple[Array, Array]:
        scores, ids = _scan(embeddings, valid, queries, top_k, min(chunk_rows, local_rows))
        ids = ids + jax.lax.axis_index(axes) * local_rows
        if mesh.size > 1:
            # [batch, devices * top_k]: device order is row order, so the stable top_k still gives ties to the lower id.
            scores, ids = (jax.lax.all_gather(x, axes, axis=1, tiled=True) for x in (scores, ids))
            scores, chosen = jax.lax.top_k(scores, top_k)
            ids = jnp.take_along_axis(ids, chosen, axis=1)
        return scores, jnp.where(scores > -jnp.inf, ids, 0)

    by_rows, whole = PartitionSpec(axes), PartitionSpec()
    # The outputs are replicated by construction: every device merges the same candidates.
    run = jax.shard_map(local, mesh=mesh, in_specs=(by_rows, by_rows, whole), out_specs=(whole, whole), check_vma=False)
    frozen = jax.lax.stop_gradient((arrays.embeddings, arrays.valid, queries.astype(jnp.float32)))
    scores, ids = run(*frozen)
    return types.Retrieved(scores=scores, passage_ids=ids)


def _check(rows: int, dim: int, queries: Array, top_k: int, mesh: Mesh, chunk_rows: int | None) -> None:
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise errors.ConfigError(f'queries have shape {queries.shape}, the index needs [batch, {dim}]; '
                                 'embed the queries with the model of the index')
    if top_k < 1:
        raise errors.ConfigError(f'top_k is {top_k}; it must be at least 1')
    if chunk_rows is not None and chunk_rows < 1:
        raise errors.ConfigError(f'chunk_rows is {chunk_rows}; it must be at least 1')
    if rows == 0 or rows % mesh.size:
        raise errors.ConfigError(f'{rows} index rows do not divide over {mesh.size} devices; load them with Index.device_arrays(mesh)')


def _scan(embeddings: Array, valid: Array, queries: Array, top_k: int, chunk_rows: int) -> tuple[Array, Array]:
    """Running top-k over the chunks of one device: scores [batch, top_k] float32 and local ids [batch, top_k] int32."""
    rows, batch = embeddings.shape[0], queries.shape[0]
    best = (jnp.full((batch, top_k), -jnp.inf, jnp.float32), jnp.zeros((batch, top_k), jnp.int32))

    def step(number: Array | int, best: tuple[Array, Array]) -> tuple[Array, Array]:
        # The last chunk starts early enough to be whole; the rows it repeats are masked.
        start = jnp.minimum(number * chunk_rows, rows - chunk_rows)
        chunk = jax.lax.dynamic_slice_in_dim(embeddings, start, chunk_rows)
        ids = start + jnp.arange(chunk_rows, dtype=jnp.int32)
        new = jax.lax.dynamic_slice_in_dim(valid, start, chunk_rows) & (ids >= number * chunk_rows)
        return _merge(best, _scores(queries, chunk, new), ids, top_k)

    if chunk_rows == rows:
        return _merge(best, _scores(queries, embeddings, valid), jnp.arange(rows, dtype=jnp.int32), top_k)
    return jax.lax.fori_loop(0, -(-rows // chunk_rows), step, best)


def _scores(queries: Array, embeddings: Array, valid: Array) -> Array:
    # n: batch, d: dim, r: rows
    scores = jnp.einsum('nd,rd->nr', queries, embeddings.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)
    return jnp.where(valid, scores, -jnp.inf)


def _merge(best: tuple[Array, Array], scores: Array, ids: Array, top_k: int) -> tuple[Array, Array]:
    """The best of the candidates so far and a chunk's scores [batch, rows]; `best` holds lower ids, so it stands first."""
    if scores.shape[1] >= top_k:
        scores, chosen = _stable_top_k(scores, top_k)
        ids = ids[chosen]
    else:
        ids = jnp.broadcast_to(ids, scores.shape)
    scores, chosen = jax.lax.top_k(jnp.concatenate([best[0], scores], axis=1), top_k)
    return scores, jnp.take_along_axis(jnp.concatenate([best[1], ids], axis=1), chosen, axis=1)


def _stable_top_k(scores: Array, top_k: int) -> tuple[Array, Array]:
    """jax.lax.top_k in two levels: the top_k blocks by their maxima hold the top_k elements.

    Ties stay with the lower position: a block left out lies behind top_k blocks with a larger maximum or an equal one further left.
    """
    batch, rows = scores.shape
    blocks = rows // _BLOCK
    if rows % _BLOCK or blocks < _MIN_BLOCKS_PER_CANDIDATE * top_k:
        return jax.lax.top_k(scores, top_k)
    by_block = scores.reshape(batch, blocks, _BLOCK)
    _, chosen = jax.lax.top_k(by_block.max(axis=-1), top_k)
    chosen = jnp.sort(chosen, axis=-1)  # [batch, top_k], in row order for the ties
    candidates = jnp.take_along_axis(by_block, chosen[..., None], axis=1).reshape(batch, top_k * _BLOCK)
    positions = (chosen[..., None] * _BLOCK + jnp.arange(_BLOCK)).reshape(batch, top_k * _BLOCK)
    scores, best = jax.lax.top_k(candidates, top_k)
    return scores, jnp.take_along_axis(positions, best, axis=1)
