"""A linear layer with named parameter axes."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from atlas_jax import partitioning
from atlas_jax.nn import products

Array = jax.Array


def normal(variance: float) -> Callable[..., Array]:
    """An initialiser drawing from a normal distribution of this variance."""
    return nn.initializers.normal(stddev=variance**0.5)


def without_single_stream(values: Array) -> Array:
    """[1, ...] to [...], the layout of one device; more streams stay apart, for each is on a device of its own.

    With the dimension of 1, XLA's CPU backend copies operands around in the backward pass: an MLP takes 1.6 times as long. Streams must
    not be merged with tokens or passages either: the partitioner then gathers all tokens on every device.
    """
    return values[0] if values.ndim > 2 and values.shape[0] == 1 else values


def sum_over_leading(values: Array, kept: int) -> Array:
    """Sum over all axes but the last `kept`, as a product with ones: XLA's CPU backend does its own sum over them on one core."""
    ones = jnp.ones(values.shape[:-kept], values.dtype)
    return jnp.tensordot(ones, values, axes=ones.ndim, precision=jax.lax.Precision.HIGHEST)


class Dense(nn.Module):
    """`inputs @ kernel (+ bias)`, computed in `dtype`, parameters float32.

    features: size of the last output dimension.
    axes: logical names of the kernel's two dimensions; the bias has the second.
    kernel_init: None draws with variance 1 / inputs.shape[-1].
    """

    features: int
    axes: tuple[str, str]
    use_bias: bool = False
    kernel_init: Callable[..., Array] | None = None
    dtype: str = 'float32'

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """[..., in] float to [..., features] of `dtype`."""
        kernel_init = self.kernel_init or normal(1 / inputs.shape[-1])
        kernel = self.param('kernel', nn.with_logical_partitioning(kernel_init, self.axes), (inputs.shape[-1], self.features))
        rows = without_single_stream(inputs.astype(self.dtype))
        outputs = products.dense(rows, partitioning.whole(kernel, self.axes, self.dtype)).reshape(*inputs.shape[:-1], self.features)
        if self.use_bias:
            bias = self.param('bias', nn.with_logical_partitioning(nn.initializers.zeros, self.axes[1:]), (self.features,))
            outputs += partitioning.whole(bias, self.axes[1:], self.dtype)
        return outputs
