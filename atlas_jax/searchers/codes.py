"""Search by codes in the graph: scan the codes of all rows, then score the best candidates by their
embeddings.

On a TPU a kernel scans (codes_kernel.py); elsewhere chunks of codes are unpacked and multiplied.
Both estimate the same numbers.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from atlas_jax import errors, partitioning, types
from atlas_jax.searchers import code as code_lib
from atlas_jax.searchers import codes_kernel, exact, scan

Array = jax.Array
# A device has a multiple of this many words: 128 blocks of 16 rows, the lanes of a TPU. A CPU
# unpacks this many at a time.
GROUPS = 64
BLOCK = 16  # rows of half a word
# Scores that a device sorts at a time. With a million rows and 64 queries, chunks of a quarter of
# this take 13 % longer at 300 candidates and 22 % at 1,000; chunks of twice this are no faster.
_CHUNK_BYTES = 128 * 2**20
_WIDTH = 128  # width of the blocks of the two-level top-k


def layout(mesh: Mesh) -> tuple[PartitionSpec, PartitionSpec, PartitionSpec]:
    """Returns the PartitionSpecs of Codes: words, factors and turn."""
    return PartitionSpec(mesh.axis_names), PartitionSpec(None, mesh.axis_names), PartitionSpec()


def device_groups(rows: int, mesh: Mesh) -> int:
    """Returns the number of words on a device, for an index of `rows` rows on all devices."""
    local = -(-rows // mesh.size)
    return -(-local // (GROUPS * code_lib.ROWS_OF_A_WORD)) * GROUPS


def scan_flops(codes: types.Codes, batch: int, mesh: Mesh) -> float:
    """Returns the FLOPs of a device's scan for a batch of queries."""
    return 2.0 * codes_kernel.padded_queries(batch) * (
        codes.words.shape[0] // mesh.size) * code_lib.ROWS_OF_A_WORD * codes.words.shape[1]


def search(codes: types.Codes, arrays: types.IndexArrays, queries: Array, top_k: int, mesh: Mesh,
           candidates: int = 300, metric: str = 'max_inner_product') -> types.Retrieved:
    """Finds the best rows among the candidates of a scan of codes. Works inside jit; no gradient
    flows through it.

    Args:
      codes: codes of the rows of `arrays`.
      arrays: the index, which scores the candidates.
      queries: [batch, dim] float32.
      top_k: rows for a query.
      mesh: the mesh whose axes shard the rows.
      candidates: rows that are scored exactly; at least top_k are.
      metric: max_inner_product or cosine; the codes must be made for it.

    Returns the same as exact.search. Raises ConfigError: the same errors as exact.search, or codes
    and index differ in their rows.
    """
    scan.check(arrays, queries, top_k, mesh)
    if arrays.valid.shape[0] != codes.rows:
        raise errors.ConfigError(f'codes of {codes.rows} rows do not fit an index of '
                                 f'{arrays.valid.shape[0]}; load both for the same rows')
    found = find_candidates(codes, queries, max(candidates, top_k), mesh, metric)
    return exact.rescore(found, arrays, queries, top_k, mesh, metric)


def find_candidates(codes: types.Codes, queries: Array, candidates: int, mesh: Mesh,
                    metric: str = 'max_inner_product') -> types.Retrieved:
    """Returns the rows with the largest estimates, [batch, candidates], best first; ties by the
    lower id, -inf and 0 past the last row.

    Estimates are inner products with the rows, less the query's inner product with their mean.
    Arguments are those of `search`.
    """
    # Rounded here, the same for all devices: a matrix unit takes bfloat16. Whole numbers of 8 bits
    # would cost a fifth of the recall.
    weights = jnp.matmul(exact.prepare_queries(queries, metric), codes.turn,
                         precision=jax.lax.Precision.HIGHEST).astype(jnp.bfloat16)
    local_rows = codes.rows // mesh.size

    def local(arrays: tuple[Array, Array], weights: Array) -> tuple[Array, Array]:
        find = _by_kernel if partitioning.platform() == 'tpu' else _by_unpacking
        return find(*arrays, weights, codes.planes, candidates)

    words, factors, _ = layout(mesh)
    return scan.over_devices(local, (codes.words, codes.factors), (words, factors), weights,
                             candidates, local_rows, mesh)


def estimates(words: Array, factors: Array, weights: Array, planes: tuple[int, ...]) -> Array:
    """Estimates all rows of some words; -inf for places without a row.

    Args:
      words: [n, bits] uint32.
      factors: [16, 2 * n] float32.
      weights: [batch, components] bfloat16.
      planes: number of components with a first bit, a second, ...; see Codes.

    Returns:
      [batch, 32 * n] float32.
    """
    # [batch, components] x [components, rows]
    products = weights.astype(jnp.float32) @ code_lib.decode(words, planes)
    return _scaled(products, factors.T.reshape(-1))


def _scaled(products: Array, factors: Array) -> Array:
    # Added, not multiplied: a deleted row may have a negative product.
    return products * factors + jnp.where(factors > 0, 0, -jnp.inf)


def _by_unpacking(words: Array, factors: Array, weights: Array, planes: tuple[int, ...],
                  candidates: int) -> tuple[Array, Array]:
    """Returns a device's best rows, scores and local ids [batch, candidates], by unpacking GROUPS
    words at a time.
    """
    groups, batch = words.shape[0], weights.shape[0]
    # The last chunk may be smaller, so that no word is scanned twice.
    size = min(groups,
               max(_CHUNK_BYTES // (4 * batch * code_lib.ROWS_OF_A_WORD) // GROUPS, 1) * GROUPS)

    def chunk(start: Any, size: int, so_far: tuple[Array, Array]) -> tuple[Array, Array]:
        def part(number: Array, scores: Array) -> Array:
            first = start + number * GROUPS
            found = estimates(jax.lax.dynamic_slice_in_dim(words, first, GROUPS),
                              jax.lax.dynamic_slice_in_dim(factors, 2 * first, 2 * GROUPS, axis=1),
                              weights, planes)
            return jax.lax.dynamic_update_slice_in_dim(scores, found,
                                                       number * GROUPS * code_lib.ROWS_OF_A_WORD,
                                                       axis=1)

        scores = jax.lax.fori_loop(0, size // GROUPS, part,
                                   jnp.zeros((batch, size * code_lib.ROWS_OF_A_WORD), jnp.float32))
        scores, places = top_columns(scores, min(candidates, scores.shape[1]))
        return scan.merge(so_far, scores, places + start * code_lib.ROWS_OF_A_WORD)

    whole, rest = divmod(groups, size)
    found = jax.lax.fori_loop(0, whole, lambda number, so_far: chunk(number * size, size, so_far),
                              scan.empty(batch, candidates))
    return chunk(whole * size, rest, found) if rest else found


def _by_kernel(words: Array, factors: Array, weights: Array, planes: tuple[int, ...],
               candidates: int, interpret: bool = False) -> tuple[Array, Array]:
    """Returns the same with the kernel: the maxima of all blocks of 16 rows, then the best blocks,
    then the best rows in these.
    """
    columns = plane_columns(weights, planes)  # [batch, bits]
    # [batch, 2 * words]
    maxima = codes_kernel.block_maxima(words, factors, columns, interpret=interpret)
    # As many blocks as candidates are enough: the chosen blocks already have that many rows at
    # least as good as any row of the others.
    count = min(candidates, maxima.shape[1])
    _, chosen = top_columns(maxima, count)
    chosen = jnp.sort(chosen, axis=1)  # in row order, for the ties

    def best_rows(query: tuple[Array, Array]) -> tuple[Array, Array]:
        columns, blocks = query  # [bits], [count]
        # [count, bits]
        halves = words[blocks // 2] >> (BLOCK * (blocks % 2)).astype(jnp.uint32)[:, None]
        # [count, 16, bits]
        bits = (halves[:, None] >> jnp.arange(BLOCK, dtype=jnp.uint32)[:, None]) & 1
        signs = jnp.where(bits == 1, 1, -1).astype(jnp.bfloat16).reshape(count * BLOCK, -1)
        products = jnp.matmul(signs, columns, preferred_element_type=jnp.float32)
        scores = _scaled(products, factors[:, blocks].T.reshape(-1))
        ids = (blocks[:, None] * BLOCK + jnp.arange(BLOCK)).reshape(-1)
        missing = max(candidates - count * BLOCK, 0)
        scores, places = jax.lax.top_k(jnp.pad(scores, (0, missing), constant_values=-jnp.inf),
                                       candidates)
        return scores, jnp.pad(ids, (0, missing))[places]

    # Query by query: the unpacked blocks of all queries would be large.
    return jax.lax.map(best_rows, (columns, chosen))


def plane_columns(weights: Array, planes: tuple[int, ...]) -> Array:
    """Returns the weight of each bit, which counts as +1 or -1: [batch, bits] in the dtype of
    weights [batch, components].
    """
    # Powers of two do not round a float.
    return jnp.concatenate(
        [weights[:, :width] * 2.0**(plane - 1) for plane, width in enumerate(planes)],
        axis=1).astype(weights.dtype)


def top_columns(scores: Array, count: int) -> tuple[Array, Array]:
    """Returns the largest of scores [batch, n] and their columns, [batch, count] each, ties by the
    lower column.

    Searches in two levels where the columns are many; see scan.best_of_blocks.
    """
    batch, columns = scores.shape
    blocks = columns // _WIDTH
    if columns % _WIDTH or blocks < scan.BLOCKS_PER_CANDIDATE * count:
        return jax.lax.top_k(scores, count)
    by_block = scores.reshape(batch, blocks, _WIDTH)
    return scan.best_of_blocks(
        jnp.max(by_block, axis=2),
        lambda chosen: jnp.take_along_axis(by_block, chosen[:, :, None], axis=1), _WIDTH, count,
        scores[:, columns:])
