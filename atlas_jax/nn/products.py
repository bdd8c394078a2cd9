"""Matrix products, and sums written as products, as the platform runs them fastest."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from atlas_jax import partitioning

Array = jax.Array


def matmul(left: Array, right: Array, transposed: bool = False, dtype: Any = None) -> Array:
    """Returns `left @ right`, or `left @ right^T`.

    Args:
      left: [..., rows, inner] float.
      right: [..., inner, columns], or [..., columns, inner] if `transposed`; the same leading axes and dtype as `left`.
      transposed: whether `right` comes transposed.
      dtype: of the result; None is the operands'.

    Returns:
      [..., rows, columns] of `dtype`.
    """
    dtype = jnp.dtype(dtype or left.dtype)
    product = _rounded_after if _rounds_after(left) else _dot
    return product(left, right, transposed, dtype)


def dense(rows: Array, kernel: Array) -> Array:
    """Returns `rows @ kernel`: [..., in] and [in, out] of one dtype give [..., out] of the same."""
    if not _rounds_after(rows):  # the axes stay as they are: they may lie over devices
        return jnp.einsum('...i,io->...o', rows, kernel)  # i in, o out
    return matmul(rows.reshape(-1, rows.shape[-1]), kernel).reshape(*rows.shape[:-1], kernel.shape[-1])


def sum_over_leading(values: Array, kept: int) -> Array:
    """Sums over all axes but the last `kept`, as a product with ones: [..., *last] to [*last], of one dtype.

    XLA's CPU backend does its own sum over leading axes on one core.
    """
    # The highest precision: a sum must not be rounded to bfloat16 on the way, as products may be.
    ones = jnp.ones(values.shape[:-kept], values.dtype)
    return jnp.tensordot(ones, values, axes=ones.ndim, precision=jax.lax.Precision.HIGHEST)


def without_single_stream(values: Array) -> Array:
    """Drops a leading axis of one stream, the layout of one device: [1, ...] to [...]; several streams keep their axis.

    With the dimension of 1, XLA's CPU backend copies operands around in the backward pass: an MLP takes 1.6 times as long. Streams must
    not be merged with tokens or passages either: each is on a device of its own, and the partitioner would gather all tokens on every one.
    """
    return values[0] if values.ndim > 2 and values.shape[0] == 1 else values


def _rounds_after(operand: Array) -> bool:
    """Tells if products are taken in float32 and rounded afterwards, as for bfloat16 on a CPU.

    XLA's CPU backend uses the processor's unit for matrices (AMX, where it has one) only for bfloat16 products whose results are float32:
    1,000 GFLOP/s on two cores in place of 250. Elsewhere results wider than their operands would double what is kept for the gradient.
    Several CPU devices stand in for a slice; `dense` must not merge the axes that lie over them. Decided while tracing: a choice made when
    lowering (jax.lax.platform_dependent) would hide the products from what remat keeps.
    """
    return operand.dtype == jnp.bfloat16 and partitioning.platform() == 'cpu' and jax.sharding.get_abstract_mesh().empty


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _rounded_after(left: Array, right: Array, transposed: bool, dtype: Any) -> Array:
    """Multiplies as `matmul`, in float32, and rounds [..., rows, columns] to `dtype`."""
    return _dot(left, right, transposed, jnp.float32).astype(dtype)


def _rounded_after_forward(left, right, transposed, dtype):
    return _rounded_after(left, right, transposed, dtype), (left, right)


def _rounded_after_backward(transposed, _, saved, gradient):
    left, right = saved
    gradient = gradient.astype(left.dtype)  # [..., rows, columns]; of the dtype of both operands, as the unit for matrices wants it
    first, second = (gradient, left) if transposed else (left, gradient)
    # The second sums over the rows of both, which the matrix unit does not do; XLA transposes 2-byte numbers too slowly to help it.
    return (_rounded_after(gradient, right, not transposed, left.dtype),
            _rounded_after(jnp.swapaxes(first, -1, -2), second, False, right.dtype))


_rounded_after.defvjp(_rounded_after_forward, _rounded_after_backward)


def _dot(left: Array, right: Array, transposed: bool, dtype: Any) -> Array:
    """Multiplies as `matmul`: left [..., rows, inner] and `right` give [..., rows, columns] of `dtype`."""
    # the leading axes of both go together; the axis that is summed over is last on the left
    batch = tuple(range(left.ndim - 2))
    contracted = (left.ndim - 1,), (right.ndim - (1 if transposed else 2),)
    return jax.lax.dot_general(left, right, (contracted, (batch, batch)), preferred_element_type=dtype)
