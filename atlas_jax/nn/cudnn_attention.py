"""Self-attention within passages by cuDNN's fused kernel, through `jax.nn.dot_product_attention`. nn/flash_attention.py calls it on a GPU.

cuDNN takes lengths in place of a mask, and a bias [1, heads, longest, longest] whose gradient it sums over the passages of the call. That
is what T5's encoder needs. It has no dropout here and no float32: where it does not fit, encoders attend plainly. A kernel in Pallas could
have both, but jax deprecates Pallas's Triton backend (since 0.11), and the other one needs a Hopper.
"""

from typing import Literal

import jax
import jax.numpy as jnp

Array = jax.Array

_MOST_HEAD_DIM = 128  # of the gradient on an A100; jax refuses more there
_HEAD_DIM_STEP = 8


def fits(longest: int, head_dim: int, dtype: str, dropout_rate: float) -> bool:
    """Tells if cuDNN attends to passages of up to `longest` tokens in this dtype, forward and backward."""
    # jax refuses the gradient of a bias with an odd side. Capacities are multiples of 8; the width of a batch's queries may be odd.
    return (dtype == 'bfloat16' and not dropout_rate and longest % 2 == 0 and head_dim % _HEAD_DIM_STEP == 0
            and head_dim <= _MOST_HEAD_DIM)


def attend(query: Array, key: Array, value: Array, bias: Array | None, lengths: Array, *, num_heads: int,
           implementation: Literal['cudnn', 'xla'] = 'cudnn') -> Array:
    """Returns softmax(query . key + bias) . value for each passage of one stream.

    Args:
      query, key, value: [passages, longest, heads * head_dim] bfloat16; queries are scaled already.
      bias: [heads, longest, longest] float, shared by the passages, or None. It is rounded to the dtype of the queries, and so is its
        gradient, the sum over the passages.
      lengths: [passages] int32; keys from there on are masked.
      num_heads: heads that lie side by side in the last axis.
      implementation: 'xla' computes the same without cuDNN, in any dtype.

    Returns:
      [passages, longest, heads * head_dim]; zeros from each length on.
    """
    def by_head(rows: Array) -> Array:  # [passages, longest, heads, head_dim]
        return rows.reshape(*rows.shape[:-1], num_heads, -1)

    # Not in float32: XLA took the bits of a float32 bias for bfloat16 until late 2025 (jax issue 32242).
    biases = None if bias is None else bias.astype(query.dtype)[None]  # [1, heads, longest, longest]
    # A softmax over no key at all is not defined. Such a passage attends to its first place, and its rows are dropped below.
    attended = jnp.maximum(lengths, 1)
    rows = jax.nn.dot_product_attention(by_head(query), by_head(key), by_head(value), biases, scale=1.0, query_seq_lengths=attended,
                                        key_value_seq_lengths=attended, implementation=implementation)
    return jnp.where((lengths > 0)[:, None, None], rows.reshape(query.shape), 0)
