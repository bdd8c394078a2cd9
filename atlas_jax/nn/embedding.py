"""Embedding tables: looked up by token, or by position within a passage."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from atlas_jax import partitioning, types
from atlas_jax.nn import token_stream

Array = jax.Array


class Embedding(nn.Module):
    """A table `embedding` [num_embeddings, features] float32, axes `axes`."""

    num_embeddings: int
    features: int
    axes: tuple[str | None, str] = ('vocab', 'embed')
    variance: float = 1.0
    dtype: str = 'float32'

    def setup(self):
        init = nn.initializers.normal(stddev=self.variance**0.5)
        self.embedding = self.param('embedding', nn.with_logical_partitioning(init, self.axes), (self.num_embeddings, self.features))

    def __call__(self, tokens: Array) -> Array:
        """[...] int32 to [..., features] of `dtype`."""
        return jnp.take(self._whole(), tokens, axis=0, mode='clip').astype(self.dtype)

    def row(self, number: int) -> Array:
        """[features] of `dtype`: one row of the table."""
        return self._whole()[number].astype(self.dtype)

    def by_position(self, stream: types.TokenStream) -> Array:
        """[streams, stream_tokens, features]: the row of each token's position within its passage, zeros past the end.

        Raises ValueError when the passages may be longer than the table.
        """
        if stream.longest > self.num_embeddings:
            raise ValueError(f'passages of up to {stream.longest} tokens, but only {self.num_embeddings} positions are known')
        # Through the rows of the attention, so that the backward is a gather and a sum over passages, not a scatter.
        rows = jnp.broadcast_to(self._whole()[:stream.longest], (*stream.lengths.shape, stream.longest, self.features))
        return token_stream.to_stream(stream, rows).astype(self.dtype)

    def attend(self, inputs: Array) -> Array:
        """[..., features] to logits [..., num_embeddings] float32."""
        return jnp.einsum('...f,vf->...v', inputs.astype(jnp.float32), self._whole())  # f features, v vocabulary

    def _whole(self) -> Array:
        return partitioning.whole(self.embedding, self.axes)
