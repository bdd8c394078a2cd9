"""Multi-head attention: over token streams, over keys and values made before, and one step at a time."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from atlas_jax import types
from atlas_jax.nn import dense, flash_attention, products, token_stream

Array = jax.Array
KeysValues = tuple[Array, Array]

# Far below any logit, and finite: a query without keys must not give inf - inf.
_MASKED = -1e30


@jax.custom_vjp
def masked_softmax(logits: Array, mask: Array) -> Array:
    """Softmax over the last axis where `mask` (bool, broadcastable, not a scalar) is True; zeros elsewhere, also where nothing is True.

    Takes and returns float32. Keeps the probabilities alone for its gradient, two thirds of what XLA would. The mask is added, not
    selected by: XLA's CPU backend makes one pass of additions and softmax, and three of them with selections between.
    """
    logits += jnp.where(mask, 0.0, _MASKED)
    exponentials = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    any_key = jnp.any(mask, axis=-1, keepdims=True).astype(logits.dtype)
    return exponentials * (any_key / jnp.sum(exponentials, axis=-1, keepdims=True))


def _masked_softmax_forward(logits: Array, mask: Array):
    probabilities = masked_softmax(logits, mask)
    return probabilities, probabilities


def _masked_softmax_backward(probabilities: Array, gradient: Array):
    return probabilities * (gradient - jnp.sum(probabilities * gradient, axis=-1, keepdims=True)), None


masked_softmax.defvjp(_masked_softmax_forward, _masked_softmax_backward)


@jax.custom_vjp
def add_bias(logits: Array, bias: Array) -> Array:
    """logits [..., heads, queries, keys] + bias [heads, queries, keys].

    The bias's gradient is a sum over all passages. As a product with ones it takes 2 ms where XLA's own sum over the leading axes takes
    90 (CPU, 40 passages of 224 tokens), a tenth of an encoder layer.
    """
    return logits + bias


def _add_bias_forward(logits: Array, bias: Array):
    return logits + bias, None


def _add_bias_backward(_, gradient: Array):
    return gradient, dense.sum_over_leading(gradient, 3)  # all but [heads, queries, keys]


add_bias.defvjp(_add_bias_forward, _add_bias_backward)


def _norms(logits: Array, probabilities: Array, value: Array, mask: Array) -> Array:
    del logits, mask
    lengths = jnp.linalg.norm(value.astype(jnp.float32), axis=-1)  # [batch, keys, heads]
    # b batch, h heads, q queries, k keys
    return jnp.einsum('bhqk,bkh->bqk', probabilities, lengths) / value.shape[-2]


_RECORDERS: dict[str, Callable[..., Array]] = {
    'scores': lambda logits, probabilities, value, mask: jnp.mean(jnp.where(mask, logits, 0.0), axis=1),
    'probs': lambda logits, probabilities, value, mask: jnp.mean(probabilities, axis=1),
    'norms': _norms,
}
RECORDED = tuple(_RECORDERS)


def grouped(keys_values: KeysValues, key_mask: Array) -> KeysValues:
    """Keys and values [..., heads, head_dim] as [batch, keys, heads, head_dim], read together as `key_mask` [batch, keys] says.

    Done layer by layer: between a concatenation of all layers and its slices a reshape would keep XLA from seeing that they cancel.
    """
    return jax.tree.map(lambda values: values.reshape(*key_mask.shape, *values.shape[-2:]), keys_values)


def by_head(keys_values: KeysValues, key_mask: Array) -> KeysValues:
    """A layer's keys [batch, heads, head_dim, keys] and values [batch, heads, keys, head_dim], `grouped` and turned.

    A loop that reads the same keys with one query at a time wants them so: XLA's CPU backend would lay them out anew at every step, at
    2.6 times the cost of reading them (16 examples, 800 keys).
    """
    keys, values = grouped(keys_values, key_mask)
    return jnp.moveaxis(keys, -3, -1), jnp.swapaxes(values, -3, -2)


class Attention(nn.Module):
    """Multi-head attention with kernels query, key, value [embed, joined_kv] and out [joined_kv, embed].

    scale: multiplies the queries; T5 has 1, BERT head_dim**-0.5.
    query_init: initialiser of the query kernel; None as for the others.
    """

    num_heads: int
    head_dim: int
    emb_dim: int
    scale: float = 1.0
    use_bias: bool = False
    dropout_rate: float = 0.0
    query_init: Callable[..., Array] | None = None
    kernel_init: Callable[..., Array] | None = None
    dtype: str = 'float32'

    def setup(self):
        joined, axes = self.num_heads * self.head_dim, ('embed', 'joined_kv')
        self.query = dense.Dense(joined, axes, self.use_bias, self.query_init or self.kernel_init, self.dtype)
        self.key = dense.Dense(joined, axes, self.use_bias, self.kernel_init, self.dtype)
        self.value = dense.Dense(joined, axes, self.use_bias, self.kernel_init, self.dtype)
        self.out = dense.Dense(self.emb_dim, axes[::-1], self.use_bias, self.kernel_init, self.dtype)
        self.dropout = nn.Dropout(self.dropout_rate)

    def keys_values(self, inputs: Array) -> KeysValues:
        """[..., embed] to keys and values, each [..., heads, head_dim]."""
        return self._heads(self.key(inputs)), self._heads(self.value(inputs))

    def on_stream(self, inputs: Array, stream: types.TokenStream, bias: Array | None, deterministic: bool = True,
                  flash: bool = False) -> Array:
        """Each passage of the stream attends to itself.

        Args:
          inputs: [streams, stream_tokens, embed].
          bias: [heads, longest, longest] added to the logits, or None; with `flash` one of each stream (flash_attention.one_per_stream).
          flash: by the kernel of nn/flash_attention.py, whose dropout draws other numbers.

        Returns:
          [streams, stream_tokens, embed]; meaningless past the last passage.
        """
        projections = (self.query(inputs) * self.scale, self.key(inputs), self.value(inputs))
        by_passage = (token_stream.to_rows(stream, projected) for projected in projections)  # [streams, passages, longest, joined_kv]
        if flash:
            seeds = self._seeds(stream) if self.dropout_rate and not deterministic else None
            rows = flash_attention.attend(*by_passage, bias, stream.lengths, seeds, num_heads=self.num_heads,
                                          dropout_rate=self.dropout_rate)
            return self.out(token_stream.to_stream(stream, rows))
        query, key, value = (self._heads(dense.without_single_stream(rows)) for rows in by_passage)
        mask = dense.without_single_stream(token_stream.row_mask(stream))[..., None, None, :]  # [..., passages, heads, queries, keys]
        rows, *_ = self._attend(query, key, value, bias, mask, deterministic)
        return self.out(token_stream.to_stream(stream, rows.reshape(*stream.lengths.shape, *rows.shape[-2:])))

    def over(self, inputs: Array, keys_values: KeysValues, bias: Array | None, mask: Array, deterministic: bool = True) -> Array:
        """Queries from `inputs` attend to given keys and values.

        Args:
          inputs: [batch, length, embed].
          keys_values: each [batch, keys, heads, head_dim].
          bias: [heads, length, keys] or None.
          mask: bool, broadcastable to [batch, heads, length, keys]; a query without any key gets zeros.

        Returns:
          [batch, length, embed].
        """
        return self.over_recording(inputs, keys_values, bias, mask, deterministic, ())[0]

    def over_recording(self, inputs: Array, keys_values: KeysValues, bias: Array | None, mask: Array, deterministic: bool,
                       record: Sequence[str]) -> tuple[Array, dict[str, Array]]:
        """`over`, and how much each key was attended to, before dropout.

        Args:
          record: names of RECORDED. 'scores' are the logits, 'probs' the probabilities, 'norms' the probabilities times the length of the
            value. What is not named costs nothing.

        Returns:
          As `over`; and for each name [batch, length, keys] float32, the mean over heads, 0 where `mask` is False, without gradient.
        """
        query = self._heads(self.query(inputs) * self.scale)
        rows, logits, probabilities = self._attend(query, *keys_values, bias, mask, deterministic)
        recorded = {name: jax.lax.stop_gradient(_RECORDERS[name](logits, probabilities, keys_values[1], mask)) for name in record}
        return self.out(rows), recorded

    def over_by_head(self, inputs: Array, keys_values: KeysValues, mask: Array) -> tuple[Array, Array]:
        """Queries from `inputs` attend to keys and values laid out by head, without dropout.

        Args:
          inputs: [batch, length, embed].
          keys_values: of `by_head`.
          mask: bool, broadcastable to [batch, heads, length, keys]; a query without any key gets zeros.

        Returns:
          [batch, length, embed]; and the probabilities, [batch, length, keys] float32, the mean over heads.
        """
        key, value = keys_values
        query = self._heads(self.query(inputs) * self.scale)
        # b batch, q queries, k keys, h heads, d head_dim
        logits = jnp.einsum('bqhd,bhdk->bhqk', query, key, preferred_element_type=jnp.float32)
        probabilities = masked_softmax(logits, mask)
        rows = jnp.einsum('bhqk,bhkd->bqhd', probabilities.astype(self.dtype), value.astype(self.dtype))
        return self.out(rows.reshape(*inputs.shape[:-1], -1)), jnp.mean(probabilities, axis=1)

    def step(self, inputs: Array, position: Array, cache: KeysValues, bias: Array) -> tuple[Array, KeysValues]:
        """One token attends to itself and those before it.

        Args:
          inputs: [batch, 1, embed], the token at `position`, a scalar.
          cache: keys and values so far, each [batch, max_length, heads, head_dim].
          bias: [heads, 1, max_length].

        Returns:
          [batch, 1, embed] and the cache with this position filled.
        """
        cache = tuple(jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), position, axis=1)
                      for old, new in zip(cache, self.keys_values(inputs), strict=True))
        mask = jnp.arange(cache[0].shape[1]) <= position  # [keys]
        return self.over(inputs, cache, bias, mask), cache

    def _attend(self, query: Array, key: Array, value: Array, bias: Array | None, mask: Array, deterministic: bool):
        """Joined outputs [..., queries, heads * head_dim], logits and probabilities [..., heads, queries, keys].

        Heads are moved to the front first: left to it, XLA's CPU backend would lay every operand out by head_dim, at five times the cost.
        """
        query, key, value = (jnp.swapaxes(each, -3, -2) for each in (query, key, value))
        logits = products.matmul(query, key, transposed=True, dtype=jnp.float32)
        if bias is not None:
            logits = add_bias(logits, bias)
        probabilities = masked_softmax(logits, mask)
        dropped = self.dropout(probabilities, deterministic=deterministic).astype(self.dtype)
        rows = jnp.swapaxes(products.matmul(dropped, value.astype(self.dtype)), -3, -2)
        return rows.reshape(*rows.shape[:-2], -1), logits, probabilities

    def _seeds(self, stream: types.TokenStream) -> Array:
        return jax.lax.bitcast_convert_type(jax.random.bits(self.make_rng('dropout'), stream.lengths.shape, jnp.uint32), jnp.int32)

    def _heads(self, joined: Array) -> Array:
        return joined.reshape(*joined.shape[:-1], self.num_heads, self.head_dim)
