"""Layers with parameters: linear layer, feed-forward block, embedding table and norms. Parameters
are float32 with named axes.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from atlas_jax import partitioning, types
from atlas_jax.nn import products, token_stream

Array = jax.Array
Initializer = Callable[..., Array]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    'linear': lambda x: x,
    'relu': jax.nn.relu,
    'gelu': lambda x: jax.nn.gelu(x, approximate=True),
    # jax.nn.gelu uses erfc here, which takes twice as long.
    'gelu_erf': lambda x: 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5)),
    'silu': jax.nn.silu,
}
LAYER_NORM_KINDS = ('true', 'second_moment')
MLP = 'mlp'  # checkpoint name of the products inside the MLP, which remat may keep
GATHERED = 'gathered'  # the collection that holds gathered weights while a layer is traced


def normal(variance: float) -> Initializer:
    """Returns an initialiser that draws from a normal distribution with this variance."""
    return nn.initializers.normal(stddev=variance**0.5)


def declare(module: nn.Module, name: str, init: Initializer, axes: Sequence[str | None],
            shape: Sequence[int]) -> Array:
    """Declares a parameter of `module` with named axes and returns it as it is stored, [*shape]
    float32.

    Layers gather it (`gathered`) where they use it.
    """
    # flax unboxes the initialiser's result, but its type annotations do not say so.
    boxing: Callable[..., Any] = nn.with_logical_partitioning(init, tuple(axes))
    return module.param(name, boxing, tuple(shape))


def gathered(module: nn.Module, name: str, param: Array, axes: Sequence[str | None],
             dtype: Any = None, split: bool = False) -> Array:
    """Gathers a parameter of `module` by `partitioning.whole`, once for all calls of a bound
    module.

    The collection GATHERED keeps the gathered value if it is mutable. Otherwise a layer that is
    called twice gathers twice.
    """
    if module.has_variable(GATHERED, name):
        return module.get_variable(GATHERED, name)
    value = partitioning.whole(param, axes, dtype, split)
    if module.is_mutable_collection(GATHERED) and not module.is_initializing():
        module.put_variable(GATHERED, name, value)
    return value


class Dense(nn.Module):
    """Linear layer: `inputs @ kernel (+ bias)`, computed in `dtype`.

    features: size of the last output dimension.
    axes: logical names of the kernel's two dimensions; the bias has the second one.
    kernel_init: initialiser of the kernel; None draws with variance 1 / inputs.shape[-1].
    split: each device of the mesh axis `model` computes with its own part of the kernel.
    """

    features: int
    axes: tuple[str, str]
    use_bias: bool = False
    kernel_init: Initializer | None = None
    dtype: str = 'float32'
    split: bool = False

    @nn.compact
    def __call__(self, inputs: Array, by_part: bool = False) -> Array:
        """Maps [..., in] float to [..., features] of `dtype`.

        With `by_part` the inputs are copies [parts, ..., in] (`partitioning.copied`), and each copy
        makes its own part of the features.
        """
        if by_part:
            parts, kernel = inputs.shape[0], self._kernel(inputs.shape[-1])
            # p parts, i in, o out
            outputs = jnp.einsum('p...i,ipo->...po', inputs.astype(self.dtype),
                                 kernel.reshape(kernel.shape[0], parts, -1))
            outputs = outputs.reshape(*inputs.shape[1:-1], self.features)
        else:
            rows = products.without_single_stream(inputs.astype(self.dtype))
            outputs = products.dense(rows, self._kernel(inputs.shape[-1])).reshape(
                *inputs.shape[:-1], self.features)
        if self.use_bias:
            bias = declare(self, 'bias', nn.initializers.zeros, self.axes[1:], (self.features,))
            outputs += gathered(self, 'bias', bias, self.axes[1:], self.dtype, self.split)
        return outputs

    @nn.nowrap
    def _kernel(self, size: int) -> Array:
        """Declares and gathers the kernel, [size, features] of `dtype`."""
        kernel = declare(self, 'kernel', self.kernel_init or normal(1 / size), self.axes,
                         (size, self.features))
        return gathered(self, 'kernel', kernel, self.axes, self.dtype, self.split)


class Mlp(nn.Module):
    """Feed-forward block, plain or gated: `wo(dropout(product of activation_i(wi_i(inputs))))`.

    The kernel of a single activation is `wi`; those of several are `wi_0`, `wi_1` and so on.

    activations: names of ACTIVATIONS.
    dropout_rate: dropout between the two layers; 0 for models without it, such as BERT.
    split: see Dense.
    """

    mlp_dim: int
    activations: tuple[str, ...] = ('gelu', 'linear')
    use_bias: bool = False
    dropout_rate: float = 0.0
    kernel_init: Initializer | None = None
    dtype: str = 'float32'
    split: bool = False

    @nn.compact
    def __call__(self, inputs: Array, deterministic: bool = True) -> Array:
        """Maps [..., embed] float to [..., embed] of `dtype`."""
        hidden = None  # [..., mlp], the product of the branches so far
        for i, activation in enumerate(self.activations):
            name = 'wi' if len(self.activations) == 1 else f'wi_{i}'
            branch = Dense(self.mlp_dim, ('embed', 'mlp'), self.use_bias, self.kernel_init,
                           self.dtype, self.split, name=name)(inputs)
            branch = ACTIVATIONS[activation](checkpoint_name(branch, MLP))
            hidden = branch if hidden is None else hidden * branch
        hidden = nn.Dropout(self.dropout_rate)(hidden, deterministic=deterministic)
        return Dense(inputs.shape[-1], ('mlp', 'embed'), self.use_bias, self.kernel_init,
                     self.dtype, self.split, name='wo')(hidden)


class Embedding(nn.Module):
    """A table `embedding` [num_embeddings, features], looked up by token or by position within a
    passage.

    axes: logical names of the table's two dimensions.
    variance: variance of the initial values.
    """

    num_embeddings: int
    features: int
    axes: tuple[str | None, str] = ('vocab', 'embed')
    variance: float = 1.0
    dtype: str = 'float32'

    def setup(self):
        self.embedding = declare(self, 'embedding', normal(self.variance), self.axes,
                                 (self.num_embeddings, self.features))

    def __call__(self, tokens: Array) -> Array:
        """Looks up tokens [...] int32; returns [..., features] of `dtype`."""
        return partitioning.rows_of(self.embedding, self.axes, tokens, self.dtype)

    def row(self, number: int) -> Array:
        """Returns one row of the table, [features] of `dtype`."""
        return self._whole()[number].astype(self.dtype)

    def by_position(self, stream: types.TokenStream) -> Array:
        """Looks up each token's position within its passage; returns [streams, stream_tokens,
        features] of `dtype`, zeros past the end.

        Raises ValueError: `stream.longest` exceeds the table.
        """
        if stream.longest > self.num_embeddings:
            raise ValueError(f'passages of up to {stream.longest} tokens, but only '
                             f'{self.num_embeddings} positions are known')
        # Looked up as attention rows: the gradient is then a gather and a sum over passages, not a
        # scatter. [streams, passages, longest, features]
        rows = jnp.broadcast_to(self._whole()[:stream.longest],
                                (*stream.lengths.shape, stream.longest, self.features))
        return token_stream.to_stream(stream, rows).astype(self.dtype)

    def attend(self, inputs: Array) -> Array:
        """Multiplies [..., features] with every row; returns logits [..., num_embeddings] float32.
        """
        # f features, v vocabulary
        return jnp.einsum('...f,vf->...v', inputs.astype(jnp.float32), self._whole())

    def _whole(self) -> Array:
        return partitioning.whole(self.embedding, self.axes)


class RMSNorm(nn.Module):
    """T5's norm: x * rsqrt(mean(x**2) + epsilon) * scale over the last axis, in float32. It has
    neither mean nor bias.
    """

    epsilon: float = 1e-6
    dtype: str = 'float32'

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Normalises [..., embed] float; the same shape in `dtype`."""
        scale = declare(self, 'scale', nn.initializers.ones, ('embed',), inputs.shape[-1:])
        return _rms_norm(self.epsilon, inputs.astype(jnp.float32),
                         gathered(self, 'scale', scale, ('embed', ))).astype(self.dtype)


