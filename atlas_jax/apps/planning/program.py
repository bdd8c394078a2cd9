"""Counts on a traced program: FLOPs and kept activations. compiled.py counts on the compiled
program.

The compiler's own cost analysis is not enough: it counts a loop's body once, and every model here
is a loop over layers.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.extend import core

Jaxpr = core.Jaxpr | core.ClosedJaxpr


def flops(jaxpr: Jaxpr, branch: int = -1, kernels_alone: bool = False) -> float:
    """Returns the FLOPs of all matrix products on the whole mesh.

    Loops count by their trips. A body under shard_map runs on every device and counts for each. A
    kernel counts by its cost estimate, or once for every place of its grid.

    Args:
      jaxpr: the traced program.
      branch: the branch that counts in every switch; the last one holds everything at its limit.
      kernels_alone: True counts only Pallas kernels, whose time the compiler does not estimate.
    """
    total = 0.0
    for equation in _inner(jaxpr).eqns:
        # A kernel's own estimate covers its body. Without one, the body is counted.
        children = [] if _cost_estimate(equation) else _children(equation)
        if equation.primitive.name == 'cond':
            children = [children[branch if -len(children) <= branch < len(children) else -1]]
        skipped = kernels_alone and equation.primitive.name != 'pallas_call'
        inside = sum(flops(child, branch, kernels_alone) for child in children)
        total += (0.0 if skipped else _product_flops(equation)) + _times(equation) * inside
    return total


def kept_bytes(jaxpr: Jaxpr, param_shapes: set[tuple[int, ...]]) -> int:
    """Returns the bytes that loops over layers keep for their backward pass, on the whole mesh, in
    the largest branch.

    Args:
      jaxpr: the traced program.
      param_shapes: shapes of the gradients. Backward loops stack these up too, but they do not
        count.
    """
    total = 0
    for equation in _inner(jaxpr).eqns:
        if equation.primitive.name == 'scan':
            # One array a layer: residuals in a forward loop, weights' gradients in a backward loop.
            total += sum(
                _array_bytes(var) for var in _stacked(equation) if _shape(var) not in param_shapes)
        children = [kept_bytes(child, param_shapes) for child in _children(equation)]
        total += max(children, default=0) if equation.primitive.name == 'cond' else sum(children)
    return total


def layer_bytes(jaxpr: Jaxpr, param_shapes: set[tuple[int, ...]]) -> float:
    """Returns the most bytes that one trip of a loop adds to `kept_bytes`, on the whole mesh: a
    layer's share of its loop.
    """
    loops = [equation for equation in walk(jaxpr) if equation.primitive.name == 'scan']
    stacked = [(equation, _stacked(equation)) for equation in loops]
    return max((sum(_array_bytes(var) for var in kept if _shape(var) not in param_shapes) /
                equation.params['length'] for equation, kept in stacked), default=0.0)


def _stacked(loop: core.JaxprEqn) -> list[core.Var]:
    """Returns a scan's outputs behind the carry. Their shapes tell them apart, because JAX 0.12 no
    longer counts the carry.
    """
    body = _inner(loop.params['jaxpr'])
    return [var for var, inner in zip(loop.outvars, body.outvars, strict=True)
            if _shape(var) != _shape(inner)]


def walk(jaxpr: Jaxpr) -> Iterator[core.JaxprEqn]:
    """Yields every equation of the program, including those of its loops, branches and calls."""
    for equation in _inner(jaxpr).eqns:
        yield equation
        for child in _children(equation):
            yield from walk(child)


def _times(equation: core.JaxprEqn) -> int:
    """Returns how often the equation's body runs."""
    if equation.primitive.name == 'scan':
        return equation.params['length']
    if equation.primitive.name == 'shard_map':
        return math.prod(equation.params['mesh'].shape.values())
    if equation.primitive.name == 'pallas_call':
        return math.prod(equation.params['grid_mapping'].grid)
    if equation.primitive.name == 'while':
        return _most_trips(equation)
    return 1


def _most_trips(loop: core.JaxprEqn) -> int:
    """Returns the bound of a loop's counter, the number that its condition compares with; 1 for a
    loop without one.
    """
    compared = [
        value for equation in walk(loop.params['cond_jaxpr']) if equation.primitive.name == 'lt'
        for value in equation.invars]
    bounds = [
        int(value.val)
        for value in compared
        if isinstance(value, core.Literal) and np.issubdtype(_aval(value).dtype, np.integer)]
    return max(bounds, default=1)


def _product_flops(equation: core.JaxprEqn) -> float:
    """Returns the FLOPs of the equation itself: two for each multiplication and addition of a
    product, or a kernel's own estimate.
    """
    if estimate := _cost_estimate(equation):
        return float(estimate.flops)
    if equation.primitive.name != 'dot_general':
        return 0.0
    (contracted, _), _ = equation.params['dimension_numbers']
    left = _shape(equation.invars[0])
    return 2.0 * math.prod(_shape(equation.outvars[0])) * math.prod(
        left[axis] for axis in contracted)


def _cost_estimate(equation: core.JaxprEqn) -> Any:
    """Returns a kernel's pallas CostEstimate; None without one."""
    return equation.params['cost_estimate'] if equation.primitive.name == 'pallas_call' else None


def _children(equation: core.JaxprEqn) -> list[Jaxpr]:
    return [
        value for value in jax.tree.leaves(dict(equation.params), is_leaf=_is_jaxpr)
        if _is_jaxpr(value)]


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)


def _inner(jaxpr: Jaxpr) -> core.Jaxpr:
    return jaxpr.jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else jaxpr


def _aval(value: core.Var | core.Literal) -> Any:
    """Returns the shape and dtype of an operand or result. jax types it without these attributes,
    because tokens lack them.
    """
    return value.aval


def _shape(value: core.Var | core.Literal) -> tuple[int, ...]:
    return tuple(_aval(value).shape)


def _array_bytes(value: core.Var | core.Literal) -> int:
    dtype = _aval(value).dtype
    # Random keys have a dtype without a size; there are few.
    return math.prod(_shape(value)) * dtype.itemsize if hasattr(dtype, 'itemsize') else 0
