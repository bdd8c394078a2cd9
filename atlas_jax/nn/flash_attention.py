"""Self-attention within passages as one kernel (Pallas): logits and probabilities stay on the chip, forward and backward.

One program holds a whole passage for a few heads, as many as fill the 128 lanes of a TPU's registers. It computes logits, bias, softmax,
dropout and the product with the values in VMEM, and all but the last again for the gradient. Operands are what the token streams' gather
gives, [passages, longest, heads * head_dim]: nothing is transposed, and no [passages, heads, longest, longest] array exists.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from atlas_jax import partitioning

Array = jax.Array

_LANES = 128
_LONGEST = 512  # tokens of a passage: a few float32 arrays of [longest, longest] have to fit into VMEM
_HEADS = 2  # of a program, at passages that long
_MASKED = -1e30  # as in nn/attention.py
_VMEM_BYTES = 16 * 2**20  # all that a core of TPU v4 has


def fits(longest: int, num_heads: int, head_dim: int) -> bool:
    """Whether passages of so many tokens fit on the chip."""
    return longest <= _LONGEST and _heads_of_a_program(num_heads, head_dim) * longest**2 <= _HEADS * _LONGEST**2


def one_per_stream(bias: Array, streams: int) -> Array:
    """[heads, longest, longest] as [streams, heads, longest, longest], each on its stream's device.

    Layers read that, and so their gradients add up on each device; in here they are summed over the devices, once for all layers.
    """
    return partitioning.spread(jnp.broadcast_to(bias, (streams, *bias.shape)))


def attend(query: Array, key: Array, value: Array, bias: Array | None, lengths: Array, seeds: Array | None = None, *, num_heads: int,
           dropout_rate: float = 0.0) -> Array:
    """softmax(query . key + bias) . value of each passage; passages of different streams stay on their devices (partitioning.on_mesh).

    Args:
      query, key, value: [streams, passages, longest, heads * head_dim] of one dtype; queries are scaled already.
      bias: [streams, heads, longest, longest] of `one_per_stream`, shared by a stream's passages, or None.
      lengths: [streams, passages] int32; keys from there on are masked, and a passage of length 0 gets zeros.
      seeds: [streams, passages] int32, of the probabilities' dropout; None without dropout.
      dropout_rate: below 1; probabilities that stay are divided by 1 - dropout_rate.

    Returns:
      [streams, passages, longest, heads * head_dim]. Off a TPU the kernel is interpreted: right, and slow.

    Where passages do not fit (`fits`), the compiler says so.
    """
    rate = 0.0 if seeds is None else dropout_rate
    seeds = jnp.zeros_like(lengths) if seeds is None else seeds

    def run(*by_stream):
        of_streams = [_attend(num_heads, rate, *jax.tree.map(lambda leaf, i=i: leaf[i], by_stream)) for i in range(by_stream[0].shape[0])]
        return jnp.stack(of_streams)

    if not jax.sharding.get_abstract_mesh().empty:  # the compiler does not split a kernel over devices
        run = jax.shard_map(run, in_specs=jax.sharding.PartitionSpec(partitioning.MESH_AXES),
                            out_specs=jax.sharding.PartitionSpec(partitioning.MESH_AXES), check_vma=False)
    return run(query, key, value, bias, lengths, seeds)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(num_heads, rate, query, key, value, bias, lengths, seeds):
    return _call(num_heads, rate, (query, key, value), bias, lengths, seeds, None)[0]


def _attend_forward(num_heads, rate, query, key, value, bias, lengths, seeds):
    return _attend(num_heads, rate, query, key, value, bias, lengths, seeds), (query, key, value, bias, lengths, seeds)


def _attend_backward(num_heads, rate, saved, gradient):
    query, key, value, bias, lengths, seeds = saved
    *gradients, to_bias = _call(num_heads, rate, (query, key, value), bias, lengths, seeds, gradient)
    return (*gradients, None if bias is None else to_bias.astype(bias.dtype), None, None)


_attend.defvjp(_attend_forward, _attend_backward)


def _call(num_heads: int, rate: float, operands: tuple[Array, Array, Array], bias: Array | None, lengths: Array, seeds: Array,
          gradient: Array | None) -> tuple[Array | None, ...]:
    """The output; or, given its gradient, those of query, key, value and bias."""
    passages, longest, joined = operands[0].shape
    group = _heads_of_a_program(num_heads, joined // num_heads)
    rows = pl.BlockSpec((1, longest, joined // num_heads * group), lambda head, passage, *_: (passage, 0, head))
    shared = functools.partial(pl.BlockSpec, (group, longest, longest), lambda head, passage, *_: (head, 0, 0))
    inputs, in_specs = list(operands), [rows] * 3
    if bias is not None:  # one buffer: it is the same for all passages
        inputs, in_specs = [*inputs, bias.astype(jnp.float32)], [*in_specs, shared(pipeline_mode=pl.Buffered(1))]
    shapes, out_specs = [jax.ShapeDtypeStruct(operands[0].shape, operands[0].dtype)], [rows]
    if gradient is not None:
        inputs, in_specs = [*inputs, gradient], [*in_specs, rows]
        shapes, out_specs = shapes * 3, [rows] * 3
        if bias is not None:
            shapes, out_specs = [*shapes, jax.ShapeDtypeStruct(bias.shape, jnp.float32)], [*out_specs, shared()]
    products = 2 if gradient is None else 5
    call = functools.partial(
        pl.pallas_call, functools.partial(_forward if gradient is None else _backward, group, rate, bias is not None),
        out_shape=shapes,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2, grid=(num_heads // group, passages), in_specs=in_specs, out_specs=out_specs),
        # the passages innermost and in order: they add to one block of the bias's gradient
        compiler_params=pltpu.CompilerParams(dimension_semantics=('parallel', 'arbitrary'), vmem_limit_bytes=_VMEM_BYTES),
        cost_estimate=pl.CostEstimate(flops=products * 2 * passages * longest**2 * joined,
                                      transcendentals=passages * num_heads * longest**2,
                                      bytes_accessed=(len(inputs) + len(shapes)) * operands[0].nbytes))
    found = jax.lax.platform_dependent(lengths, seeds, *inputs, tpu=lambda *inputs: call()(*inputs),
                                       default=lambda *inputs: call(interpret=True)(*inputs))
    return (*found, None) if gradient is not None and bias is None else tuple(found)


def _heads_of_a_program(num_heads: int, head_dim: int) -> int:
    """The fewest heads that fill whole rows of lanes; all of them where none do."""
    return next((group for group in range(1, num_heads) if num_heads % group == 0 and group * head_dim % _LANES == 0), num_heads)


def _forward(group: int, rate: float, biased: bool, lengths, seeds, query, key, value, *refs) -> None:
    *bias, output = refs
    query, key, value = query[0], key[0], value[0]  # [longest, group * head_dim]
    total = jnp.zeros(query.shape, jnp.float32)
    for head in range(group):
        lanes = _lanes_of(head, group, query)
        weights = _softmax(query, key, lanes, bias[0][head] if biased else None, lengths)
        if rate:
            weights = weights * _dropout(rate, seeds, head, group, weights.shape)
        total = jnp.where(lanes, _dot(weights.astype(value.dtype), value, 1, 0), total)
    output[0] = total.astype(output.dtype)


def _backward(group: int, rate: float, biased: bool, lengths, seeds, query, key, value, *refs) -> None:
    (bias, gradient, to_query, to_key, to_value, to_bias) = refs if biased else (None, *refs, None)
    query, key, value, gradient = query[0], key[0], value[0], gradient[0]  # [longest, group * head_dim]
    totals = [jnp.zeros(query.shape, jnp.float32)] * 3
    if biased:
        @pl.when(pl.program_id(1) == 0)
        def _():
            to_bias[...] = jnp.zeros(to_bias.shape, to_bias.dtype)
    for head in range(group):
        lanes = _lanes_of(head, group, query)
        weights = _softmax(query, key, lanes, bias[head] if biased else None, lengths)
        to_weights = _dot(_only(lanes, gradient), value, 1, 1)
        dropped = weights
        if rate:
            kept = _dropout(rate, seeds, head, group, weights.shape)
            dropped, to_weights = weights * kept, to_weights * kept
        to_logits = weights * (to_weights - jnp.sum(weights * to_weights, axis=1, keepdims=True))
        if biased:
            to_bias[head] += to_logits
        to_logits = to_logits.astype(query.dtype)
        parts = (_dot(to_logits, key, 1, 0), _dot(to_logits, query, 0, 0), _dot(dropped.astype(value.dtype), gradient, 0, 0))
        totals = [jnp.where(lanes, part, total) for part, total in zip(parts, totals, strict=True)]
    for output, total in zip((to_query, to_key, to_value), totals, strict=True):
        output[0] = total.astype(output.dtype)


def _softmax(query, key, lanes, bias, lengths):
    """Probabilities [longest, longest] float32; zeros where the passage is empty."""
    logits = _dot(_only(lanes, query), key, 1, 1)
    if bias is not None:
        logits = logits + bias
    real = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1) < lengths[pl.program_id(1)]
    logits = jnp.where(real, logits, _MASKED)
    exponentials = jnp.where(real, jnp.exp(logits - jnp.max(logits, axis=1, keepdims=True)), 0.0)
    return exponentials / jnp.maximum(jnp.sum(exponentials, axis=1, keepdims=True), 1.0)


def _lanes_of(head: int, group: int, rows: Any):
    """Where a head's columns stand, [1, group * head_dim].

    A matrix unit is as wide as the lanes: a head's own columns cost no less than all of them with the others zero, and need no shifting.
    """
    head_dim = rows.shape[1] // group
    column = jax.lax.broadcasted_iota(jnp.int32, (1, rows.shape[1]), 1)
    return (column >= head * head_dim) & (column < (head + 1) * head_dim)


def _only(lanes, rows):
    return jnp.where(lanes, rows, jnp.zeros_like(rows))


def _dot(left, right, left_axis: int, right_axis: int):
    return jax.lax.dot_general(left, right, (((left_axis,), (right_axis,)), ((), ())), preferred_element_type=jnp.float32)


def keeps(rate: float, seed: Array, head: Array | int, position: Array) -> Array:
    """Whether dropout keeps a probability: bool, by a hash of the passage's seed, the head, and query * longest + key, all int32.

    The same in both directions, so nothing is kept between them.
    """
    bits = _mix(position * _int32(0x9E3779B9) + _mix(seed ^ _mix(head + 1)))
    return jax.lax.shift_right_logical(bits, 8) >= round(rate * 2**24)


def _dropout(rate: float, seeds, head: int, group: int, shape: tuple[int, int]):
    """What multiplies the probabilities: 0 or 1 / (1 - rate)."""
    position = jax.lax.broadcasted_iota(jnp.int32, shape, 0) * shape[1] + jax.lax.broadcasted_iota(jnp.int32, shape, 1)
    kept = keeps(rate, seeds[pl.program_id(1)], pl.program_id(0) * group + head, position)
    return jnp.where(kept, jnp.float32(1 / (1 - rate)), jnp.float32(0))


def _mix(bits):
    """MurmurHash3's finalizer, int32 to int32."""
    bits = jnp.asarray(bits, jnp.int32)
    bits = (bits ^ jax.lax.shift_right_logical(bits, 16)) * _int32(0x85EBCA6B)
    bits = (bits ^ jax.lax.shift_right_logical(bits, 13)) * _int32(0xC2B2AE35)
    return bits ^ jax.lax.shift_right_logical(bits, 16)


def _int32(bits: int) -> np.int32:
    return np.uint32(bits).astype(np.int32)
