"""Matrix products, and sums written as products, in the form that is fastest on the platform."""

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
      right: [..., inner, columns], or [..., columns, inner] if `transposed`; the same leading axes
        and dtype as `left`.
      transposed: True if `right` is transposed.
      dtype: dtype of the result; None takes the operands'.

    Returns:
      [..., rows, columns] of `dtype`.
    """
    dtype = jnp.dtype(dtype or left.dtype)
    product = _rounded_after if _rounds_after(left) else _dot
    return product(left, right, transposed, dtype)


def dense(rows: Array, kernel: Array) -> Array:
    """Returns `rows @ kernel`, [..., out] of the dtype of rows [..., in] and kernel [in, out]."""
    if not _rounds_after(rows):  # the axes stay apart, since they may be spread over devices
        return jnp.einsum('...i,io->...o', rows, kernel)  # i in, o out
    return matmul(rows.reshape(-1, rows.shape[-1]), kernel).reshape(*rows.shape[:-1],
                                                                    kernel.shape[-1])


def sum_over_leading(values: Array, kept: int) -> Array:
    """Sums over all axes but the last `kept`, as a product with ones: [..., *last] to [*last] of
    the same dtype.

    XLA's CPU backend computes a plain sum over leading axes on one core.
    """
    # The highest precision: products may be rounded to bfloat16 on the way, but a sum must not.
    ones = jnp.ones(values.shape[:-kept], values.dtype)
    return jnp.tensordot(ones, values, axes=ones.ndim, precision=jax.lax.Precision.HIGHEST)


def without_single_stream(values: Array) -> Array:
    """Drops the leading axis of a single stream, the layout of one device: [1, ...] to [...].
    Several streams keep their axis.

    With the axis of size 1, XLA's CPU backend copies operands in the backward pass, and an MLP
    takes 1.6 times as long. Several streams must not be merged with tokens or passages: each is on
    its own device, and the partitioner would gather all tokens on every device.
    """
    return values[0] if values.ndim > 2 and values.shape[0] == 1 else values


def _rounds_after(operand: Array) -> bool:
    """Returns whether products are computed in float32 and rounded afterwards: bfloat16 on one CPU
    device.

    XLA's CPU backend uses the processor's matrix unit (AMX) only for bfloat16 products with float32
    results: 1,000 GFLOP/s on two cores instead of 250. On other platforms, wider results would
    double the memory kept for the gradient. On several CPU devices `dense` must not merge axes that
    are spread over them. The choice is made while tracing: jax.lax.platform_dependent would hide
    the products from the remat policies.
    """
    return operand.dtype == jnp.bfloat16 and partitioning.platform(
    ) == 'cpu' and jax.sharding.get_abstract_mesh().empty


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _rounded_after(left: Array, right: Array, transposed: bool, dtype: Any) -> Array:
    """Multiplies like `matmul`, in float32, and rounds [..., rows, columns] to `dtype`."""
    return _dot(left, right, transposed, jnp.float32).astype(dtype)


def _rounded_after_forward(left, right, transposed, dtype):
    return _rounded_after(left, right, transposed, dtype), (left, right)


def _rounded_after_backward(transposed, _, saved, gradient):
    left, right = saved
    # [..., rows, columns]; the matrix unit needs both operands in one dtype
    gradient = gradient.astype(left.dtype)
    first, second = (gradient, left) if transposed else (left, gradient)
    # The second product sums over the rows of both operands. The matrix unit cannot do that, and
    # XLA transposes 2-byte numbers too slowly for it to pay.
    return (_rounded_after(gradient, right, not transposed, left.dtype),
            _rounded_after(jnp.swapaxes(first, -1, -2), second, False, right.dtype))


_rounded_after.defvjp(_rounded_after_forward, _rounded_after_backward)


def _dot(left: Array, right: Array, transposed: bool, dtype: Any) -> Array:
    """Multiplies like `matmul`: left [..., rows, inner] and `right` give [..., rows, columns] of
    `dtype`.
    """
    # The leading axes are batch axes. The contracted axis is the last one of `left`.
    batch = tuple(range(left.ndim - 2))
    contracted = (left.ndim - 1,), (right.ndim - (1 if transposed else 2),)
    return jax.lax.dot_general(left, right, (contracted, (batch, batch)),
                               preferred_element_type=dtype)
