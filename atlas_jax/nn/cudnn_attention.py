"""Self-attention within passages by cuDNN's fused kernel, through `jax.nn.dot_product_attention`.
nn/flash_attention.py calls it on a GPU.

cuDNN takes lengths instead of a mask, and a bias [1, heads, longest, longest] whose gradient it
sums over the passages of the call, as T5's encoder needs. It supports neither dropout nor float32
here; encoders then use plain attention. A Pallas kernel could support both, but jax deprecates
Pallas's Triton backend (since 0.11), and the other backend needs a Hopper GPU.
"""

from typing import Literal

import jax
import jax.numpy as jnp

Array = jax.Array

_MOST_HEAD_DIM = 128  # jax refuses the gradient of larger heads on an A100
_HEAD_DIM_STEP = 8


def fits(longest: int, head_dim: int, dtype: str, dropout_rate: float) -> bool:
    """Returns whether cuDNN computes this attention, forward and backward, for passages of up to
    `longest` tokens.
    """
    # jax refuses the gradient of a bias with an odd side. Capacities are multiples of 8, but the
    # width of a batch's queries may be odd.
    return (dtype == 'bfloat16' and not dropout_rate and longest % 2 == 0
            and head_dim % _HEAD_DIM_STEP == 0 and head_dim <= _MOST_HEAD_DIM)


def attend(query: Array, key: Array, value: Array, bias: Array | None, lengths: Array, *,
           num_heads: int, implementation: Literal['cudnn', 'xla'] = 'cudnn') -> Array:
    """Returns softmax(query . key + bias) . value for each passage of one stream.

    Args:
      query, key, value: [passages, longest, heads * head_dim] bfloat16; queries are scaled already.
      bias: [heads, longest, longest] float, shared by the passages, or None. The bias and its
        gradient, a sum over the passages, are rounded to the dtype of the queries.
      lengths: [passages] int32; later keys are masked.
      num_heads: number of heads in the last axis.
      implementation: 'xla' computes the same without cuDNN, in any dtype.

    Returns:
      [passages, longest, heads * head_dim]; zeros past each passage's end.
    """
    def by_head(rows: Array) -> Array:  # [passages, longest, heads, head_dim]
        return rows.reshape(*rows.shape[:-1], num_heads, -1)

    # Not float32: until late 2025 XLA read the bits of a float32 bias as bfloat16 (jax issue
    # 32242). [1, heads, longest, longest]
    biases = None if bias is None else bias.astype(query.dtype)[None]
    # A softmax over no keys is undefined. An empty passage attends to its first slot, and its rows
    # are zeroed below.
    attended = jnp.maximum(lengths, 1)
    rows = jax.nn.dot_product_attention(by_head(query), by_head(key), by_head(value), biases,
                                        scale=1.0, query_seq_lengths=attended,
                                        key_value_seq_lengths=attended,
                                        implementation=implementation)
    return jnp.where((lengths > 0)[:, None, None], rows.reshape(query.shape), 0)
