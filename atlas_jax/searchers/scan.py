"""The scan of every searcher in the graph: each device scores its own rows and keeps the best, then
all devices merge their candidates.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from atlas_jax import errors, partitioning, types

Array = jax.Array
# score(rows of the index, queries) -> [rows, batch] float32; select(scores [rows, batch], k) ->
# values and positions, [batch, k] each.
Score = Callable[[types.IndexArrays, Any], Array]
Select = Callable[[Array, int], tuple[Array, Array]]

# Rows are scored all at once if their scores take at most this much on a device, otherwise in
# chunks. Chunks are small because XLA on CPU copies each one before it multiplies: at 200,000 x
# 384, batch 64, 8192 rows cost 8 % over the whole, 131072 rows 85 %.
_WHOLE_SCORES_BYTES = 256 * 2**20
_CHUNK_ROWS = 8192
# The most memory for a chunk's scores on a TPU: the compiler for v4 keeps them on the chip up to
# here (docs/search.md).
_TPU_SCORES_BYTES = 64 * 2**20
_BLOCK = 64  # width of the blocks of the two-level top-k
_TPU_BLOCK = 128  # the lanes of a vector
_TPU_TILE_ROWS = 32  # rows of a tile of int8
# From this many blocks a candidate on, the two-level top-k is faster than one level.
BLOCKS_PER_CANDIDATE = 4


def check(arrays: types.IndexArrays, queries: Array, top_k: int, mesh: Mesh,
          chunk_rows: int | None = None) -> None:
    """Checks the arguments of a search; queries are [batch, dim].

    Raises ConfigError for shapes that do not fit, or a top_k or chunk_rows below 1.
    """
    rows, dim = arrays.embeddings.shape
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise errors.ConfigError(f'queries have shape {queries.shape}, the index needs [batch, '
                                 f'{dim}]; embed the queries with the model of the index')
    if top_k < 1:
        raise errors.ConfigError(f'top_k is {top_k}; it must be at least 1')
    if chunk_rows is not None and chunk_rows < 1:
        raise errors.ConfigError(f'chunk_rows is {chunk_rows}; it must be at least 1')
    if rows == 0 or rows % mesh.size:
        raise errors.ConfigError(f'{rows} index rows do not divide over {mesh.size} devices; load '
                                 'them with EmbeddingIndex.device_arrays(mesh)')


def top_rows(arrays: types.IndexArrays, queries: Any, top_k: int, mesh: Mesh, score: Score,
             select: Select | None = None, chunk_rows: int | None = None) -> types.Retrieved:
    """Finds the rows with the highest scores by `score`; no gradient flows through it.

    Args:
      arrays: rows sharded over every axis of `mesh`; a multiple of the device count.
      queries: one array or more in the form that `score` reads, batch axis first.
      top_k: rows for a query; may exceed the number of rows.
      mesh: the mesh.
      score: scores some rows; `top_rows` masks deleted rows.
      select: chooses the rows of a chunk to keep; None keeps the best, exactly.
      chunk_rows: rows of a device that are scored at a time; None chooses by platform and memory.

    Returns:
      scores [batch, top_k] float32, passage_ids [batch, top_k] int32; ties by the lower id; -inf
      and 0 past the last valid row.
    """
    local_rows, batch = arrays.valid.shape[0] // mesh.size, jax.tree.leaves(queries)[0].shape[0]
    if chunk_rows is None:
        chunk_rows = _chunk_rows(local_rows, batch)

    def local(arrays: types.IndexArrays, queries: Any) -> tuple[Array, Array]:
        return _scan(arrays, queries, top_k, score, select or stable_top_k,
                     min(chunk_rows, local_rows))

    return over_devices(local, arrays, PartitionSpec(mesh.axis_names), queries, top_k, local_rows,
                        mesh)


def over_devices(local: Callable[[Any, Any], tuple[Array, Array]], arrays: Any, layout: Any,
                 queries: Any, top_k: int, local_rows: int, mesh: Mesh) -> types.Retrieved:
    """Lets every device search its own rows and merges the results; no gradient flows through it.

    Args:
      local: finds a device's best rows, (its part of arrays, queries) -> scores and local ids,
        [batch, top_k] each, best first.
      arrays, layout: the arrays to search, and their PartitionSpecs over all axes of the mesh.
      queries: the queries in the form that `local` reads, the same on every device.
      top_k: columns of the result.
      local_rows: rows of a device.
      mesh: the mesh.

    Returns:
      scores [batch, top_k] float32, passage_ids [batch, top_k] int32; ties by the lower id; 0 where
      the score is -inf.
    """
    axes = mesh.axis_names

    def run(arrays: Any, queries: Any) -> tuple[Array, Array]:
        scores, ids = local(arrays, queries)
        ids = ids + jax.lax.axis_index(axes) * local_rows
        if mesh.size > 1:
            # [batch, devices * top_k]: device order is row order, so the stable top_k still gives
            # ties to the lower id.
            scores, ids = (jax.lax.all_gather(x, axes, axis=1, tiled=True) for x in (scores, ids))
            scores, chosen = jax.lax.top_k(scores, top_k)
            ids = jnp.take_along_axis(ids, chosen, axis=1)  # [batch, top_k]
        return scores, jnp.where(scores > -jnp.inf, ids, 0)

    whole = PartitionSpec()
    # The outputs are replicated by construction: every device merges the same candidates.
    sharded = jax.shard_map(run, mesh=mesh, in_specs=(layout, whole), out_specs=(whole, whole),
                            check_vma=False)
    scores, ids = sharded(*jax.lax.stop_gradient((arrays, queries)))
    return types.Retrieved(scores=scores, passage_ids=ids)


def rescore(found: types.Retrieved, arrays: types.IndexArrays, queries: Any, top_k: int, mesh: Mesh,
            score: Score) -> types.Retrieved:
    """Sorts candidates by another score: each device scores those among its own rows. Ties by the
    lower id.

    Args:
      found: candidates [batch, n]; those with score -inf stay last.
      arrays, queries, mesh, score: the same arguments as those of top_rows.
      top_k: columns of the result, at most n.

    Returns:
      scores [batch, top_k] float32, passage_ids [batch, top_k] int32; -inf and 0 at empty places.
    """
    axes, local_rows = mesh.axis_names, arrays.valid.shape[0] // mesh.size

    def local(ids: Array, arrays: types.IndexArrays, queries: Any) -> Array:
        places = ids - jax.lax.axis_index(axes) * local_rows  # [batch, candidates]
        mine = (places >= 0) & (places < local_rows)
        # Candidates of other devices score some row here; their scores are masked below.
        places = jnp.clip(places, 0, local_rows - 1)

        def score_one(places: Array, query: Any) -> Array:
            # [candidates, ...]
            rows = jax.tree.map(lambda column: jnp.take(column, places, axis=0), arrays)
            return score(rows, jax.tree.map(lambda part: part[None], query))[:, 0]

        scores = jax.vmap(score_one)(places, queries)
        # A candidate lies on one device alone: the sum gives every device its score.
        return jax.lax.psum(jnp.where(mine, scores, 0), axes)

    by_rows, whole = PartitionSpec(axes), PartitionSpec()
    run = jax.shard_map(local, mesh=mesh, in_specs=(whole, by_rows, whole), out_specs=whole,
                        check_vma=False)
    scores = run(*jax.lax.stop_gradient((found.passage_ids, arrays, queries)))
    scores = jnp.where(found.scores > -jnp.inf, scores, -jnp.inf)
    return best(scores, found.passage_ids, top_k)


def best(scores: Array, ids: Array, top_k: int) -> types.Retrieved:
    """Sorts candidates, scores and ids [batch, n] in any order: the highest `top_k` scores first,
    ties by the lower id.
    """
    # jax.lax.top_k prefers the first of equal scores. Candidates are unordered, so the ids are a
    # second key.
    negated, ids = jax.lax.sort((-scores, ids), num_keys=2)
    scores, ids = -negated[:, :top_k], ids[:, :top_k]
    return types.Retrieved(scores=scores, passage_ids=jnp.where(scores > -jnp.inf, ids, 0))


def _scan(arrays: types.IndexArrays, queries: Any, top_k: int, score: Score, select: Select,
          chunk_rows: int) -> tuple[Array, Array]:
    """Keeps a running top-k over the chunks of one device: scores [batch, top_k] float32 and local
    ids [batch, top_k] int32.
    """
    rows, batch = arrays.valid.shape[0], jax.tree.leaves(queries)[0].shape[0]

    def step(number: Array | int, so_far: tuple[Array, Array]) -> tuple[Array, Array]:
        # The last chunk starts early enough to be whole; the rows it repeats are masked.
        start = jnp.minimum(number * chunk_rows, rows - chunk_rows)
        chunk = jax.tree.map(lambda column: _rows_from(column, start, chunk_rows), arrays)
        ids = start + jnp.arange(chunk_rows, dtype=jnp.int32)
        new = chunk.valid & (ids >= number * chunk_rows)
        return _merge_chunk(so_far, _masked(score(chunk, queries), new), ids, top_k, select)

    if chunk_rows == rows:
        return _merge_chunk(empty(batch, top_k), _masked(score(arrays, queries), arrays.valid),
                            jnp.arange(rows, dtype=jnp.int32), top_k, select)
    return jax.lax.fori_loop(0, -(-rows // chunk_rows), step, empty(batch, top_k))


def _rows_from(column: Array, start: Array, count: int) -> Array:
    """Returns `count` rows from `start` on."""
    tile = _TPU_TILE_ROWS
    by_tiles = partitioning.platform() == 'tpu' and column.dtype == jnp.int8
    if not by_tiles or len(column) % tile or count % tile:
        return jax.lax.dynamic_slice_in_dim(column, start, count)
    # Slices whole tiles: to slice int8 rows at any place, the compiler would copy the whole index
    # into another tiling for every chunk.
    tiles = jax.lax.dynamic_slice_in_dim(column.reshape(-1, tile, *column.shape[1:]), start // tile,
                                         count // tile)
    return tiles.reshape(count, *column.shape[1:])


def _chunk_rows(rows: int, batch: int) -> int:
    """Returns how many of a device's rows are scored at a time."""
    if partitioning.platform() == 'tpu':
        most = _TPU_SCORES_BYTES // (4 * max(batch, 1)) // _TPU_BLOCK * _TPU_BLOCK
        return min(rows, max(most, _TPU_BLOCK))
    return rows if 4 * batch * rows <= _WHOLE_SCORES_BYTES else _CHUNK_ROWS


