"""What a program does, read off its jaxpr: matrix FLOPs with the trip counts of loops, and what loops keep for the backward pass."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.extend import core


def flops(jaxpr: Any, branch: int = -1) -> float:
    """FLOPs of all matrix products, of the whole mesh; a switch counts as its branch number `branch` (the last: everything at its limit).

    The compiler's own count takes the body of a loop once. A body under shard_map is that of one device, so it counts for each. A kernel
    counts as it says itself, or as often as its grid has places.
    """
    return _sum(jaxpr, _product_flops, branch)


def largest_side(jaxpr: Any) -> int:
    """The longest dimension of any array in the program: what 32-bit indexes must be able to count."""
    return max((side for equation, _ in _walk(jaxpr) for var in equation.outvars for side in getattr(var.aval, 'shape', ())), default=0)


def branches(jaxpr: Any) -> int:
    """Branches of the largest switch in the program; 1 where there is none."""
    found = [1]
    for equation, _ in _walk(jaxpr):
        if equation.primitive.name == 'cond':
            found.append(len(equation.params['branches']))
    return max(found)


def kept_bytes(jaxpr: Any, param_shapes: set[tuple[int, ...]]) -> int:
    """Bytes that loops over layers stack up for their backward pass, of the whole mesh, in the most demanding branch.

    Gradients stacked up by the backward loops are not among them: `param_shapes` says what they look like.
    """
    total = 0
    for equation in _inner(jaxpr).eqns:
        if equation.primitive.name == 'scan':
            stacked = equation.outvars[equation.params['num_carry']:]
            total += sum(_bytes(var.aval) for var in stacked if tuple(var.aval.shape) not in param_shapes)
        children = [kept_bytes(child, param_shapes) for child in _children(equation)]
        total += max(children, default=0) if equation.primitive.name == 'cond' else sum(children)
    return total


def _sum(jaxpr: Any, cost: Callable[[Any], float], branch: int) -> float:
    total = 0.0
    for equation in _inner(jaxpr).eqns:
        children = [] if _own_estimate(equation) else _children(equation)
        if equation.primitive.name == 'cond':
            children = [children[branch if -len(children) <= branch < len(children) else -1]]
        total += cost(equation) + _times(equation) * sum(_sum(child, cost, branch) for child in children)
    return total


def _times(equation: Any) -> int:
    if equation.primitive.name == 'scan':
        return equation.params['length']
    if equation.primitive.name == 'shard_map':
        return math.prod(equation.params['mesh'].shape.values())
    if equation.primitive.name == 'pallas_call':
        return math.prod(equation.params['grid_mapping'].grid)
    if equation.primitive.name == 'while':
        return _most_trips(equation)
    return 1


def _most_trips(loop: Any) -> int:
    """Trips of a loop that a counter bounds: what its condition compares the counter with; 1 where nothing does."""
    compared = [value for equation, _ in _walk(loop.params['cond_jaxpr']) if equation.primitive.name == 'lt' for value in equation.invars]
    bounds = [int(value.val) for value in compared if isinstance(value, core.Literal) and np.issubdtype(value.aval.dtype, np.integer)]
    return max(bounds, default=1)


def _product_flops(equation: Any) -> float:
    if estimate := _own_estimate(equation):
        return float(estimate.flops)
    if equation.primitive.name != 'dot_general':
        return 0.0
    (contracted, _), _ = equation.params['dimension_numbers']
    left = equation.invars[0].aval.shape
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)


def _own_estimate(equation: Any) -> Any:
    return equation.params['cost_estimate'] if equation.primitive.name == 'pallas_call' else None


def _walk(jaxpr: Any) -> Iterator[tuple[Any, Any]]:
    for equation in _inner(jaxpr).eqns:
        yield equation, jaxpr
        for child in _children(equation):
            yield from _walk(child)


def _children(equation: Any) -> list[Any]:
    return [value for value in jax.tree.leaves(dict(equation.params), is_leaf=_is_jaxpr) if _is_jaxpr(value)]


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)


def _inner(jaxpr: Any) -> Any:
    return jaxpr.jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else jaxpr


def _bytes(aval: Any) -> int:
    return math.prod(aval.shape) * aval.dtype.itemsize if hasattr(aval.dtype, 'itemsize') else 0
