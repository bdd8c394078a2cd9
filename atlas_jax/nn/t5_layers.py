"""T5's encoder and decoder layers: norm, attention or MLP, dropout, residual.

Source: Raffel et al. 2020; dropout placed as in Hugging Face's T5.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax

from atlas_jax import types
from atlas_jax.nn import attention, dense, mlp, norm

Array = jax.Array


class _Layer(nn.Module):
    """What both layers are made of."""

    emb_dim: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    mlp_activations: tuple[str, ...]
    dropout_rate: float
    layer_norm_epsilon: float
    dtype: str

    def _norm(self) -> norm.RMSNorm:
        return norm.RMSNorm(self.layer_norm_epsilon, self.dtype)

    def _attention(self) -> attention.Attention:
        # T5 has no 1 / sqrt(head_dim) in its attention: it is folded into the variance of the query kernel.
        query_init = dense.normal(1 / (self.emb_dim * self.head_dim))
        return attention.Attention(self.num_heads, self.head_dim, self.emb_dim, dropout_rate=self.dropout_rate, query_init=query_init,
                                   dtype=self.dtype)

    def _mlp(self) -> mlp.Mlp:
        return mlp.Mlp(self.mlp_dim, self.mlp_activations, dropout_rate=self.dropout_rate, dtype=self.dtype)


class EncoderLayer(_Layer):
    """Self-attention within each passage of a stream, then the MLP."""

    def setup(self):
        self.pre_attention_layer_norm = self._norm()
        self.attention = self._attention()
        self.pre_mlp_layer_norm = self._norm()
        self.mlp = self._mlp()
        self.dropout = nn.Dropout(self.dropout_rate)

    def __call__(self, inputs: Array, stream: types.TokenStream, bias: Array, deterministic: bool, flash: bool = False) -> Array:
        """[streams, stream_tokens, embed] to the same; bias and flash as for `Attention.on_stream`."""
        attended = self.attention.on_stream(self.pre_attention_layer_norm(inputs), stream, bias, deterministic, flash)
        inputs += self.dropout(attended, deterministic=deterministic)
        return inputs + self.dropout(self.mlp(self.pre_mlp_layer_norm(inputs), deterministic), deterministic=deterministic)


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

    def __call__(self, inputs: Array, bias: Array, causal_mask: Array, keys_values: attention.KeysValues, key_mask: Array,
                 deterministic: bool, record: Sequence[str] = ()) -> tuple[Array, dict[str, Array]]:
        """All positions at once. The sequences of an example stand side by side and read the same passages.

        Args:
          inputs: [sequences, length, embed], sequences a multiple of batch.
          bias: [heads, length, length].
          causal_mask: [length, length] bool.
          keys_values: of the passages, each [..., heads, head_dim], the leading axes being [batch, keys] or what is reshaped to that.
          key_mask: [batch, keys] bool.
          record: what to record of the attention to the passages; names of `attention.RECORDED`.

        Returns:
          [sequences, length, embed]; and what was recorded, each [batch, positions of an example's sequences, keys].
        """
        normed = self.pre_self_attention_layer_norm(inputs)
        keys_values_here = self.self_attention.keys_values(normed)
        attended = self.self_attention.over(normed, keys_values_here, bias, causal_mask, deterministic)
        inputs += self.dropout(attended, deterministic=deterministic)
        return self._read(inputs, keys_values, key_mask, deterministic, record)

    def keys_values(self, encoded: Array) -> attention.KeysValues:
        """Of the attention to the passages: [..., embed] to a pair of [..., heads, head_dim]."""
        return self.encoder_decoder_attention.keys_values(encoded)

    def step(self, inputs: Array, position: Array, cache: attention.KeysValues, bias: Array, keys_values: attention.KeysValues,
             key_mask: Array) -> tuple[Array, tuple[attention.KeysValues, Array]]:
        """One position of every row; the rows of an example stand side by side and read the same passages.

        Args:
          inputs: [rows, 1, embed], rows a multiple of batch.
          position: scalar int32.
          cache: of the self-attention, each [rows, max_length, heads, head_dim].
          bias: [heads, 1, max_length].
          keys_values: of the passages, laid out by head (`attention.by_head`).
          key_mask: [batch, keys] bool.

        Returns:
          [rows, 1, embed]; the cache with this position filled; and the attention to the passages, [batch, rows of an example, keys].
        """
        attended, cache = self.self_attention.step(self.pre_self_attention_layer_norm(inputs), position, cache, bias)
        hidden = (inputs + attended).reshape(key_mask.shape[0], -1, inputs.shape[-1])  # [batch, rows of an example, embed]
        normed = self.pre_cross_attention_layer_norm(hidden)
        attended, shares = self.encoder_decoder_attention.over_by_head(normed, keys_values, key_mask[:, None, None])
        hidden += attended
        hidden += self.mlp(self.pre_mlp_layer_norm(hidden), True)
        return hidden.reshape(inputs.shape), (cache, shares)

    def _read(self, inputs: Array, keys_values: attention.KeysValues, key_mask: Array, deterministic: bool, record: Sequence[str]):
        keys_values = attention.grouped(keys_values, key_mask)
        mask = key_mask[:, None, None]  # [batch, heads, length, keys]
        normed = self.pre_cross_attention_layer_norm(inputs)
        by_example = normed.reshape(key_mask.shape[0], -1, normed.shape[-1])  # [batch, positions of its sequences, embed]
        attended, recorded = self.encoder_decoder_attention.over_recording(by_example, keys_values, None, mask, deterministic, record)
        inputs += self.dropout(attended.reshape(inputs.shape), deterministic=deterministic)
        return inputs + self.dropout(self.mlp(self.pre_mlp_layer_norm(inputs), deterministic), deterministic=deterministic), recorded
