"""Self-attention within passages as one kernel: logits and probabilities stay on the chip, forward
and backward.

On a GPU the kernel is cuDNN's (nn/cudnn_attention.py). On a TPU it is the Pallas kernel below. One
program holds a whole passage for a few heads, as many as fill the 128 lanes of a TPU's registers.
It computes logits, bias, softmax, dropout and the product with the values in VMEM, and all but the
last again for the gradient. Operands are attention rows as the token stream gathers them,
[passages, longest, heads * head_dim]: nothing is transposed, and no [passages, heads, longest,
longest] array exists.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from atlas_jax import partitioning
from atlas_jax.nn import cudnn_attention

Array = jax.Array

_LANES = 128
# Most tokens of a passage: a few float32 arrays [longest, longest] have to fit into VMEM.
_LONGEST = 512
_HEADS = 2  # heads of a program for passages of that length
_MASKED = -1e30  # the same as in nn/attention.py
_VMEM_BYTES = 16 * 2**20  # all the VMEM of a TPU v4 core


def fits(longest: int, num_heads: int, head_dim: int, dtype: str, dropout_rate: float,
         platform: str | None = None) -> bool:
    """Returns whether the platform's kernel takes passages of up to `longest` tokens.

    Args:
      longest, num_heads, head_dim: sizes of a passage's attention.
      dtype: dtype of the activations; matters on a GPU only.
      dropout_rate: dropout of the probabilities, 0 for none; matters on a GPU only.
      platform: platform that runs the kernel; None takes `partitioning.platform()`.
    """
    if (platform or partitioning.platform()) == 'gpu':
        return cudnn_attention.fits(longest, head_dim, dtype, dropout_rate)
    # A passage has to fit on the chip as a whole.
    return longest <= _LONGEST and _heads_of_a_program(
        num_heads, head_dim) * longest**2 <= _HEADS * _LONGEST**2


def one_per_stream(bias: Array, streams: int) -> Array:
    """Repeats a bias [heads, longest, longest] float as [streams, heads, longest, longest], each
    copy on its stream's device.

    Layers read these copies, so that gradients of all layers add up on each device. They are summed
    over the devices once, here.
    """
    return partitioning.spread(jnp.broadcast_to(bias, (streams, *bias.shape)))


def attend(query: Array, key: Array, value: Array, bias: Array | None, lengths: Array,
           seeds: Array | None = None, *, num_heads: int, dropout_rate: float = 0.0) -> Array:
    """Returns softmax(query . key + bias) . value for each passage.

    Passages of different streams stay on their devices (partitioning.on_mesh). Passages that do not
    fit (`fits`) fail to compile.

    Args:
      query, key, value: [streams, passages, longest, heads * head_dim] of one dtype; queries are
        scaled already.
      bias: [streams, heads, longest, longest] from `one_per_stream`, shared by a stream's passages,
        or None.
      lengths: [streams, passages] int32; later keys are masked, and a passage of length 0 gets
        zeros.
      seeds: [streams, passages] int32, seeds of the dropout of the probabilities. None switches
        dropout off; a GPU needs None.
      num_heads: number of heads in the last axis.
      dropout_rate: below 1; kept probabilities are divided by 1 - dropout_rate.

    Returns:
      [streams, passages, longest, heads * head_dim]. On other platforms than a TPU or a GPU the
      TPU's kernel is interpreted, which is correct and slow.
    """
    rate, on_gpu = 0.0 if seeds is None else dropout_rate, partitioning.platform() == 'gpu'
    # The kernel always takes seeds, and reads them only for dropout.
    seeds = jnp.zeros_like(lengths) if seeds is None else seeds

    def run(query, key, value, bias, lengths, seeds):
        """Runs one stream after another. With several devices, each device runs one stream."""
        def one(i: int) -> Array:
            operands = (query[i], key[i], value[i], None if bias is None else bias[i], lengths[i])
            return cudnn_attention.attend(*operands, num_heads=num_heads) if on_gpu else _attend(
                num_heads, rate, *operands, seeds[i])

        return jnp.stack([one(i) for i in range(query.shape[0])])

    # The compiler does not split a kernel over devices.
    if not jax.sharding.get_abstract_mesh().empty:
        run = jax.shard_map(run, in_specs=jax.sharding.PartitionSpec(partitioning.MESH_AXES),
                            out_specs=jax.sharding.PartitionSpec(partitioning.MESH_AXES),
                            check_vma=False)
    return run(query, key, value, bias, lengths, seeds)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(num_heads, rate, query, key, value, bias, lengths, seeds):
    """Runs the forward kernel over the passages of one stream: [passages, longest, heads *
    head_dim].
    """
    blocks = _Blocks(num_heads, query.shape)
    rows, like = blocks.rows(), jax.ShapeDtypeStruct(query.shape, query.dtype)
    kernel = functools.partial(_forward, blocks.group, rate, bias is not None)
    inputs, in_specs = [query, key, value], [rows, rows, rows]
    if bias is not None:
        inputs.append(bias.astype(jnp.float32))
        in_specs.append(blocks.bias())
    (output, ) = _run(kernel, blocks, lengths, seeds, inputs, in_specs, [like], [rows],
                      matrix_products=2)
    return output


def _attend_forward(num_heads, rate, query, key, value, bias, lengths, seeds):
    return _attend(num_heads, rate, query, key, value, bias, lengths,
                   seeds), (query, key, value, bias, lengths, seeds)


def _attend_backward(num_heads, rate, saved, gradient):
    """Runs the backward kernel; returns the gradients of all operands of `_attend`, None for
    lengths and seeds.
    """
    query, key, value, bias, lengths, seeds = saved
    blocks = _Blocks(num_heads, query.shape)
    rows, like = blocks.rows(), jax.ShapeDtypeStruct(query.shape, query.dtype)
    kernel = functools.partial(_backward, blocks.group, rate, bias is not None)
    if bias is None:
        to_query, to_key, to_value = _run(
            kernel, blocks, lengths, seeds, [query, key, value, gradient], [rows, rows, rows, rows],
            [like, like, like], [rows, rows, rows], matrix_products=5)
        return to_query, to_key, to_value, None, None, None
    to_query, to_key, to_value, to_bias = _run(
        kernel, blocks, lengths, seeds,
        [query, key, value, bias.astype(jnp.float32), gradient],
        [rows, rows, rows, blocks.bias(), rows],
        [like, like, like, jax.ShapeDtypeStruct(bias.shape, jnp.float32)],
        [rows, rows, rows, blocks.bias_gradient()], matrix_products=5)
    return to_query, to_key, to_value, to_bias.astype(bias.dtype), None, None


_attend.defvjp(_attend_forward, _attend_backward)


class _Blocks:
    """The block of each operand that one program of the grid [groups of heads, passages] gets.

    num_heads, passages, longest, joined  sizes of the operands [passages, longest, joined]; joined
                                          = heads * head_dim
    group                                 number of heads of a program
    """

    def __init__(self, num_heads: int, shape: tuple[int, int, int]):
        self.num_heads, (self.passages, self.longest, self.joined) = num_heads, shape
        self.group = _heads_of_a_program(num_heads, self.joined // num_heads)

    def rows(self) -> pl.BlockSpec:
        """Returns the block of queries, keys, values, outputs and their gradients: one passage, the
        columns of the program's heads.
        """
        shape = (1, self.longest, self.joined // self.num_heads * self.group)
        return pl.BlockSpec(shape, lambda head, passage, *_: (passage, 0, head))

    def bias(self) -> pl.BlockSpec:
        """Returns the block of the bias [heads, longest, longest]: the program's heads. It has one
        buffer, since all passages share it.
        """
        return pl.BlockSpec(self._bias_shape(), self._bias_place, pipeline_mode=pl.Buffered(1))

    def bias_gradient(self) -> pl.BlockSpec:
        """Returns the block of the bias's gradient: the program's heads for every passage. It stays
        on the chip while passages add to it.
        """
        return pl.BlockSpec(self._bias_shape(), self._bias_place)

    def _bias_shape(self) -> tuple[int, int, int]:
        return self.group, self.longest, self.longest

    def _bias_place(self, head: Any, passage: Any, *_: Any) -> tuple[Any, int, int]:
        return head, 0, 0


def _run(kernel: Callable[..., None], blocks: _Blocks, lengths: Array, seeds: Array,
         inputs: Sequence[Array], in_specs: Sequence[pl.BlockSpec],
         outputs: Sequence[jax.ShapeDtypeStruct], out_specs: Sequence[pl.BlockSpec], *,
         matrix_products: int) -> Sequence[Array]:
    """Runs a kernel over all passages and groups of heads; compiled on a TPU, interpreted
    elsewhere.

    Args:
      lengths, seeds: [passages] int32, prefetched.
      inputs, in_specs: the arrays that the kernel reads, and a program's block of each.
      outputs, out_specs: the arrays that it writes, and a program's block of each.
      matrix_products: number of products of [longest, longest] with head_dim for each head of a
        passage; the compiler's cost estimate needs it.

    Returns:
      Arrays as `outputs` describes them.
    """
    passages, longest = blocks.passages, blocks.longest
    call = functools.partial(
        pl.pallas_call,
        kernel,
        out_shape=outputs,
        grid_spec=pltpu.PrefetchScalarGridSpec(num_scalar_prefetch=2,
                                               grid=(blocks.num_heads // blocks.group, passages),
                                               in_specs=in_specs, out_specs=out_specs),
        # Passages are the inner dimension and in order: they add to one block of the bias's
        # gradient.
        compiler_params=pltpu.CompilerParams(dimension_semantics=('parallel', 'arbitrary'),
                                             vmem_limit_bytes=_VMEM_BYTES),
        cost_estimate=pl.CostEstimate(
            flops=matrix_products * 2 * passages * longest**2 * blocks.joined,
            transcendentals=passages * blocks.num_heads * longest**2,
            bytes_accessed=(len(inputs) + len(outputs)) * inputs[0].nbytes))
    return jax.lax.platform_dependent(lengths, seeds, *inputs, tpu=lambda *operands: call()
                                      (*operands), default=lambda *operands: call(interpret=True)
                                      (*operands))


def _heads_of_a_program(num_heads: int, head_dim: int) -> int:
    """Returns the smallest number of heads that fills whole rows of lanes, or all heads if there is
    no such number.
    """
    # Two heads of 64 fill 128 lanes; so does one head of 128.
    for group in range(1, num_heads):
        if num_heads % group == 0 and group * head_dim % _LANES == 0:
            return group
    return num_heads


def _forward(group: int, rate: float, biased: bool, lengths, seeds, *refs) -> None:
    """Kernel: writes the output [1, longest, group * head_dim] for query, key and value of that
    shape and bias [group, longest, longest].
    """
    if biased:
        query, key, value, bias, output = refs
    else:
        query, key, value, output = refs
        bias = None
    query, key, value = query[0], key[0], value[0]  # [longest, group * head_dim]
    total = jnp.zeros(query.shape, jnp.float32)
    for head in range(group):
        lanes = _lanes_of(head, group, query)
        weights = _softmax(query, key, lanes, bias[head] if biased else None, lengths)
        if rate:
            weights = weights * _dropout(rate, seeds, head, group, weights.shape)
        total = jnp.where(lanes, _dot(weights.astype(value.dtype), value, 1, 0), total)
    output[0] = total.astype(output.dtype)


def _backward(group: int, rate: float, biased: bool, lengths, seeds, *refs) -> None:
    """Kernel: writes the gradients of query, key and value [1, longest, group * head_dim], and the
    bias's gradient, summed over the passages.
    """
    if biased:
        query, key, value, bias, gradient, to_query, to_key, to_value, to_bias = refs

        @pl.when(pl.program_id(1) == 0)  # the first passage of these heads
        def _():  # the block stays on the chip until the heads change
            to_bias[...] = jnp.zeros(to_bias.shape, to_bias.dtype)
    else:
        query, key, value, gradient, to_query, to_key, to_value = refs
        bias = to_bias = None
    # [longest, group * head_dim]
    query, key, value, gradient = query[0], key[0], value[0], gradient[0]
    query_total = key_total = value_total = jnp.zeros(query.shape, jnp.float32)
    for head in range(group):
        lanes = _lanes_of(head, group, query)
        # [longest, longest]
        weights = _softmax(query, key, lanes, bias[head] if biased else None, lengths)
        to_weights = _dot(_only(lanes, gradient), value, 1, 1)
        dropped = weights
        if rate:
            kept = _dropout(rate, seeds, head, group, weights.shape)
            dropped, to_weights = weights * kept, to_weights * kept
        # the softmax's gradient, after the dropout factors of the probabilities
        to_logits = weights * (to_weights - jnp.sum(weights * to_weights, axis=1, keepdims=True))
        if biased:
            to_bias[head] += to_logits
        to_logits = to_logits.astype(query.dtype)
        query_total = jnp.where(lanes, _dot(to_logits, key, 1, 0), query_total)
        key_total = jnp.where(lanes, _dot(to_logits, query, 0, 0), key_total)
        value_total = jnp.where(lanes, _dot(dropped.astype(value.dtype), gradient, 0, 0),
                                value_total)
    to_query[0] = query_total.astype(to_query.dtype)
    to_key[0] = key_total.astype(to_key.dtype)
    to_value[0] = value_total.astype(to_value.dtype)


def _softmax(query, key, lanes, bias, lengths):
    """Returns the probabilities [longest, longest] float32 of the head in `lanes`; zeros for an
    empty passage.
    """
    logits = _dot(_only(lanes, query), key, 1, 1)
    if bias is not None:
        logits = logits + bias
    real = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1) < lengths[pl.program_id(1)]
    logits = jnp.where(real, logits, _MASKED)
    exponentials = jnp.where(real, jnp.exp(logits - jnp.max(logits, axis=1, keepdims=True)), 0.0)
    # An empty passage has sum 0, and 0 / 1 is 0. Every other sum is at least 1, because the largest
    # logit adds exp(0).
    return exponentials / jnp.maximum(jnp.sum(exponentials, axis=1, keepdims=True), 1.0)


def _lanes_of(head: int, group: int, rows: Any):
    """Marks a head's columns, [1, group * head_dim] bool.

    The matrix unit is as wide as the lanes, so a product of all columns, the others zero, costs no
    more than a product of the head's columns alone, and nothing needs shifting.
    """
    head_dim = rows.shape[1] // group
    column = jax.lax.broadcasted_iota(jnp.int32, (1, rows.shape[1]), 1)
    return (column >= head * head_dim) & (column < (head + 1) * head_dim)


def _only(lanes, rows):
    """Zeroes all columns of rows [longest, group * head_dim] that are not in `lanes`."""
    return jnp.where(lanes, rows, jnp.zeros_like(rows))


def _dot(left, right, left_axis: int, right_axis: int):
    """Multiplies two matrices in float32, summing over one axis of each."""
    return jax.lax.dot_general(left, right, (((left_axis, ), (right_axis, )), ((), ())),
                               preferred_element_type=jnp.float32)


def keeps(rate: float, seed: Array, head: Array | int, position: Array) -> Array:
    """Returns which probabilities dropout keeps, bool with the shape of `position`.

    The forward and the backward pass compute the same hash, so no mask is stored between them.

    Args:
      rate: share to drop.
      seed: int32 scalar, the passage's seed.
      head: int32 scalar.
      position: int32, query * longest + key.
    """
    # 0x9E3779B9 is 2**32 / golden ratio: it moves neighbouring positions far apart.
    bits = _mix(position * _int32(0x9E3779B9) + _mix(seed ^ _mix(head + 1)))
    # 24 bits, so that the int32 is never negative
    return jax.lax.shift_right_logical(bits, 8) >= round(rate * 2**24)


def _dropout(rate: float, seeds, head: int, group: int, shape: tuple[int, int]):
    """Returns the dropout factors of the probabilities, [*shape] float32: 0 or 1 / (1 - rate)."""
    position = jax.lax.broadcasted_iota(jnp.int32, shape, 0) * shape[1] + jax.lax.broadcasted_iota(
        jnp.int32, shape, 1)
    kept = keeps(rate, seeds[pl.program_id(1)], pl.program_id(0) * group + head, position)
    return jnp.where(kept, jnp.float32(1 / (1 - rate)), jnp.float32(0))


def _mix(bits):
    """Applies MurmurHash3's finalizer, with its constants, to int32 of any shape."""
    bits = jnp.asarray(bits, jnp.int32)
    bits = (bits ^ jax.lax.shift_right_logical(bits, 16)) * _int32(0x85EBCA6B)
    bits = (bits ^ jax.lax.shift_right_logical(bits, 13)) * _int32(0xC2B2AE35)
    return bits ^ jax.lax.shift_right_logical(bits, 16)


def _int32(bits: int) -> np.int32:
    """Reinterprets 32 bits as a signed number."""
    return np.uint32(bits).astype(np.int32)
