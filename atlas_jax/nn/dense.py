"""A linear layer with named parameter axes."""

from collections.abc import Callable

import flax.linen as nn
import jax

Array = jax.Array


def normal(variance: float) -> Callable[..., Array]:
    """An initialiser drawing from a normal distribution of this variance."""
    return nn.initializers.normal(stddev=variance**0.5)


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
        # As one matrix: with more dimensions XLA's CPU backend copies them around in the backward pass, an MLP takes 1.6 times as long.
        rows = inputs.astype(self.dtype).reshape(-1, inputs.shape[-1])
        outputs = (rows @ kernel.astype(self.dtype)).reshape(*inputs.shape[:-1], self.features)
        if self.use_bias:
            bias = self.param('bias', nn.with_logical_partitioning(nn.initializers.zeros, self.axes[1:]), (self.features,))
            outputs += bias.astype(self.dtype)
        return outputs