class LayerNorm(nn.Module):
    """BERT's norm over the last axis, in float32, with one of two denominators.

    kind: 'true' divides by the standard deviation, 'second_moment' by the root of mean(x**2). Both
      subtract the mean. Released Atlas checkpoints were trained with 'second_moment'.
    """

    kind: str = 'true'
    epsilon: float = 1e-12
    dtype: str = 'float32'

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Normalises [..., embed] float; the same shape in `dtype`."""
        scale = declare(self, 'scale', nn.initializers.ones, ('embed',), inputs.shape[-1:])
        bias = declare(self, 'bias', nn.initializers.zeros, ('embed',), inputs.shape[-1:])
        scale, bias = (partitioning.whole(param, ('embed',)) for param in (scale, bias))
        return _layer_norm(self.kind, self.epsilon, inputs.astype(jnp.float32), scale,
                           bias).astype(self.dtype)


# The backward passes are written out for two reasons. XLA's CPU backend sums over tokens on one
# core, 40 times slower than a product with ones. And a norm then keeps only its inputs and one
# number a token, which saves two arrays as large as the hidden states.

def _inverse_root_mean_square(inputs: Array, epsilon: float) -> Array:
    """Reduces [..., embed] to [..., 1] float32."""
    return jax.lax.rsqrt(jnp.mean(jnp.square(inputs), axis=-1, keepdims=True) + epsilon)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rms_norm(epsilon: float, inputs: Array, scale: Array) -> Array:
    """Normalises [..., embed] float32 with scale [embed]."""
    return _rms_norm_forward(epsilon, inputs, scale)[0]


def _rms_norm_forward(epsilon, inputs, scale):
    inverse = _inverse_root_mean_square(inputs, epsilon)
    return inputs * inverse * scale, (inputs, inverse, scale)


def _rms_norm_backward(_, saved, gradient):
    inputs, inverse, scale = saved
    normed, to_normed = inputs * inverse, gradient * scale
    to_inputs = inverse * (to_normed -
                           normed * jnp.mean(to_normed * normed, axis=-1, keepdims=True))
    return to_inputs, products.sum_over_leading(gradient * normed, 1)


_rms_norm.defvjp(_rms_norm_forward, _rms_norm_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _layer_norm(kind: str, epsilon: float, inputs: Array, scale: Array, bias: Array) -> Array:
    """Normalises [..., embed] float32 with scale and bias, each [embed]."""
    return _layer_norm_forward(kind, epsilon, inputs, scale, bias)[0]


def _layer_norm_forward(kind, epsilon, inputs, scale, bias):
    mean = jnp.mean(inputs, axis=-1, keepdims=True)
    centred = inputs - mean
    inverse = _inverse_root_mean_square(centred if kind == 'true' else inputs, epsilon)
    return centred * inverse * scale + bias, (inputs, mean, inverse, scale)


def _layer_norm_backward(kind, _, saved, gradient):
    inputs, mean, inverse, scale = saved
    normed, to_normed = (inputs - mean) * inverse, gradient * scale
    measured = normed if kind == 'true' else inputs * inverse  # the denominator's statistic
    # The last operation is between two large arrays. If it were a product with `inverse`, XLA's CPU
    # backend would fuse it into each of its readers and recompute its inputs there, back through
    # the norms of every layer above.
    from_mean = inverse * (to_normed - jnp.mean(to_normed, axis=-1, keepdims=True))
    to_inputs = from_mean - measured * (inverse *
                                        jnp.mean(to_normed * normed, axis=-1, keepdims=True))
    return to_inputs, products.sum_over_leading(gradient * normed,
                                                1), products.sum_over_leading(gradient, 1)


_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)
