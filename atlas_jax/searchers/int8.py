"""Search in int8 in the graph: scan with whole-number products, then score the best candidates
again in float.

Of a float index, an int8 copy of its principal components is scanned. Most of an embedding's length
lies in a part of its dimensions, and the scan only has to find candidates.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from atlas_jax import types
from atlas_jax.searchers import exact, scan

Array = jax.Array
_LARGEST = 127
# XLA on CPU multiplies a matrix with one int8 vector thirty times slower than with two (100,000 x
# 768: 152 against 5 ms).
_LEAST_BATCH = 2
_SAMPLE = 16_384  # rows from which the principal components are computed
_SCAN_STEP = 128  # scanned dimensions are a multiple of this: a TPU pads to it
# A device rotates and quantises this many rows at a time: in float the rotated rows are large.
_COPIED_ROWS = 8192


def quantize(vectors: Array) -> tuple[Array, Array]:
    """Rounds vectors [n, dim] to numbers [n, dim] int8 x scales [n] float32. The scale fits a
    vector's largest number.
    """
    largest = jnp.max(jnp.abs(vectors), axis=-1)
    scales = jnp.where(largest > 0, largest, 1) / _LARGEST
    return jnp.round(vectors / scales[..., None]).astype(jnp.int8), scales


def scan_form(vectors: Array, rotation: Array | None, metric: str) -> tuple[Array, Array]:
    """Converts embeddings [n, dim] to the form of a ScannedRows: numbers [n, scan_dim] int8 and
    scales [n] float32.

    Vectors get unit length for cosine, are multiplied by `rotation` [dim, scan_dim] unless it is
    None, and are quantised.
    """
    vectors = exact.prepare_queries(vectors, metric)
    return quantize(vectors if rotation is None else _product(vectors, rotation))


def scanned_rows(index: types.IndexArrays, mesh: Mesh, metric: str = 'max_inner_product',
                 share: float = 1.0) -> types.ScannedRows:
    """Makes the copy of a float index that is scanned: the principal components that hold `share`
    of the rows' squared length.

    The components are computed from a sample of the rows. They are not centred, because inner
    products are not.

    Args:
      index: [rows, dim] in float32 or bfloat16, sharded over the mesh.
      mesh: the mesh.
      metric: max_inner_product or cosine.
      share: 0 to 1; 1 keeps all dimensions unchanged.
    """
    dim, rotation = index.embeddings.shape[1], None
    if share < 1 and dim > _SCAN_STEP:
        components, shares = _principal(mesh, metric)(index)
        # Empty if all rows are zero: the shares are NaN then.
        enough = np.flatnonzero(np.asarray(shares) >= share)
        scan_dim = min(-(-(int(enough[0]) + 1) // _SCAN_STEP) *
                       _SCAN_STEP, dim) if len(enough) else dim
        # Where all dimensions are needed, a rotation gains nothing.
        rotation = components[:, :scan_dim] if scan_dim < dim else None
    return scanned_by(index, mesh, metric, rotation)


def scanned_by(index: types.IndexArrays, mesh: Mesh, metric: str,
               rotation: Array | None) -> types.ScannedRows:
    """Makes the copy of a float index that is scanned, with a given rotation [dim, scan_dim]; None
    keeps all dimensions.
    """
    values, scales = _copy(mesh, metric)(index.embeddings, rotation)
    return types.ScannedRows(types.IndexArrays(embeddings=values, valid=index.valid, scales=scales),
                             rotation)


def search(arrays: types.IndexArrays, queries: Array, top_k: int, mesh: Mesh, overfetch: int = 2,
           scanned: types.ScannedRows | None = None, chunk_rows: int | None = None,
           metric: str = 'max_inner_product') -> types.Retrieved:
    """Finds the best rows by an int8 scan, with exact scores from `arrays`. Works inside jit; no
    gradient flows through it.

    The scan is exact in whole numbers, so candidates do not depend on the number of devices.

    Args:
      arrays: the index, which scores the candidates.
      queries: [batch, dim] float32.
      top_k: rows for a query.
      mesh: the mesh whose axes shard the rows.
      overfetch: candidates that are scored again, as a multiple of top_k.
      scanned: the copy that is scanned; None if the index is int8 itself.
      chunk_rows: rows of a device that are scored at a time; None chooses by memory.
      metric: max_inner_product or cosine.

    Results and errors are those of exact.search.
    """
    scan.check(arrays, queries, top_k, mesh, chunk_rows)
    batch = queries.shape[0]
    padded = jnp.pad(exact.prepare_queries(queries, metric),
                     ((0, max(_LEAST_BATCH - batch, 0)), (0, 0)))
    # Candidates beyond the number of rows would only be empty places.
    candidates = min(top_k * overfetch, max(arrays.valid.shape[0], top_k))
    if scanned is None:
        rows, compared, score = arrays, quantize(padded), _score(metric)
    else:  # for cosine the copy holds vectors of unit length, so an inner product is enough
        rows, compared = scanned.rows, scan_form(padded, scanned.rotation, metric)
        score = _score('max_inner_product')
    found = scan.top_rows(rows, compared, candidates, mesh, score, chunk_rows=chunk_rows)
    # without the padding of _LEAST_BATCH
    found = jax.tree.map(lambda column: column[:batch], found)
    return exact.rescore(found, arrays, queries, top_k, mesh, metric)


def _product(vectors: Array, rotation: Array) -> Array:
    """Returns [n, dim] @ [dim, scan_dim] in float32; by default a TPU would round to bfloat16."""
    return jnp.matmul(vectors, rotation, precision=jax.lax.Precision.HIGHEST)


@functools.lru_cache(maxsize=8)
def _principal(mesh: Mesh, metric: str) -> Callable[[types.IndexArrays], tuple[Array, Array]]:
    """Compiles index -> (components [dim, dim], shares [dim]): the shares of the squared length in
    the first 1, 2, ... components.
    """
    everywhere = NamedSharding(mesh, PartitionSpec())

    def run(index: types.IndexArrays) -> tuple[Array, Array]:
        total = index.valid.shape[0]
        rows = np.linspace(0, total - 1, min(total, _SAMPLE)).astype(np.int32)
        sample = exact.prepare_queries(index.embeddings[rows], metric) * index.valid[rows][:, None]
        # Every device computes the whole, so that the components do not depend on their number.
        sample = jax.lax.with_sharding_constraint(sample, everywhere)
        # [dim], ascending, and [dim, dim]
        squares, components = jnp.linalg.eigh(_product(sample.T, sample))
        return components[:, ::-1], jnp.cumsum(squares[::-1]) / jnp.sum(squares)

    return jax.jit(run, out_shardings=everywhere)


@functools.lru_cache(maxsize=8)
def _copy(mesh: Mesh, metric: str) -> Callable[[Array, Array | None], tuple[Array, Array]]:
    """Compiles (embeddings [rows, dim], rotation) -> scan_form of all rows, _COPIED_ROWS at a time.
    """
    by_rows, everywhere = PartitionSpec(mesh.axis_names), PartitionSpec()

    def local(embeddings: Array, rotation: Array | None) -> tuple[Array, Array]:
        rows, dim = embeddings.shape
        chunk = min(rows, _COPIED_ROWS)

        def step(number: Array | int, so_far: tuple[Array, Array]) -> tuple[Array, Array]:
            start = jnp.minimum(number * chunk, rows - chunk)  # the last chunk repeats some rows
            fresh = scan_form(jax.lax.dynamic_slice_in_dim(embeddings, start, chunk), rotation,
                              metric)
            return jax.tree.map(
                lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new, start, axis=0),
                so_far, fresh)

        empty = jnp.zeros((rows, dim if rotation is None else rotation.shape[1]),
                          jnp.int8), jnp.zeros(rows, jnp.float32)
        return jax.lax.fori_loop(0, -(-rows // chunk), step, empty)

    return jax.jit(
        jax.shard_map(local, mesh=mesh, in_specs=(by_rows, everywhere), out_specs=by_rows,
                      check_vma=False))


def _score(metric: str) -> scan.Score:
    """Returns a function that scores int8 rows for queries given as (numbers [batch, dim] int8,
    scales [batch]).
    """
    def run(arrays: types.IndexArrays, queries: tuple[Array, Array]) -> Array:
        values, scales = queries
        # [rows, dim] x [batch, dim] -> [rows, batch]
        products = jax.lax.dot_general(arrays.embeddings, values, (((1, ), (1, )), ((), ())),
                                       preferred_element_type=jnp.int32)
        if metric == 'cosine':
            # The numbers' length; a row's scale would cancel. At least 1, for rows of zeros.
            squares = jnp.sum(jnp.square(arrays.embeddings.astype(jnp.int32)), axis=-1)
            row_scales = jax.lax.rsqrt(jnp.maximum(squares, 1).astype(jnp.float32))
        else:
            assert arrays.scales is not None  # rows in int8 have scales
            row_scales = arrays.scales
        return products * row_scales[:, None] * scales

    return run
