"""T5's layers: the relative position bias, the encoder layer and the decoder layer (norm, attention
or MLP, dropout, residual).

Source: Raffel et al. 2020; dropout is where Hugging Face's T5 has it.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax import partitioning, types
from atlas_jax.nn import attention, layers

Array = jax.Array


def position_buckets(relative_positions: np.ndarray, bidirectional: bool, num_buckets: int,
                     max_distance: int) -> np.ndarray:
    """Returns the bucket of each relative position (key position - query position).

    Half of the buckets hold one distance each. The other half grow logarithmically up to
    `max_distance`; larger distances share the last bucket. Bidirectional buckets use half of all
    buckets for keys after the query; otherwise keys after the query fall into bucket 0.

    Args:
      relative_positions: any shape, int.

    Returns:
      The same shape, int32, in [0, num_buckets).

    Source: Raffel et al. 2020, section 2.1.
    """
    distances = -np.asarray(relative_positions)
    offsets = np.zeros_like(distances)
    if bidirectional:
        num_buckets //= 2
        offsets = np.where(distances < 0, num_buckets, 0)
        distances = np.abs(distances)
    distances = np.maximum(distances, 0)
    exact = num_buckets // 2
    # T5X and Hugging Face compute these logarithms in float32 too.
    ratio = np.maximum(distances, exact).astype(np.float32) / np.float32(exact)
    logarithmic = np.log(ratio) / np.float32(np.log(
        max_distance / exact)) * np.float32(num_buckets - exact)
    far = np.minimum(exact + logarithmic.astype(np.int32), num_buckets - 1)
    return (offsets + np.where(distances < exact, distances, far)).astype(np.int32)


class RelativePositionBias(nn.Module):
    """A learned bias for each head and bucket, `rel_embedding` [heads, relpos_buckets]. It depends
    on differences of positions only, so all passages share it.

    emb_dim: the model's width; the initial values have variance 1 / emb_dim.
    """

    num_heads: int
    num_buckets: int
    max_distance: int
    bidirectional: bool
    emb_dim: int

    def setup(self):
        self.rel_embedding = layers.declare(self, 'rel_embedding', layers.normal(1 / self.emb_dim),
                                            ('heads', 'relpos_buckets'),
                                            (self.num_heads, self.num_buckets))

    def __call__(self, length: int) -> Array:
        """Returns [heads, length, length] float32: the bias of every query (second axis) on every
        key (third axis).
        """
        # The bias is a Toeplitz matrix: each row is the row above it, shifted by one. Repeating `2
        # * length` values and cutting the line into rows of `2 * length - 1` shifts each row. The
        # gradient is a sum and a matmul with a one-hot matrix, never a scatter.
        values = self._values(np.arange(-length + 1, length + 1))  # [heads, 2 * length]
        line = jnp.broadcast_to(values[:, None],
                                (self.num_heads, length, 2 * length)).reshape(self.num_heads, -1)
        shifted = line[:, :length * (2 * length - 1)].reshape(self.num_heads, length,
                                                              2 * length - 1)
        return shifted[:, :, length - 1:]

    def row(self, position: Array, length: int) -> Array:
        """Returns [heads, 1, length] float32: the bias of the query at `position` (scalar int) on
        keys 0 .. length - 1.
        """
        # [heads, 2 * length - 1]; key 0 is at length - 1 - position
        values = self._values(np.arange(-length + 1, length))
        return jax.lax.dynamic_slice_in_dim(values, length - 1 - position, length, axis=1)[:, None]

    def _values(self, relative_positions: np.ndarray) -> Array:
        """Looks up [n] int relative positions: [heads, n] float32."""
        table = position_buckets(relative_positions, self.bidirectional, self.num_buckets,
                                 self.max_distance)
        one_hot = np.eye(self.num_buckets, dtype=np.float32)[table]
        # h heads, b buckets, r relative positions. Each sum has one term, so the highest precision
        # makes it exact on every device.
        rel_embedding = partitioning.whole(self.rel_embedding, ('heads', 'relpos_buckets'))
        return jnp.einsum('hb,rb->hr', rel_embedding, one_hot, precision=jax.lax.Precision.HIGHEST)


class _Layer(nn.Module):
    """The sizes of a layer, and the parts that encoder and decoder layers share.

    split: each device of the mesh axis `model` computes its own heads and its own part of the MLP.
    """

    emb_dim: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    mlp_activations: tuple[str, ...]
    dropout_rate: float
    layer_norm_epsilon: float
    dtype: str
    split: bool = False

    def _norm(self) -> layers.RMSNorm:
        return layers.RMSNorm(self.layer_norm_epsilon, self.dtype)

    def _attention(self) -> attention.Attention:
        # T5's attention does not scale by 1 / sqrt(head_dim): the variance of the query kernel
        # includes the factor.
        query_init = layers.normal(1 / (self.emb_dim * self.head_dim))
        return attention.Attention(self.num_heads, self.head_dim, self.emb_dim,
                                   dropout_rate=self.dropout_rate, query_init=query_init,
                                   dtype=self.dtype, split=self.split)

    def _mlp(self) -> layers.Mlp:
        return layers.Mlp(self.mlp_dim, self.mlp_activations, dropout_rate=self.dropout_rate,
                          dtype=self.dtype, split=self.split)


class EncoderLayer(_Layer):
    """Self-attention within each passage of a stream, then the MLP."""

    def setup(self):
        self.pre_attention_layer_norm = self._norm()
        self.attention = self._attention()
        self.pre_mlp_layer_norm = self._norm()
        self.mlp = self._mlp()
        self.dropout = nn.Dropout(self.dropout_rate)

    def __call__(self, inputs: Array, stream: types.TokenStream, bias: Array, deterministic: bool,
                 flash: bool = False) -> Array:
        """Maps [streams, stream_tokens, embed] to the same shape; for bias and flash see
        `Attention.on_stream`.
        """
        attended = self.attention.on_stream(self.pre_attention_layer_norm(inputs), stream, bias,
                                            deterministic, flash)
        inputs += self.dropout(attended, deterministic=deterministic)
        return inputs + self.dropout(self.mlp(self.pre_mlp_layer_norm(inputs), deterministic),
                                     deterministic=deterministic)


class DecoderLayer(_Layer):
    """Causal self-attention, attention to the passages, then the MLP."""

    def setup(self):
        self.pre_self_attention_layer_norm = self._norm()
        self.self_attention = self._attention()
        self.pre_cross_attention_layer_norm = self._norm()
        self.encoder_decoder_attention = self._attention()
        self.pre_mlp_layer_norm = self._norm()
        self.mlp = self._mlp()
        self.dropout = nn.Dropout(self.dropout_rate)

    def __call__(self, inputs: Array, bias: Array, causal_mask: Array,
                 keys_values: attention.KeysValues, key_mask: Array, deterministic: bool,
                 record: Sequence[str] = ()) -> tuple[Array, dict[str, Array]]:
        """Computes all positions at once. The sequences of an example are adjacent and read the
        same passages.

        Args:
          inputs: [sequences, length, embed]; sequences is a multiple of batch.
          bias: [heads, length, length].
          causal_mask: [length, length] bool.
          keys_values: the passages' keys and values, each [..., heads, head_dim]; the leading axes
            hold batch * keys.
          key_mask: [batch, keys] bool.
          deterministic: True switches dropout off.
          record: kinds of attention to the passages to record, names of `attention.RECORDED`.

        Returns:
          [sequences, length, embed]; and the recorded attention by name, [batch, positions of an
          example's sequences, keys] float32.
        """
        normed = self.pre_self_attention_layer_norm(inputs)
        keys_values_here = self.self_attention.keys_values(normed)
        attended = self.self_attention.over(normed, keys_values_here, bias, causal_mask,
                                            deterministic)
        inputs += self.dropout(attended, deterministic=deterministic)
        return self._read(inputs, keys_values, key_mask, deterministic, record)

    def keys_values(self, encoded: Array, by_part: bool = False) -> attention.KeysValues:
        """Projects encoder states [..., embed] to keys and values of the passages, each [...,
        heads, head_dim].

        With `by_part` the states are copies [parts, ..., embed], and each copy makes its own heads
        (`layers.Dense`).
        """
        return self.encoder_decoder_attention.keys_values(encoded, by_part)

    def step(self, inputs: Array, position: Array, cache: attention.KeysValues, bias: Array,
             keys_values: attention.KeysValues,
             key_mask: Array) -> tuple[Array, tuple[attention.KeysValues, Array]]:
        """Computes one position of every row. The rows of an example are adjacent and read the same
        passages.

        Args:
          inputs: [rows, 1, embed]; rows is a multiple of batch.
          position: scalar int32.
          cache: keys and values of the self-attention, each [rows, max_length, heads, head_dim].
          bias: [heads, 1, max_length].
          keys_values: the passages' keys and values, laid out by head (`attention.by_head`).
          key_mask: [batch, keys] bool.

        Returns:
          [rows, 1, embed]; the cache with this position filled; and the attention to the passages,
          [batch, rows of an example, keys].
        """
        attended, cache = self.self_attention.step(self.pre_self_attention_layer_norm(inputs),
                                                   position, cache, bias)
        # [batch, rows of an example, embed]
        hidden = (inputs + attended).reshape(key_mask.shape[0], -1, inputs.shape[-1])
        normed = self.pre_cross_attention_layer_norm(hidden)
        attended, shares = self.encoder_decoder_attention.over_by_head(
            normed, keys_values, key_mask[:, None, None])
        hidden += attended
        hidden += self.mlp(self.pre_mlp_layer_norm(hidden), True)
        return hidden.reshape(inputs.shape), (cache, shares)

    def _read(self, inputs: Array, keys_values: attention.KeysValues, key_mask: Array,
              deterministic: bool, record: Sequence[str]) -> tuple[Array, dict[str, Array]]:
        """Attends to the passages, then runs the MLP; see `__call__` for arguments and results."""
        keys_values = attention.grouped(keys_values, key_mask)
        # No position bias: the order of the passages does not matter.
        mask = key_mask[:, None, None]  # [batch, heads, length, keys]
        normed = self.pre_cross_attention_layer_norm(inputs)
        # [batch, positions of its sequences, embed]
        by_example = normed.reshape(key_mask.shape[0], -1, normed.shape[-1])
        attended, recorded = self.encoder_decoder_attention.over_recording(
            by_example, keys_values, None, mask, deterministic, record)
        inputs += self.dropout(attended.reshape(inputs.shape), deterministic=deterministic)
        return inputs + self.dropout(self.mlp(self.pre_mlp_layer_norm(inputs), deterministic),
                                     deterministic=deterministic), recorded
