"""The scan of codes on a TPU: a Pallas kernel that unpacks bits into signs beside the matrix unit.

Two rows share a lane of 32 bits as bfloat16: shifting a word brings bit b and bit 16 + b to the two
sign bits, and one xor turns both halves into +1 or -1. XLA unpacks through memory and takes 5 to
20 times as long.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

Array = jax.Array
_BLOCK = 16  # rows of half a word
_GROUPS = 512  # words of a program
_QUERIES = 128  # queries of a program; fewer are padded to a multiple of the sublanes of bfloat16
_SUBLANES = 16
# the two signs of a lane, and -1 in both halves: a bit of 1 turns its half to +1
_SIGNS, _ONES = 0x80008000, 0xBF80BF80


def padded_queries(batch: int) -> int:
    """Returns the number of queries that the kernel computes for a batch."""
    queries = min(-(-batch // _SUBLANES) * _SUBLANES, _QUERIES)
    return -(-batch // queries) * queries


def block_maxima(words: Array, factors: Array, columns: Array, interpret: bool = False) -> Array:
    """Returns the largest estimate of each block of 16 rows; -inf for a block without rows.

    Args:
      words: [n, bits] uint32; bit 16 * h + b of word w is a bit of row b of block 2 * w + h.
      factors: [16, 2 * n] float32; [b, block] belongs to row b of a block, 0 marks no row.
      columns: [batch, bits] bfloat16, the weight of each bit, which counts as +1 or -1.
      interpret: runs on any device, slowly.

    Returns:
      [batch, 2 * n] float32.
    """
    (groups, bits), batch = words.shape, columns.shape[0]
    queries = min(padded_queries(batch), _QUERIES)
    padded = jnp.pad(columns, ((0, padded_queries(batch) - batch), (0, 0)))
    # The last program may be partly empty; its results there are not written.
    size = min(_GROUPS, groups)
    grid = (padded.shape[0] // queries, pl.cdiv(groups, size))
    found = pl.pallas_call(
        _kernel, grid=grid, interpret=interpret,
        out_shape=jax.ShapeDtypeStruct((padded.shape[0], 2 * groups), jnp.float32),
        in_specs=[
            pl.BlockSpec((queries, bits), lambda q, g: (q, 0)),
            pl.BlockSpec((size, bits), lambda q, g: (g, 0)),
            pl.BlockSpec((_BLOCK, 2 * size), lambda q, g: (0, g))],
        out_specs=pl.BlockSpec((queries, 2 * size), lambda q, g: (q, g)),
        compiler_params=pltpu.CompilerParams(dimension_semantics=('parallel', 'parallel')),
        cost_estimate=pl.CostEstimate(
            flops=2 * padded.shape[0] * 32 * groups * bits, transcendentals=0,
            bytes_accessed=grid[0] * (words.size + factors.size) * 4 +
            8 * padded.shape[0] * groups))(padded, words, factors)
    return found[:batch]


def _kernel(columns_ref, words_ref, factors_ref, maxima_ref) -> None:
    """Kernel: writes maxima [queries, 2 * size] from columns [queries, bits], words [size, bits]
    and factors [16, 2 * size].
    """
    words, columns = words_ref[...], columns_ref[...]
    maxima = None
    for row in range(_BLOCK):
        lanes = ((words << (_BLOCK - 1 - row)) & jnp.uint32(_SIGNS)) ^ jnp.uint32(_ONES)
        # [2 * size, bits]: the lower half of word w at 2 * w, the upper one behind it
        signs = pltpu.bitcast(lanes, jnp.bfloat16)
        products = jax.lax.dot_general(columns, signs, (((1, ), (1, )), ((), ())),
                                       preferred_element_type=jnp.float32)
        factors = factors_ref[row:row + 1, :]  # [1, 2 * size]
        estimates = products * factors + jnp.where(factors > 0, 0.0, -jnp.inf)
        maxima = estimates if maxima is None else jnp.maximum(maxima, estimates)
    maxima_ref[...] = maxima
