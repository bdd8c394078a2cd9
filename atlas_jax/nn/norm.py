"""Normalisations over the last dimension, computed in float32."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from atlas_jax import partitioning

Array = jax.Array

LAYER_NORM_KINDS = ('true', 'second_moment')


class RMSNorm(nn.Module):
    """T5's norm: x * rsqrt(mean(x**2) + epsilon) * scale, no mean, no bias."""

    epsilon: float = 1e-6
    dtype: str = 'float32'

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """[..., embed] float to the same shape in `dtype`."""
        scale = self.param('scale', nn.with_logical_partitioning(nn.initializers.ones, ('embed',)), (inputs.shape[-1],))
        scale, inputs = partitioning.whole(scale, ('embed',)), inputs.astype(jnp.float32)
        return (inputs * _inverse_root_mean_square(inputs, self.epsilon) * scale).astype(self.dtype)


class LayerNorm(nn.Module):
    """BERT's norm, with either of two denominators.

    kind: 'true' divides by the standard deviation; 'second_moment' by the root of mean(x**2), though the mean is taken off above it:
      what released Atlas checkpoints were trained with.
    """

    kind: str = 'true'
    epsilon: float = 1e-12
    dtype: str = 'float32'

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """[..., embed] float to the same shape in `dtype`."""
        size = (inputs.shape[-1],)
        scale = self.param('scale', nn.with_logical_partitioning(nn.initializers.ones, ('embed',)), size)
        bias = self.param('bias', nn.with_logical_partitioning(nn.initializers.zeros, ('embed',)), size)
        scale, bias = (partitioning.whole(param, ('embed',)) for param in (scale, bias))
        inputs = inputs.astype(jnp.float32)
        centred = inputs - jnp.mean(inputs, axis=-1, keepdims=True)
        measured = centred if self.kind == 'true' else inputs
        return (centred * _inverse_root_mean_square(measured, self.epsilon) * scale + bias).astype(self.dtype)


def _inverse_root_mean_square(inputs: Array, epsilon: float) -> Array:
    return jax.lax.rsqrt(jnp.mean(jnp.square(inputs), axis=-1, keepdims=True) + epsilon)