def _masked(scores: Array, valid: Array) -> Array:
    return jnp.where(valid[:, None], scores, -jnp.inf)


def empty(batch: int, top_k: int) -> tuple[Array, Array]:
    """Returns candidates without any row: scores -inf and ids 0, [batch, top_k] each."""
    return jnp.full((batch, top_k), -jnp.inf, jnp.float32), jnp.zeros((batch, top_k), jnp.int32)


def merge(so_far: tuple[Array, Array], scores: Array, ids: Array) -> tuple[Array, Array]:
    """Merges the candidates so far, scores and ids [batch, top_k], with those of higher ids,
    [batch, n] each. Ties by the lower id.
    """
    # `so_far` stands first, so the stable top_k gives ties to the lower id.
    scores, chosen = jax.lax.top_k(jnp.concatenate([so_far[0], scores], axis=1),
                                   so_far[0].shape[1])
    return scores, jnp.take_along_axis(jnp.concatenate([so_far[1], ids], axis=1), chosen, axis=1)


def _merge_chunk(so_far: tuple[Array, Array], scores: Array, ids: Array, top_k: int,
                 select: Select) -> tuple[Array, Array]:
    """Merges the candidates so far, [batch, top_k] each, with a chunk's scores [rows, batch] and
    ids [rows].
    """
    if scores.shape[0] >= top_k:
        scores, chosen = select(scores, top_k)
        ids = ids[chosen]  # [batch, top_k]
    else:
        scores = scores.T  # a chunk of fewer rows is kept whole: [batch, rows]
        ids = jnp.broadcast_to(ids, scores.shape)
    return merge(so_far, scores, ids)


