"""T5's relative position bias, from differences alone: one bias serves every passage."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax import partitioning
from atlas_jax.nn import dense

Array = jax.Array


def buckets(relative_positions: np.ndarray, bidirectional: bool, num_buckets: int, max_distance: int) -> np.ndarray:
    """The bucket of each relative position (key position - query position).

    Half of the buckets are exact, the other half grow logarithmically up to `max_distance`; all beyond share the last. Bidirectional
    ones spend half on keys after the query; otherwise keys after the query fall into bucket 0.

    Args:
      relative_positions: any shape, int.

    Returns:
      The same shape, int32, in [0, num_buckets).

    Source: Raffel et al. 2020, section 2.1; logarithms in float32, as T5X and Hugging Face take them.
    """
    distances = -np.asarray(relative_positions)
    offsets = np.zeros_like(distances)
    if bidirectional:
        num_buckets //= 2
        offsets = np.where(distances < 0, num_buckets, 0)
        distances = np.abs(distances)
    distances = np.maximum(distances, 0)
    exact = num_buckets // 2
    ratio = np.maximum(distances, exact).astype(np.float32) / np.float32(exact)
    logarithmic = np.log(ratio) / np.float32(np.log(max_distance / exact)) * np.float32(num_buckets - exact)
    far = np.minimum(exact + logarithmic.astype(np.int32), num_buckets - 1)
    return (offsets + np.where(distances < exact, distances, far)).astype(np.int32)


class RelativePositionBias(nn.Module):
    """A learned bias per head and bucket, `rel_embedding` [heads, relpos_buckets]."""

    num_heads: int
    num_buckets: int
    max_distance: int
    bidirectional: bool
    emb_dim: int

    def setup(self):
        init = nn.with_logical_partitioning(dense.normal(1 / self.emb_dim), ('heads', 'relpos_buckets'))
        self.rel_embedding = self.param('rel_embedding', init, (self.num_heads, self.num_buckets))

    def __call__(self, length: int) -> Array:
        """[heads, length, length] float32: the bias of every query (second axis) on every key (third axis).

        A bias is a Toeplitz matrix: each row is the row above it shifted by one. Laying out `2 * length` values again and again and cutting
        the line at `2 * length - 1` gives just that; its backward is a sum and a matmul with a one-hot matrix, never a scatter.
        """
        values = self._values(np.arange(-length + 1, length + 1))  # [heads, 2 * length]
        line = jnp.broadcast_to(values[:, None], (self.num_heads, length, 2 * length)).reshape(self.num_heads, -1)
        shifted = line[:, :length * (2 * length - 1)].reshape(self.num_heads, length, 2 * length - 1)
        return shifted[:, :, length - 1:]

    def row(self, position: Array, length: int) -> Array:
        """[heads, 1, length] float32: the bias of the query at `position` (scalar int) on keys 0 .. length - 1."""
        values = self._values(np.arange(-length + 1, length))  # [heads, 2 * length - 1]; key 0 stands at length - 1 - position
        return jax.lax.dynamic_slice_in_dim(values, length - 1 - position, length, axis=1)[:, None]

    def _values(self, relative_positions: np.ndarray) -> Array:
        table = buckets(relative_positions, self.bidirectional, self.num_buckets, self.max_distance)
        one_hot = np.eye(self.num_buckets, dtype=np.float32)[table]
        # h heads, b buckets, r relative positions; exact on every device
        rel_embedding = partitioning.whole(self.rel_embedding, ('heads', 'relpos_buckets'))
        return jnp.einsum('hb,rb->hr', rel_embedding, one_hot, precision=jax.lax.Precision.HIGHEST)
