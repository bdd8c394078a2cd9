"""Counts on a program: FLOPs and kept activations on its jaxpr, bytes moved between chips on its compiled text.

The compiler's own cost analysis is not enough: it counts the body of a loop once, and every model here is a loop over layers.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.extend import core

Jaxpr = core.Jaxpr | core.ClosedJaxpr

KINDS = ('all-gather', 'reduce-scatter', 'all-reduce', 'all-to-all', 'collective-permute')
_BYTES = {'pred': 1, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2, 'bf16': 2, 'f16': 2, 's32': 4, 'u32': 4, 'f32': 4, 's64': 8, 'u64': 8, 'f64': 8}
# A computation opens with `%name (parameters) -> type {`, and an instruction is `%name = type operation(operands), attributes`.
_COMPUTATION = re.compile(r'^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$')
_OPERATION = re.compile(r'^\s*(?:ROOT )?%?[\w.\-]+ = (.*?) ([\w\-]+)\(')
_SHAPE = re.compile(r'\b(\w+)\[([\d,]*)\]')
_CALLED = re.compile(r'(?:calls|to_apply|called_computations)=\{?%?([\w.\-]+)')
_LOOP_PART = re.compile(r'(condition|body)=%?([\w.\-]+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}|(?:true|false)_computation=%?([\w.\-]+)')


# On the jaxpr.


def flops(jaxpr: Jaxpr, branch: int = -1) -> float:
    """Returns the FLOPs of all matrix products on the whole mesh.

    Loops count by their trips. A body under shard_map is that of one device and counts for each. A kernel counts as its cost estimate says,
    or once for every place of its grid.

    Args:
      jaxpr: the traced program.
      branch: the branch that counts in every switch; the last one holds everything at its limit.
    """
    total = 0.0
    for equation in _inner(jaxpr).eqns:
        # A kernel's own estimate covers its body; without one, the body is counted like any other.
        children = [] if _cost_estimate(equation) else _children(equation)
        if equation.primitive.name == 'cond':
            children = [children[branch if -len(children) <= branch < len(children) else -1]]
        total += _product_flops(equation) + _times(equation) * sum(flops(child, branch) for child in children)
    return total


def kept_bytes(jaxpr: Jaxpr, param_shapes: set[tuple[int, ...]]) -> int:
    """Returns the bytes that loops over layers stack up for their backward pass, on the whole mesh, in the largest branch.

    Args:
      jaxpr: the traced program.
      param_shapes: shapes of the gradients, which backward loops stack up too and which do not count.
    """
    total = 0
    for equation in _inner(jaxpr).eqns:
        if equation.primitive.name == 'scan':
            # Outputs behind the carry are one array a layer: residuals in a forward loop, gradients of weights in a backward one.
            stacked = equation.outvars[equation.params['num_carry']:]
            total += sum(_array_bytes(var) for var in stacked if _shape(var) not in param_shapes)
        children = [kept_bytes(child, param_shapes) for child in _children(equation)]
        total += max(children, default=0) if equation.primitive.name == 'cond' else sum(children)
    return total


def walk(jaxpr: Jaxpr) -> Iterator[core.JaxprEqn]:
    """Yields every equation of the program, those of its loops, branches and calls too."""
    for equation in _inner(jaxpr).eqns:
        yield equation
        for child in _children(equation):
            yield from walk(child)


def _times(equation: core.JaxprEqn) -> int:
    """How often the equation's body runs."""
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
    """Returns the bound of a loop's counter, the number its condition compares with; 1 where there is none."""
    compared = [value for equation in walk(loop.params['cond_jaxpr']) if equation.primitive.name == 'lt' for value in equation.invars]
    bounds = [int(value.val) for value in compared if isinstance(value, core.Literal) and np.issubdtype(_aval(value).dtype, np.integer)]
    return max(bounds, default=1)


def _product_flops(equation: core.JaxprEqn) -> float:
    """FLOPs of the equation itself: two for each multiplication and addition of a product, or a kernel's own estimate."""
    if estimate := _cost_estimate(equation):
        return float(estimate.flops)
    if equation.primitive.name != 'dot_general':
        return 0.0
    (contracted, _), _ = equation.params['dimension_numbers']
    left = _shape(equation.invars[0])
    return 2.0 * math.prod(_shape(equation.outvars[0])) * math.prod(left[axis] for axis in contracted)


def _cost_estimate(equation: core.JaxprEqn) -> Any:
    """The pallas CostEstimate of a kernel that has one, else None."""
    return equation.params['cost_estimate'] if equation.primitive.name == 'pallas_call' else None


def _children(equation: core.JaxprEqn) -> list[Jaxpr]:
    return [value for value in jax.tree.leaves(dict(equation.params), is_leaf=_is_jaxpr) if _is_jaxpr(value)]


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)


def _inner(jaxpr: Jaxpr) -> core.Jaxpr:
    return jaxpr.jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else jaxpr


def _aval(value: core.Var | core.Literal) -> Any:
    """The shape and dtype of an operand or result. jax types it without these attributes, since a token has none."""
    return value.aval