def stable_top_k(scores: Array, top_k: int) -> tuple[Array, Array]:
    """Returns the largest of scores [rows, batch] and their rows, [batch, top_k] each, ties by the
    lower row.

    Searches in two levels where the rows are many; see `best_of_blocks`.
    """
    rows, _ = scores.shape
    on_tpu = partitioning.platform() == 'tpu'
    width = _TPU_BLOCK if on_tpu else _BLOCK
    blocks = rows // width
    if blocks < BLOCKS_PER_CANDIDATE * top_k:
        return jax.lax.top_k(scores.T, top_k)
    maxima, take = _blocks_in_lanes(scores, blocks) if on_tpu else _blocks_in_rows(scores, blocks)
    return best_of_blocks(maxima, take, width, top_k, scores[blocks * width:].T)


def best_of_blocks(maxima: Array, take: Callable[[Array], Array], width: int, top_k: int,
                   rest: Array) -> tuple[Array, Array]:
    """Returns the largest scores and their places, [batch, top_k] each, ties by the lower place.

    The top_k blocks with the largest maxima hold the top_k elements: each of these blocks has an
    element at least as large as any in the other blocks, and on a tie the earlier block is chosen.

    Args:
      maxima: [batch, blocks], the largest score of each block.
      take: returns the scores [batch, top_k, width] of blocks [batch, top_k].
      width: scores of a block.
      top_k: columns of the result.
      rest: [batch, n], scores behind the last whole block; all of them are candidates.
    """
    batch, blocks = maxima.shape
    _, chosen = jax.lax.top_k(maxima, top_k)
    chosen = jnp.sort(chosen, axis=-1)  # [batch, top_k], in the order of places for the ties
    candidates = take(chosen).reshape(batch, top_k * width)
    places = (chosen[..., None] * width + jnp.arange(width)).reshape(batch, top_k * width)
    behind = jnp.broadcast_to(blocks * width + jnp.arange(rest.shape[1]), rest.shape)
    # [batch, top_k * width + n]
    scores, best_places = jax.lax.top_k(jnp.concatenate([candidates, rest], axis=1), top_k)
    return scores, jnp.take_along_axis(jnp.concatenate([places, behind], axis=1), best_places,
                                       axis=1)


