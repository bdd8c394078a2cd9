"""Search by codes in the graph: scan the codes of all rows, then score the best candidates by their embeddings.

On a TPU a kernel scans (codes_kernel.py); elsewhere chunks of codes are unpacked and multiplied. Both estimate the same numbers.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from atlas_jax import errors, partitioning, types
from atlas_jax.searchers import code as code_lib
from atlas_jax.searchers import codes_kernel, exact, scan

Array = jax.Array
GROUPS = 64  # words of a device are a multiple of it: 128 blocks of 16 rows, the lanes of a TPU, and what a CPU unpacks at a time
BLOCK = 16  # rows of half a word
# Scores a device sorts at a time: each chunk's best are found anew. Of a million rows and 64 queries a quarter of it takes 13 % longer
# at 300 candidates and 22 % at 1,000; twice of it is no faster.
_CHUNK_BYTES = 128 * 2**20
_WIDTH = 128  # neighbours that the two-level top-k takes together
_LEAST_BLOCKS = 4  # fewest of them a candidate at which two levels are faster than one


def layout(mesh: Mesh) -> tuple[PartitionSpec, PartitionSpec, PartitionSpec]:
    """Returns how words, factors and turn of Codes lie on the devices."""
    return PartitionSpec(mesh.axis_names), PartitionSpec(None, mesh.axis_names), PartitionSpec()


def device_groups(rows: int, mesh: Mesh) -> int:
    """Returns how many words a device has, of an index of so many rows on all devices."""
    local = -(-rows // mesh.size)
    return -(-local // (GROUPS * code_lib.ROWS_OF_A_WORD)) * GROUPS


def scan_flops(codes: types.Codes, batch: int, mesh: Mesh) -> float:
    """Returns the FLOPs of a device's scan for a batch of queries."""
    return 2.0 * codes_kernel.padded_queries(batch) * (codes.words.shape[0] // mesh.size) * code_lib.ROWS_OF_A_WORD * codes.words.shape[1]


def search(codes: types.Codes, arrays: types.IndexArrays, queries: Array, top_k: int, mesh: Mesh, candidates: int = 300,
           metric: str = 'max_inner_product') -> types.Retrieved:
    """Finds the best rows among the candidates of a scan of codes. Works inside jit; no gradient flows through it.

    Args:
      codes: of the rows of `arrays`.
      arrays: the index, which scores the candidates.
      queries: [batch, dim] float32.
      top_k: rows a query gets.
      mesh: the mesh whose axes shard the rows.
      candidates: rows that are scored exactly, at least top_k.
      metric: max_inner_product or cosine, which the codes must be made for.

    Returns as exact.search. Raises ConfigError: as exact.search, or codes of other rows than the index has.
    """
    scan.check(arrays, queries, top_k, mesh)
    if arrays.valid.shape[0] != codes.rows:
        raise errors.ConfigError(f'codes of {codes.rows} rows do not fit an index of {arrays.valid.shape[0]}; load both for the same rows')
    found = find_candidates(codes, queries, max(candidates, top_k), mesh, metric)
    return scan.rescore(found, arrays, exact.prepare(queries, metric), top_k, mesh, exact.score(metric))


def find_candidates(codes: types.Codes, queries: Array, candidates: int, mesh: Mesh,
                    metric: str = 'max_inner_product') -> types.Retrieved:
    """Returns the rows with the largest estimates, [batch, candidates], best first; ties by the lower id, -inf and 0 past the last row.

    Estimates are of the inner product less that of the query with the mean of the rows. Arguments as of `search`.
    """
    # Rounded here for all devices alike: a matrix unit takes bfloat16, and whole numbers of 8 bits would cost a fifth of the recall.
    weights = jnp.matmul(exact.prepare(queries, metric), codes.turn, precision=jax.lax.Precision.HIGHEST).astype(jnp.bfloat16)
    local_rows = codes.rows // mesh.size

    def local(arrays: tuple[Array, Array], weights: Array) -> tuple[Array, Array]:
        find = _by_kernel if partitioning.platform() == 'tpu' else _by_unpacking
        return find(*arrays, weights, codes.planes, candidates)

    words, factors, _ = layout(mesh)
    return scan.over_devices(local, (codes.words, codes.factors), (words, factors), weights, candidates, local_rows, mesh)


def estimates(words: Array, factors: Array, weights: Array, planes: tuple[int, ...]) -> Array:
    """Estimates all rows of some words; -inf where there is no row.

    Args:
      words: [n, bits] uint32.
      factors: [16, 2 * n] float32.
      weights: [batch, components] bfloat16.
      planes: as in Codes.

    Returns:
      [batch, 32 * n] float32.
    """
    products = weights.astype(jnp.float32) @ code_lib.decode(words, planes)  # [batch, components] x [components, rows]
    return _scaled(products, factors.T.reshape(-1))


def _scaled(products: Array, factors: Array) -> Array:
    # Added, not multiplied: a row that was deleted may have a negative product.
    return products * factors + jnp.where(factors > 0, 0, -jnp.inf)


def _by_unpacking(words: Array, factors: Array, weights: Array, planes: tuple[int, ...], candidates: int) -> tuple[Array, Array]:
    """Returns a device's best rows, scores and local ids [batch, candidates], by unpacking GROUPS words at a time."""
    groups, batch = words.shape[0], weights.shape[0]
    # The last chunk may be smaller, so that none is scanned twice.
    size = min(groups, max(_CHUNK_BYTES // (4 * batch * code_lib.ROWS_OF_A_WORD) // GROUPS, 1) * GROUPS)
    empty = (jnp.full((batch, candidates), -jnp.inf, jnp.float32), jnp.zeros((batch, candidates), jnp.int32))

    def chunk(start: Any, size: int, so_far: tuple[Array, Array]) -> tuple[Array, Array]:
        def part(number: Array, scores: Array) -> Array:
            first = start + number * GROUPS
            found = estimates(jax.lax.dynamic_slice_in_dim(words, first, GROUPS),
                              jax.lax.dynamic_slice_in_dim(factors, 2 * first, 2 * GROUPS, axis=1), weights, planes)
            return jax.lax.dynamic_update_slice_in_dim(scores, found, number * GROUPS * code_lib.ROWS_OF_A_WORD, axis=1)

        scores = jax.lax.fori_loop(0, size // GROUPS, part, jnp.zeros((batch, size * code_lib.ROWS_OF_A_WORD), jnp.float32))
        scores, places = top_columns(scores, min(candidates, scores.shape[1]))
        # What was found before has lower ids and stands first, so the stable top_k gives ties to the lower id.
        scores, chosen = jax.lax.top_k(jnp.concatenate([so_far[0], scores], axis=1), candidates)
        ids = jnp.concatenate([so_far[1], places + start * code_lib.ROWS_OF_A_WORD], axis=1)
        return scores, jnp.take_along_axis(ids, chosen, axis=1)

    whole, rest = divmod(groups, size)
    found = jax.lax.fori_loop(0, whole, lambda number, so_far: chunk(number * size, size, so_far), empty)
    return chunk(whole * size, rest, found) if rest else found


def _by_kernel(words: Array, factors: Array, weights: Array, planes: tuple[int, ...], candidates: int,
               interpret: bool = False) -> tuple[Array, Array]:
    """Returns the same by the kernel: the maxima of all blocks of 16 rows, the best blocks, and the best rows in these."""
    columns = plane_columns(weights, planes)  # [batch, bits]
    maxima = codes_kernel.block_maxima(words, factors, columns, interpret=interpret)  # [batch, 2 * words]
    # As many blocks as candidates hold these: every other block's best row has that many at least as good before it.
    count = min(candidates, maxima.shape[1])
    _, chosen = top_columns(maxima, count)
    chosen = jnp.sort(chosen, axis=1)  # in row order, for the ties

    def of_one(query: tuple[Array, Array]) -> tuple[Array, Array]:
        columns, blocks = query  # [bits], [count]
        halves = words[blocks // 2] >> (BLOCK * (blocks % 2)).astype(jnp.uint32)[:, None]  # [count, bits]
        bits = (halves[:, None] >> jnp.arange(BLOCK, dtype=jnp.uint32)[:, None]) & 1  # [count, 16, bits]
        signs = jnp.where(bits == 1, 1, -1).astype(jnp.bfloat16).reshape(count * BLOCK, -1)
        products = jnp.matmul(signs, columns, preferred_element_type=jnp.float32)
        scores = _scaled(products, factors[:, blocks].T.reshape(-1))
        ids = (blocks[:, None] * BLOCK + jnp.arange(BLOCK)).reshape(-1)
        missing = max(candidates - count * BLOCK, 0)
        scores, places = jax.lax.top_k(jnp.pad(scores, (0, missing), constant_values=-jnp.inf), candidates)
        return scores, jnp.pad(ids, (0, missing))[places]

    # Query by query: the unpacked blocks of all would be large.
    return jax.lax.map(of_one, (columns, chosen))


def plane_columns(weights: Array, planes: tuple[int, ...]) -> Array:
    """Returns what each bit of a row counts, as +1 or -1: [batch, bits] in the type of weights [batch, components]."""
    # Powers of two change no digit of a float.
    return jnp.concatenate([weights[:, :width] * 2.0 ** (plane - 1) for plane, width in enumerate(planes)], axis=1).astype(weights.dtype)


def top_columns(scores: Array, count: int) -> tuple[Array, Array]:
    """Returns the largest of scores [batch, n] and their columns, [batch, count] each, ties by the lower column.

    In two levels, as scan.stable_top_k: the best blocks of neighbours by their maxima, then the best columns in these.
    """
    batch, columns = scores.shape
    blocks = columns // _WIDTH
    if columns % _WIDTH or blocks < _LEAST_BLOCKS * count:
        return jax.lax.top_k(scores, count)
    by_block = scores.reshape(batch, blocks, _WIDTH)
    _, chosen = jax.lax.top_k(jnp.max(by_block, axis=2), count)
    chosen = jnp.sort(chosen, axis=1)  # in their order, for the ties
    found = jnp.take_along_axis(by_block, chosen[:, :, None], axis=1).reshape(batch, count * _WIDTH)
    places = (chosen[:, :, None] * _WIDTH + jnp.arange(_WIDTH)).reshape(batch, count * _WIDTH)
    best, where = jax.lax.top_k(found, count)
    return best, jnp.take_along_axis(places, where, axis=1)