def _shape(value: core.Var | core.Literal) -> tuple[int, ...]:
    return tuple(_aval(value).shape)


def _array_bytes(value: core.Var | core.Literal) -> int:
    dtype = _aval(value).dtype
    # Keys of random numbers have a dtype without a size; they are few.
    return math.prod(_shape(value)) * dtype.itemsize if hasattr(dtype, 'itemsize') else 0


# On the compiled text.


def collective_bytes(text: str, devices: int) -> dict[str, float]:
    """Returns the bytes that a chip sends in each of KINDS; a switch counts as its most expensive branch.

    The formula is a ring's: (n - 1) / n of the gathered or scattered array in groups of n chips, and twice that for an all-reduce.

    Args:
      text: the compiled program, as `compiled.as_text()` gives it.
      devices: chips of a group that the text does not describe.
    """
    module = _Module(_computations(text), devices)
    total = module.moved(next(name for name, computation in module.computations.items() if computation.is_entry))
    return {kind: float(total[kind]) for kind in KINDS}


@dataclasses.dataclass
class _Computation:
    """A computation of the text: its lines, and whether the program starts there."""

    is_entry: bool
    lines: list[str]


def _computations(text: str) -> dict[str, _Computation]:
    found: dict[str, _Computation] = {}
    current: _Computation | None = None
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            current = found[match.group(1)] = _Computation(line.startswith('ENTRY'), [])
        elif line.startswith('}'):
            current = None
        elif current is not None:
            current.lines.append(line)
    return found


class _Module:
    """The traffic of a compiled program's computations, each counted once."""

    def __init__(self, computations: dict[str, _Computation], devices: int):
        self.computations, self._devices = computations, devices
        self._moved: dict[str, Counter[str]] = {}

    def moved(self, name: str) -> Counter[str]:
        """Bytes by kind in one run of a computation."""
        if name not in self._moved:
            total: Counter[str] = Counter()
            self._moved[name] = total
            for line in self._lines(name):  # HLO has no recursion, so an entry that is being filled is never read
                total.update(self._of_operation(line))
        return self._moved[name]

    def _lines(self, name: str) -> list[str]:
        return self.computations[name].lines if name in self.computations else []

    def _of_operation(self, line: str) -> Counter[str]:
        match = _OPERATION.match(line)
        if match is None:
            return Counter()
        shape, operation = match.groups()
        kind = operation.removesuffix('-start')  # the -done of an asynchronous pair does not count again
        if kind in KINDS:
            return Counter({kind: _sent(kind, shape, _group_size(line, self._devices))})
        if operation == 'while':
            # Layers are loops, so most of the traffic is that of a body times its trips.
            parts = dict(_LOOP_PART.findall(line))
            trips = self._trip_count(line, parts['condition'])
            return Counter({kind: trips * moved for kind, moved in self.moved(parts['body']).items()})
        if operation == 'conditional':
            names = ','.join(group for groups in _BRANCHES.findall(line) for group in groups if group).split(',')
            return max((self.moved(name.strip().lstrip('%')) for name in names), key=lambda counter: sum(counter.values()))
        if (called := _CALLED.search(line)) is None:
            return Counter()
        inside = self.moved(called.group(1))
        if 'all-reduce-scatter' in called.group(1):  # how the TPU compiler writes a reduce-scatter: an all-reduce of which a slice is kept
            return Counter({'reduce-scatter': inside['all-reduce'] / 2})
        return inside

    def _trip_count(self, line: str, condition: str) -> int:
        """A loop's trips: as the compiler states them, else the constant that its condition compares the counter with."""
        if match := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line):
            return int(match.group(1))
        lines = list(self._lines(condition))
        for text in self._lines(condition):
            if called := _CALLED.search(text):
                lines += self._lines(called.group(1))
        constants = [int(match.group(1)) for text in lines if (match := re.search(r's32\[\]\S* constant\((\d+)\)', text))]
        return max(constants, default=1)


def _sent(kind: str, shape: str, group: int) -> float:
    """Bytes that a chip sends in one collective, by the shape of its result and the chips of its group."""
    sizes = [_BYTES.get(dtype, 4) * math.prod(int(side) for side in sides.split(',') if side) for dtype, sides in _SHAPE.findall(shape)]
    if not sizes:
        return 0.0
    share = (group - 1) / group
    if kind == 'all-reduce':
        return 2 * share * sum(sizes)
    if kind == 'reduce-scatter':
        return (group - 1) * sum(sizes)  # the shape is that of the part that is kept
    # An asynchronous start has operand and result in its shape; of a gather the larger one is the result.
    return max(sizes) * (1 if kind == 'collective-permute' else share)


def _group_size(line: str, devices: int) -> int:
    if match := re.search(r'replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}', line):  # sizes of axes, and the axes that a group spans
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", match.group(1)))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", match.group(2)))
    if match := re.search(r'replica_groups=\[(\d+),(\d+)\]', line):
        return int(match.group(2))
    if match := re.search(r'replica_groups=\{\{([\d,]+)\}', line):
        return len(match.group(1).split(','))
    return devices