def _blocks_in_rows(scores: Array, blocks: int) -> tuple[Array, Callable[[Array], Array]]:
    """Returns the maxima [batch, blocks] of blocks of scores [rows, batch], and a function that
    takes blocks [batch, n] out of the scores.
    """
    # Windows, not scores[:blocks * _BLOCK].reshape(...): unless the rows are a multiple of the
    # block, that slice copies all scores. [blocks, batch]
    maxima = jax.lax.reduce_window(scores, -jnp.inf, jax.lax.max, (_BLOCK, 1), (_BLOCK, 1), 'VALID')

    def block_of(block: Array, query: Array) -> Array:
        return jax.lax.dynamic_slice(scores, (block * _BLOCK, query), (_BLOCK, 1))[:, 0]

    def take(chosen: Array) -> Array:
        return jax.vmap(jax.vmap(block_of, (0, None)))(chosen, jnp.arange(scores.shape[1]))

    return maxima.T, take


def _blocks_in_lanes(scores: Array, blocks: int) -> tuple[Array, Callable[[Array], Array]]:
    """Does the same as _blocks_in_rows on a TPU, with a block's scores beside each other.

    From [rows, batch] the compiler takes one block after another: 1,900 cycles each, three quarters
    of the search.
    """
    by_block = scores[:blocks * _TPU_BLOCK].T.reshape(scores.shape[1], blocks, _TPU_BLOCK)

    def take(chosen: Array) -> Array:
        return jax.vmap(jax.vmap(jax.lax.dynamic_index_in_dim, (None, 0, None, None)),
                        (0, 0, None, None))(by_block, chosen, 0, False)

    return jnp.max(by_block, axis=-1), take
