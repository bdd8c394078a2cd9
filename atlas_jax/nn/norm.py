"""Normalisations over the last dimension, computed in float32."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from atlas_jax import partitioning
from atlas_jax.nn import dense

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
        return _rms_norm(self.epsilon, inputs.astype(jnp.float32), partitioning.whole(scale, ('embed',))).astype(self.dtype)


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
        return _layer_norm(self.kind, self.epsilon, inputs.astype(jnp.float32), scale, bias).astype(self.dtype)


# The backward passes are written out for two reasons. XLA's CPU backend sums over tokens on one core, 40 times slower than a product with
# ones; and of a norm only its inputs and one number a token need be kept, which saves two arrays as large as the hidden states.

def _inverse_root_mean_square(inputs: Array, epsilon: float) -> Array:
    return jax.lax.rsqrt(jnp.mean(jnp.square(inputs), axis=-1, keepdims=True) + epsilon)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rms_norm(epsilon: float, inputs: Array, scale: Array) -> Array:
    return _rms_norm_forward(epsilon, inputs, scale)[0]


def _rms_norm_forward(epsilon, inputs, scale):
    inverse = _inverse_root_mean_square(inputs, epsilon)
    return inputs * inverse * scale, (inputs, inverse, scale)


def _rms_norm_backward(_, saved, gradient):
    inputs, inverse, scale = saved
    normed, to_normed = inputs * inverse, gradient * scale
    to_inputs = inverse * (to_normed - normed * jnp.mean(to_normed * normed, axis=-1, keepdims=True))
    return to_inputs, dense.sum_over_leading(gradient * normed, 1)


_rms_norm.defvjp(_rms_norm_forward, _rms_norm_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _layer_norm(kind: str, epsilon: float, inputs: Array, scale: Array, bias: Array) -> Array:
    return _layer_norm_forward(kind, epsilon, inputs, scale, bias)[0]


def _layer_norm_forward(kind, epsilon, inputs, scale, bias):
    mean = jnp.mean(inputs, axis=-1, keepdims=True)
    centred = inputs - mean
    inverse = _inverse_root_mean_square(centred if kind == 'true' else inputs, epsilon)
    return centred * inverse * scale + bias, (inputs, mean, inverse, scale)


def _layer_norm_backward(kind, _, saved, gradient):
    inputs, mean, inverse, scale = saved
    normed, to_normed = (inputs - mean) * inverse, gradient * scale
    measured = normed if kind == 'true' else inputs * inverse  # what the denominator is taken of
    # The last operation is between two large arrays. A product with `inverse` alone XLA's CPU backend would compute anew for each of its
    # readers, and with it all it comes from, back through the norms of every layer above.
    from_mean = inverse * (to_normed - jnp.mean(to_normed, axis=-1, keepdims=True))
    to_inputs = from_mean - measured * (inverse * jnp.mean(to_normed * normed, axis=-1, keepdims=True))
    return to_inputs, dense.sum_over_leading(gradient * normed, 1), dense.sum_over_leading(gradient, 1)


_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)
