"""The feed-forward block, plain or gated."""

from collections.abc import Callable

import flax.linen as nn
import jax

from atlas_jax.nn import dense

Array = jax.Array

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    'linear': lambda x: x,
    'relu': jax.nn.relu,
    'gelu': lambda x: jax.nn.gelu(x, approximate=True),
    # jax.nn.gelu takes erfc here, which is half as quick
    'gelu_erf': lambda x: 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5)),
    'silu': jax.nn.silu,
}


class Mlp(nn.Module):
    """`wo(dropout(product of activation_i(wi_i(inputs))))`; a single activation names its kernel `wi`, several `wi_0`, `wi_1`.

    dropout_rate: 0 where the model, as BERT, has no dropout between the two layers.
    """

    mlp_dim: int
    activations: tuple[str, ...] = ('gelu', 'linear')
    use_bias: bool = False
    dropout_rate: float = 0.0
    kernel_init: Callable[..., Array] | None = None
    dtype: str = 'float32'

    @nn.compact
    def __call__(self, inputs: Array, deterministic: bool = True) -> Array:
        """[..., embed] to [..., embed] of `dtype`."""
        hidden = None
        for i, activation in enumerate(self.activations):
            name = 'wi' if len(self.activations) == 1 else f'wi_{i}'
            branch = dense.Dense(self.mlp_dim, ('embed', 'mlp'), self.use_bias, self.kernel_init, self.dtype, name=name)(inputs)
            branch = ACTIVATIONS[activation](branch)
            hidden = branch if hidden is None else hidden * branch
        hidden = nn.Dropout(self.dropout_rate)(hidden, deterministic=deterministic)
        return dense.Dense(inputs.shape[-1], ('mlp', 'embed'), self.use_bias, self.kernel_init, self.dtype, name='wo')(hidden)
