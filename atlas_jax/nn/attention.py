"""Multi-head attention: within passages of token streams, over given keys and values, and for one
decoding step.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from atlas_jax import types
from atlas_jax.nn import flash_attention, layers, products, token_stream

Array = jax.Array
KeysValues = tuple[Array, Array]
# Kinds of attention that can be recorded: logits, probabilities, and probabilities times the norm
# of the value.
RECORDED = ('scores', 'probs', 'norms')

# Far below any logit, and finite: a query without keys must not give inf - inf.
_MASKED = -1e30


@jax.custom_vjp
def masked_softmax(logits: Array, mask: Array) -> Array:
    """Computes the softmax over the last axis where `mask` is True, and zeros elsewhere. A query
    without any True key gets zeros.

    Keeps only the probabilities for its gradient; XLA would keep half as much again.

    Args:
      logits: [..., keys] float32.
      mask: bool, broadcastable to `logits`, not a scalar.

    Returns:
      [..., keys] float32.
    """
    # Adds the mask instead of selecting by it: XLA's CPU backend fuses additions and softmax into
    # one pass, and needs three with selections between them.
    logits += jnp.where(mask, 0.0, _MASKED)
    exponentials = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    any_key = jnp.any(mask, axis=-1, keepdims=True).astype(logits.dtype)
    return exponentials * (any_key / jnp.sum(exponentials, axis=-1, keepdims=True))


def _masked_softmax_forward(logits: Array, mask: Array):
    probabilities = masked_softmax(logits, mask)
    return probabilities, probabilities


def _masked_softmax_backward(probabilities: Array, gradient: Array):
    return probabilities * (gradient -
                            jnp.sum(probabilities * gradient, axis=-1, keepdims=True)), None


masked_softmax.defvjp(_masked_softmax_forward, _masked_softmax_backward)


@jax.custom_vjp
def add_bias(logits: Array, bias: Array) -> Array:
    """Adds bias [heads, queries, keys] to logits [..., heads, queries, keys].

    The bias's gradient is a sum over all passages. As a product with ones it takes 2 ms. XLA's sum
    over the leading axes takes 90 ms, a tenth of an encoder layer (CPU, 40 passages of 224 tokens).
    """
    return logits + bias


def _add_bias_forward(logits: Array, bias: Array):
    return logits + bias, None


def _add_bias_backward(_, gradient: Array):
    return gradient, products.sum_over_leading(gradient, 3)  # all but [heads, queries, keys]


add_bias.defvjp(_add_bias_forward, _add_bias_backward)


def _mean_over_heads(name: str, logits: Array, probabilities: Array, value: Array,
                     mask: Array) -> Array:
    """Reduces one kind of attention, a name of RECORDED, to [batch, queries, keys] float32.

    Args:
      logits, probabilities: [batch, heads, queries, keys] float32.
      value: [batch, keys, heads, head_dim].
      mask: see `Attention.over_recording`.
    """
    if name == 'scores':
        return jnp.mean(jnp.where(mask, logits, 0.0), axis=1)
    if name == 'probs':
        return jnp.mean(probabilities, axis=1)
    lengths = jnp.linalg.norm(value.astype(jnp.float32), axis=-1)  # [batch, keys, heads]
    # b batch, h heads, q queries, k keys
    return jnp.einsum('bhqk,bkh->bqk', probabilities, lengths) / value.shape[-2]


def grouped(keys_values: KeysValues, key_mask: Array) -> KeysValues:
    """Reshapes keys and values [..., heads, head_dim] to [batch, keys, heads, head_dim], as
    `key_mask` [batch, keys] bool groups them.

    Call it layer by layer. A reshape between the concatenation of all layers and its slices would
    keep XLA from cancelling the two.
    """
    keys, values = keys_values
    return keys.reshape(*key_mask.shape,
                        *keys.shape[-2:]), values.reshape(*key_mask.shape, *values.shape[-2:])


def by_head(keys_values: KeysValues, key_mask: Array) -> KeysValues:
    """Lays a layer's keys and values out by head, for a loop that reads them with one query at a
    time.

    With the other layout, XLA's CPU backend would transpose them at every step, at 2.6 times the
    cost of reading them (16 examples, 800 keys).

    Args:
      keys_values: each [..., heads, head_dim]; the leading axes hold batch * keys.
      key_mask: [batch, keys] bool.

    Returns:
      Keys [batch, heads, head_dim, keys] and values [batch, heads, keys, head_dim].
    """
    keys, values = grouped(keys_values, key_mask)
    return jnp.moveaxis(keys, -3, -1), jnp.swapaxes(values, -3, -2)


class Attention(nn.Module):
    """Multi-head attention with kernels query, key, value [embed, joined_kv] and out [joined_kv,
    embed].

    scale: multiplies the queries; 1 in T5, head_dim**-0.5 in BERT.
    dropout_rate: share of the probabilities that training drops.
    query_init: initialiser of the query kernel; None takes kernel_init.
    kernel_init: initialiser of the other kernels; None draws with variance 1 / inputs.
    split: each device of the mesh axis `model` computes its own heads.
    """

    num_heads: int
    head_dim: int
    emb_dim: int
    scale: float = 1.0
    use_bias: bool = False
    dropout_rate: float = 0.0
    query_init: layers.Initializer | None = None
    kernel_init: layers.Initializer | None = None
    dtype: str = 'float32'
    split: bool = False

    def setup(self):
        joined, axes = self.num_heads * self.head_dim, ('embed', 'joined_kv')
        self.query = layers.Dense(joined, axes, self.use_bias, self.query_init or self.kernel_init,
                                  self.dtype, self.split)
        self.key = layers.Dense(joined, axes, self.use_bias, self.kernel_init, self.dtype,
                                self.split)
        self.value = layers.Dense(joined, axes, self.use_bias, self.kernel_init, self.dtype,
                                  self.split)
        self.out = layers.Dense(self.emb_dim, axes[::-1], self.use_bias, self.kernel_init,
                                self.dtype, self.split)
        self.dropout = nn.Dropout(self.dropout_rate)

    def keys_values(self, inputs: Array, by_part: bool = False) -> KeysValues:
        """Projects [..., embed] to keys and values, each [..., heads, head_dim]. For `by_part` see
        `layers.Dense`.
        """
        return self._heads(self.key(inputs, by_part)), self._heads(self.value(inputs, by_part))

    def on_stream(self, inputs: Array, stream: types.TokenStream, bias: Array | None,
                  deterministic: bool = True, flash: bool = False) -> Array:
        """Lets each passage of the stream attend to itself.

        Args:
          inputs: [streams, stream_tokens, embed].
          stream: the passages of `inputs`.
          bias: [heads, longest, longest], added to the logits, or None. With `flash` each stream
            has its own copy (flash_attention.one_per_stream).
          deterministic: True switches dropout off.
          flash: uses the kernel of nn/flash_attention.py. Its dropout draws different random
            numbers.

        Returns:
          [streams, stream_tokens, embed]; meaningless past the last passage.
        """
        projections = (self.query(inputs) * self.scale, self.key(inputs), self.value(inputs))
        # each [streams, passages, longest, joined_kv]
        query, key, value = (token_stream.to_rows(stream, projected) for projected in projections)
        if flash:
            seeds = self._seeds(stream) if self.dropout_rate and not deterministic else None
            rows = flash_attention.attend(query, key, value, bias, stream.lengths, seeds,
                                          num_heads=self.num_heads, dropout_rate=self.dropout_rate)
            return self.out(token_stream.to_stream(stream, rows))
        # each [..., passages, longest, heads, head_dim]
        query, key, value = (self._heads(products.without_single_stream(rows))
                             for rows in (query, key, value))
        # [..., passages, heads, queries, keys]
        mask = products.without_single_stream(token_stream.row_mask(stream))[..., None, None, :]
        # [..., passages, longest, joined_kv]
        rows, *_ = self._attend(query, key, value, bias, mask, deterministic)
        return self.out(
            token_stream.to_stream(stream, rows.reshape(*stream.lengths.shape, *rows.shape[-2:])))

    def over(self, inputs: Array, keys_values: KeysValues, bias: Array | None, mask: Array,
             deterministic: bool = True) -> Array:
        """Lets queries from `inputs` attend to given keys and values.

        Args:
          inputs: [batch, length, embed].
          keys_values: each [batch, keys, heads, head_dim].
          bias: [heads, length, keys] or None.
          mask: bool, broadcastable to [batch, heads, length, keys]; a query without any key gets
            zeros.
          deterministic: True switches dropout off.

        Returns:
          [batch, length, embed].
        """
        return self.over_recording(inputs, keys_values, bias, mask, deterministic, ())[0]

    def over_recording(self, inputs: Array, keys_values: KeysValues, bias: Array | None,
                       mask: Array, deterministic: bool,
                       record: Sequence[str]) -> tuple[Array, dict[str, Array]]:
        """Attends as `over`, and records how much each key was attended to, before dropout.

        Args:
          inputs, keys_values, bias, mask, deterministic: see `over`.
          record: names of RECORDED; the other kinds cost nothing.

        Returns:
          [batch, length, embed]; and for each name [batch, length, keys] float32, the mean over
          heads, 0 where `mask` is False, without gradient.
        """
        key, value = keys_values
        query = self._heads(self.query(inputs) * self.scale)
        rows, logits, probabilities = self._attend(query, key, value, bias, mask, deterministic)
        recorded = {
            name: jax.lax.stop_gradient(_mean_over_heads(name, logits, probabilities, value, mask))
            for name in record}
        return self.out(rows), recorded

    def over_by_head(self, inputs: Array, keys_values: KeysValues,
                     mask: Array) -> tuple[Array, Array]:
        """Lets queries from `inputs` attend to keys and values laid out by head, without dropout.

        Args:
          inputs: [batch, length, embed].
          keys_values: the result of `by_head`.
          mask: bool, broadcastable to [batch, heads, length, keys]; a query without any key gets
            zeros.

        Returns:
          [batch, length, embed]; and the probabilities' mean over heads, [batch, length, keys]
          float32.
        """
        key, value = keys_values
        query = self._heads(self.query(inputs) * self.scale)
        # b batch, q queries, k keys, h heads, d head_dim
        logits = jnp.einsum('bqhd,bhdk->bhqk', query, key, preferred_element_type=jnp.float32)
        probabilities = masked_softmax(logits, mask)
        rows = jnp.einsum('bhqk,bhkd->bqhd', probabilities.astype(self.dtype),
                          value.astype(self.dtype))
        # heads side by side again: [batch, length, joined_kv]
        return self.out(rows.reshape(*inputs.shape[:-1], -1)), jnp.mean(probabilities, axis=1)

    def step(self, inputs: Array, position: Array, cache: KeysValues,
             bias: Array) -> tuple[Array, KeysValues]:
        """Lets one token attend to itself and to the tokens before it.

        Args:
          inputs: [batch, 1, embed], the token at `position`, a scalar.
          cache: keys and values of the earlier positions, each [batch, max_length, heads,
            head_dim].
          bias: [heads, 1, max_length].

        Returns:
          [batch, 1, embed] and the cache with this position filled.
        """
        (old_keys, old_values), (new_key, new_value) = cache, self.keys_values(inputs)
        keys = jax.lax.dynamic_update_slice_in_dim(old_keys, new_key.astype(old_keys.dtype),
                                                   position, axis=1)
        values = jax.lax.dynamic_update_slice_in_dim(old_values, new_value.astype(old_values.dtype),
                                                     position, axis=1)
        mask = jnp.arange(keys.shape[1]) <= position  # [keys]
        return self.over(inputs, (keys, values), bias, mask), (keys, values)

    def _attend(self, query: Array, key: Array, value: Array, bias: Array | None, mask: Array,
                deterministic: bool) -> tuple[Array, Array, Array]:
        """Attends to keys [..., keys, heads, head_dim] with queries [..., queries, heads,
        head_dim].

        Returns:
          Joined outputs [..., queries, heads * head_dim]; logits and probabilities, each [...,
          heads, queries, keys] float32.
        """
        # Heads go before queries and keys: otherwise XLA's CPU backend lays every operand out by
        # head_dim, at five times the cost.
        query, key, value = (jnp.swapaxes(each, -3, -2) for each in (query, key, value))
        # Logits are float32 whatever the operands: bfloat16 cannot tell close keys apart.
        logits = products.matmul(query, key, transposed=True, dtype=jnp.float32)
        if bias is not None:
            logits = add_bias(logits, bias)
        probabilities = masked_softmax(logits, mask)
        dropped = self.dropout(probabilities, deterministic=deterministic).astype(self.dtype)
        # back to [..., queries, heads, head_dim]
        rows = jnp.swapaxes(products.matmul(dropped, value.astype(self.dtype)), -3, -2)
        return rows.reshape(*rows.shape[:-2], -1), logits, probabilities

    def _seeds(self, stream: types.TokenStream) -> Array:
        """Draws a seed for each passage, [streams, passages] int32."""
        return jax.lax.bitcast_convert_type(
            jax.random.bits(self.make_rng('dropout'), stream.lengths.shape, jnp.uint32), jnp.int32)

    def _heads(self, joined: Array) -> Array:
        """Splits [..., joined_kv] into [..., heads, head_dim]."""
        return joined.reshape(*joined.shape[:-1], self.num_heads, self.head_dim)
