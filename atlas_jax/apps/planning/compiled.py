"""Counts on a compiled program's text: bytes between chips and in memory, the compiler's cycles,
and what its schedule leaves uncovered.

The text lists the operations of a computation in the order in which a chip runs them, so the
schedule is walked in that order. An operation takes the compiler's own estimate. A collective takes
its bytes over the links of its group; an asynchronous one runs between its start and its end. The
compiler splits a collective over several slices into parts inside a slice, and a transfer over the
data-centre network between the slices, from `send` to `recv-done`.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

KINDS = ('all-gather', 'reduce-scatter', 'all-reduce', 'all-to-all', 'collective-permute')
_BYTES = {
    'pred': 1, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2, 'bf16': 2, 'f16': 2, 's32': 4, 'u32': 4,
    'f32': 4, 's64': 8, 'u64': 8, 'f64': 8}
# A computation opens with `%name (parameters) -> type {`, and an instruction is `%name = type
# operation(operands), attributes`.
_COMPUTATION = re.compile(r'^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$')
_OPERATION = re.compile(r'^\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\(([^)]*)\)')
# Memory spaces other than 0, such as S(3), are on the chip.
_SHAPE = re.compile(r'\b(\w+)\[([\d,]*)\](?:\{[^}]*?(S\(\d+\))?\})?')
_CALLED = re.compile(r'(?:calls|to_apply|called_computations)=\{?%?([\w.\-]+)')
_LOOP_PART = re.compile(r'(condition|body)=%?([\w.\-]+)')
_BRANCHES = re.compile(
    r'branch_computations=\{([^}]*)\}|false_computation=%?([\w.\-]+)|true_computation=%?([\w.\-]+)')
_TRANSFER = re.compile(
    r'_xla_host_transfer_rendezvous="([^"]+)".*_xla_megascale_transfer_type="(\w+)"')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
# Numbers that a chip exchanges in one cycle of a sort: 8 x 128 lanes, two cores, and about two
# operations for an exchange. This is our assumption.
_EXCHANGED_A_CYCLE = 1024
# Operations that name memory and move none.
_FREE = frozenset({
    'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'after-all', 'iota',
    'partition-id', 'replica-id'})
# Operations that read only their result's size from their first operand.
_SLICES = frozenset({'dynamic-slice', 'slice', 'gather'})

Group = tuple[int, ...]  # devices of a collective, numbered as in the mesh
Bandwidth = Callable[[Group], float]  # bytes a second that each chip of a group sends


@dataclasses.dataclass
class Cost:
    """Costs of one run of a computation on one chip.

    Attributes:
      cycles: the compiler's estimate, without collectives and without kernels.
      moved: bytes that a chip sends in collectives, by kind.
      asynchronous: bytes of them that are sent while other operations run, by kind.
      link_seconds: the collectives' bytes over the links of their groups.
      network_bytes: bytes that a chip sends to other slices.
      exposed_seconds: seconds on links and network in which nothing else runs.
      memory_bytes: bytes that operations read from and write to HBM.
    """

    cycles: float = 0.0
    moved: dict[str, float] = dataclasses.field(default_factory=lambda: dict.fromkeys(KINDS, 0.0))
    asynchronous: dict[str, float] = dataclasses.field(
        default_factory=lambda: dict.fromkeys(KINDS, 0.0))
    link_seconds: float = 0.0
    network_bytes: float = 0.0
    exposed_seconds: float = 0.0
    memory_bytes: float = 0.0

    def add(self, other: 'Cost', times: int = 1) -> None:
        """Adds `times` runs of another computation."""
        for name in ('cycles', 'link_seconds', 'network_bytes', 'exposed_seconds', 'memory_bytes'):
            setattr(self, name, getattr(self, name) + times * getattr(other, name))
        for mine, its in ((self.moved, other.moved), (self.asynchronous, other.asynchronous)):
            for kind, moved in its.items():
                mine[kind] += times * moved


@dataclasses.dataclass(frozen=True)
class Rates:
    """Rates of a chip.

    Attributes:
      cycles_a_second: cycles of the clock.
      flops_a_cycle: bfloat16 operations of all matrix units in a cycle.
      memory_bytes: bytes a second from HBM.
      network_bytes: bytes a second to other slices.
      slices: number of slices that the network joins.
    """

    cycles_a_second: float
    flops_a_cycle: float
    memory_bytes: float
    network_bytes: float
    slices: int = 1


def cost(text: str, devices: int, bandwidth: Bandwidth, rates: Rates, branch: int = 0) -> Cost:
    """Walks the schedule of a compiled program.

    A collective moves the bytes of a ring: (n - 1) / n of the gathered or scattered array in groups
    of n chips, twice that for an all-reduce. Loops count by their trips.

    Args:
      text: the compiled program, from `compiled.as_text()`.
      devices: chips of a slice, the group where the text describes no other.
      bandwidth: bytes a second of a group, see slices.Slice.bandwidth.
      rates: rates of a chip.
      branch: the branch that counts in every switch: 0 holds a typical batch, -1 every passage at
        its limit.
    """
    module = _Module(_computations(text), devices, bandwidth, rates, branch)
    return module.cost(
        next(name for name, computation in module.computations.items() if computation.is_entry))


@dataclasses.dataclass(frozen=True)
class _Operation:
    """A line of a computation: name, text of the type, operation, operands, and the whole line."""

    name: str
    shape: str
    operation: str
    operands: tuple[str, ...]
    line: str


@dataclasses.dataclass
class _Computation:
    """A computation of the text: its operations in order. The program starts at the entry."""

    is_entry: bool
    operations: list[_Operation]

    def memory_bytes_of_operands(
            self, computations: 'dict[str, _Computation]') -> dict[int, float | None]:
        """Returns the bytes that a fusion reads of each operand, by number; None if it reads all.
        """
        read: dict[int, float | None] = {}
        for parameter in self.operations:
            if parameter.operation != 'parameter':
                continue
            users = [user for user in self.operations if parameter.name in user.operands]
            parts = [_read_of(user, parameter.name, computations) for user in users]
            in_place = any(
                user.operation == 'dynamic-update-slice' and user.operands[0] == parameter.name
                for user in users)
            number = int(re.findall(r'parameter\((\d+)\)', parameter.line)[0])
            if users and None not in parts:
                read[number] = sum(part for part in parts if part is not None)
            else:  # an overwritten array is not read
                read[number] = 0.0 if in_place else None
        return read

    def written(self, shape: str) -> float:
        """Returns the bytes that a fusion with this result writes. Of an array that is updated in
        place, it writes a part.
        """
        updates = [
            operation for operation in self.operations
            if operation.operation == 'dynamic-update-slice']
        sizes = {operation.name: operation.shape for operation in self.operations}
        whole = sum(_size(update.shape) for update in updates)
        parts = sum(
            _size(sizes[update.operands[1]]) for update in updates if update.operands[1] in sizes)
        return max(_memory(shape) - whole, 0.0) + parts


def _read_of(user: _Operation, name: str, computations: dict[str, _Computation]) -> float | None:
    """Returns the bytes that an operation in a fusion reads of its operand `name`; None for all."""
    # A loop's weights are stacked by layer, and each trip reads those of its own layer.
    if user.operation in _SLICES and user.operands[0] == name:
        return _size(user.shape)
    called = _CALLED.search(user.line)
    if user.operation == 'fusion' and called and called.group(1) in computations:
        inside = computations[called.group(1)].memory_bytes_of_operands(computations)
        parts = [
            inside.get(number) for number, operand in enumerate(user.operands) if operand == name]
        return None if None in parts else sum(part for part in parts if part is not None)
    return None


def _computations(text: str) -> dict[str, _Computation]:
    found: dict[str, _Computation] = {}
    current: _Computation | None = None
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            current = found[match.group(1)] = _Computation(line.startswith('ENTRY'), [])
        elif line.startswith('}'):
            current = None
        elif current is not None and (match := _OPERATION.match(line)):
            name, shape, operation, operands = match.groups()
            current.operations.append(
                _Operation(name, shape, operation, tuple(re.findall(r'%([\w.\-]+)', operands)),
                           line))
    return found


class _Module:
    """The costs of a compiled program's computations, each walked once."""

    def __init__(self, computations: dict[str, _Computation], devices: int, bandwidth: Bandwidth,
                 rates: Rates, branch: int):
        self.computations, self._devices, self._branch = computations, devices, branch
        self._bandwidth, self._rates = bandwidth, rates
        self._costs: dict[str, Cost] = {}

    def cost(self, name: str) -> Cost:
        """Costs of one run of a computation. HLO has no recursion."""
        if name not in self._costs:
            self._costs[name] = self._walk(self._operations(name))
        return self._costs[name]

    def _operations(self, name: str) -> list[_Operation]:
        return self.computations[name].operations if name in self.computations else []

    def _walk(self, operations: Iterable[_Operation]) -> Cost:
        total, shapes = Cost(), dict[str, str]()
        # Seconds since the computation began: now, and when links and network are free again.
        now, links_free, network_free = 0.0, 0.0, 0.0
        # Ends of started collectives by name, and of transfers by the name of their `recv`.
        ends: dict[str, float] = {}
        transfers: dict[str, float] = {}  # ends of transfers whose `recv` is still to come
        for operation in operations:
            shapes[operation.name] = operation.shape
            if operation.operation.endswith(
                    '-done') and operation.operands and operation.operands[0] in ends:
                waited = max(ends.pop(operation.operands[0]) - now, 0.0)
                total.exposed_seconds += waited
                now += waited
            elif transfer := _TRANSFER.search(operation.line):
                rendezvous, kind = transfer.groups()
                if operation.operation == 'send':
                    sent = _sent_to_slices(kind, operation.shape, self._rates.slices)
                    total.network_bytes += sent
                    transfers[rendezvous] = network_free = max(
                        now, network_free) + sent / self._rates.network_bytes
                else:
                    ends[operation.name] = transfers.get(rendezvous, now)
            elif collective := self._collective(operation):
                kind, moved, group = collective
                seconds = moved / self._bandwidth(group)
                total.moved[kind] += moved
                total.link_seconds += seconds
                total.memory_bytes += _memory(operation.shape)
                # Links carry one collective after another.
                end = max(now, links_free) + seconds
                links_free = end
                if operation.operation.endswith('-start'):
                    total.asynchronous[kind] += moved
                    ends[operation.name] = end
                else:
                    total.exposed_seconds += end - now
                    now = end
            else:
                part = self._operation_cost(operation, shapes)
                now += part.cycles / self._rates.cycles_a_second + part.exposed_seconds
                total.add(part)
        # Everything that starts in a computation ends in it.
        return total

    def _collective(self, operation: _Operation) -> tuple[str, float, Group] | None:
        """Returns kind, bytes and group of a collective; None for any other operation."""
        kind = operation.operation.removesuffix('-start')
        if kind in KINDS:
            group = _group(operation.line, self._devices)
            return kind, _sent(kind, operation.shape, len(group)), group
        called = _CALLED.search(operation.line)
        # The TPU compiler writes a reduce-scatter as an all-reduce and keeps a slice of it.
        if called and 'all-reduce-scatter' in called.group(1):
            inside = next(each for each in self._operations(called.group(1))
                          if each.operation == 'all-reduce')
            group = _group(inside.line, self._devices)
            return 'reduce-scatter', _sent('all-reduce', inside.shape, len(group)) / 2, group
        return None

    def _operation_cost(self, operation: _Operation, shapes: dict[str, str]) -> Cost:
        total = Cost()
        if operation.operation == 'while':
            # Layers are loops, so most of the work is a body times its trips.
            parts = dict(_LOOP_PART.findall(operation.line))
            total.add(self.cost(parts['body']), self._trip_count(operation.line,
                                                                 parts['condition']))
        elif operation.operation == 'conditional':
            # Branches come in the order of the switch's index; false is 0.
            names = ','.join(group for groups in _BRANCHES.findall(operation.line)
                             for group in groups if group).split(',')
            chosen = self._branch if -len(names) <= self._branch < len(names) else -1
            total.add(self.cost(names[chosen].strip().lstrip('%')))
        elif operation.operation == 'call' and (called := _CALLED.search(operation.line)):
            total.add(self.cost(called.group(1)))
        elif operation.operation not in _FREE and not operation.operation.endswith('-done'):
            total.memory_bytes = self._memory_bytes(operation, shapes)
            if stated := _CYCLES.findall(operation.line):
                total.cycles = float(sum(int(cycles) for cycles in stated))
            else:
                total.cycles = self._own_estimate(operation, shapes, total.memory_bytes)
        return total

    def _own_estimate(self, operation: _Operation, shapes: dict[str, str],
                      memory_bytes: float) -> float:
        """Returns the cycles of a sort, a top-k, or a product fused with a partial reduction, for
        which the compiler states no cycles. 0 for any other operation.
        """
        inside = list(self._inside(operation, shapes))
        sorting = sum(_sorting_cycles(*each) for each in inside)
        product = sum(_product_flops(*each) for each in inside) / self._rates.flops_a_cycle
        read = memory_bytes / self._rates.memory_bytes * self._rates.cycles_a_second
        return sorting + (max(product, read) if product else 0.0)

    def _inside(self, operation: _Operation,
                shapes: dict[str, str]) -> Iterator[tuple[_Operation, dict[str, str]]]:
        """Yields the operation and those of its fusions, with the shapes of their operands."""
        yield operation, shapes
        called = _CALLED.search(operation.line)
        if operation.operation == 'fusion' and called:
            operations = self._operations(called.group(1))
            for each in operations:
                yield from self._inside(each, {one.name: one.shape for one in operations})

    def _memory_bytes(self, operation: _Operation, shapes: dict[str, str]) -> float:
        if operation.operation.endswith('-start'):  # its result names the copied array as well
            return _memory(operation.shape)
        sizes = [_memory(shapes.get(name, '')) for name in operation.operands]
        if operation.operation in _SLICES:
            return _memory(operation.shape) + min(sizes[0], _size(operation.shape)) + sum(sizes[1:])
        if operation.operation == 'dynamic-update-slice':
            return 2 * sizes[1]
        called = _CALLED.search(operation.line)
        if operation.operation != 'fusion' or called is None or called.group(
                1) not in self.computations:
            return _memory(operation.shape) + sum(sizes)
        inside = self.computations[called.group(1)]
        read = inside.memory_bytes_of_operands(self.computations)
        for number, size in enumerate(sizes):
            part = read.get(number)
            sizes[number] = size if part is None else min(size, part)
        return inside.written(operation.shape) + sum(sizes)

    def _trip_count(self, line: str, condition: str) -> int:
        """Returns a loop's trips: the compiler's number, else the constant that its condition
        compares the counter with.
        """
        if match := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line):
            return int(match.group(1))
        lines = [operation.line for operation in self._operations(condition)]
        for text in list(lines):
            if called := _CALLED.search(text):
                lines += [operation.line for operation in self._operations(called.group(1))]
        constants = [int(match.group(1)) for text in lines
                     if (match := re.search(r's32\[\]\S* constant\((\d+)\)', text))]
        return max(constants, default=1)


def _sorting_cycles(operation: _Operation, shapes: dict[str, str]) -> float:
    """Estimates the cycles of a sort along one dimension, or of a top-k along the last: the
    exchanges of a bitonic network. 0 for other operations.
    """
    top_k = 'custom_call_target="TopK"' in operation.line
    if operation.operation != 'sort' and not top_k:
        return 0.0
    arrays = _SHAPE.findall(shapes.get(operation.operands[0], '') if top_k else operation.shape)
    sides = _numbers(arrays[0][1]) if arrays else ()
    if not sides:
        return 0.0
    along = len(sides) - 1 if top_k else int(re.findall(r'dimensions=\{(\d+)\}', operation.line)[0])
    length = math.ceil(math.log2(sides[along])) if sides[along] > 1 else 0
    stages = length * (length + 1) / 2
    if top_k:  # sorts runs as long as the result, and merges them by halves
        kept = math.ceil(math.log2(_numbers(_SHAPE.findall(operation.shape)[0][1])[-1] or 1))
        stages = min(stages, kept * (kept + 1) / 2 + 2 * (kept + 1))
    columns = 2 if top_k else len(arrays)  # a top-k moves places along with values
    return columns * stages * 2**length * math.prod(sides) / sides[along] / _EXCHANGED_A_CYCLE


def _product_flops(operation: _Operation, shapes: dict[str, str]) -> float:
    """Returns the bfloat16 operations of a matrix product; float32 at the highest precision takes
    six passes.
    """
    if operation.operation != 'convolution':
        return 0.0
    counts = [
        math.prod(_numbers(arrays[0][1]) or (1, ))
        for name in operation.operands
        if (arrays := _SHAPE.findall(shapes.get(name, '')))]
    result = math.prod(_numbers(_SHAPE.findall(operation.shape)[0][1]) or (1,))
    passes = 6 if 'operand_precision={highest' in operation.line else 1
    # [m, k] x [k, n] -> [m, n]: the product of the three sizes is (m k n)².
    return passes * 2 * math.sqrt(math.prod(counts) * result) if len(counts) == 2 else 0.0


def _sizes(shape: str) -> list[tuple[float, bool]]:
    """Returns the bytes of each array in a type's text, and True if it lies in HBM."""
    return [(_BYTES.get(dtype, 4) * math.prod(int(side) for side in sides.split(',') if side),
             not space) for dtype, sides, space in _SHAPE.findall(shape)]


def _size(shape: str) -> float:
    return sum(size for size, _ in _sizes(shape))


def _memory(shape: str) -> float:
    """Bytes of a type's arrays that lie in HBM."""
    return sum(size for size, in_memory in _sizes(shape) if in_memory)


def _sent(kind: str, shape: str, group: int) -> float:
    """Returns the bytes that a chip sends in one collective, from the shape of the result and the
    size of the group.
    """
    sizes = [size for size, _ in _sizes(shape)]
    if not sizes:
        return 0.0
    share = (group - 1) / group
    if kind == 'all-reduce':
        return 2 * share * sum(sizes)
    if kind == 'reduce-scatter':
        return (group - 1) * sum(sizes)  # the shape is that of the kept part
    # The shape of an asynchronous start has operand and result; a gather's result is the larger
    # one.
    return max(sizes) * (1 if kind == 'collective-permute' else share)


def _sent_to_slices(kind: str, shape: str, slices: int) -> float:
    """Returns the bytes that a chip sends to the other slices in a `send`, whose shape starts with
    the sent array.
    """
    part = _sizes(shape)[0][0]
    # A sum goes round the slices like on a ring; any other part goes whole to every other slice.
    return part * (2 * (slices - 1) / slices if kind == 'ALL_REDUCE' else slices - 1)


def _group(line: str, devices: int) -> Group:
    """Returns the first group of a collective, or the first pair of a permutation; the others are
    alike.
    """
    # sizes of axes, and the axes that a group spans
    if match := re.search(r'replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}', line):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", match.group(1))}
        spanned = re.findall(r"'([^']+)'", match.group(2))
        places = np.arange(math.prod(sizes.values())).reshape(list(sizes.values()))
        return tuple(places[tuple(
            slice(None) if name in spanned else 0 for name in sizes)].ravel().tolist())
    # a transposed range, cut into groups
    if match := re.search(r'replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', line):
        places = np.arange(int(match.group(1)) * int(match.group(2))).reshape(
            _numbers(match.group(3)))
        if match.group(4):
            places = places.transpose(_numbers(match.group(4)))
        return tuple(places.ravel()[:int(match.group(2))].tolist())
    if match := re.search(r'(?:replica_groups|source_target_pairs)=\{\{([\d,]+)\}', line):
        return tuple(_numbers(match.group(1)))
    return tuple(range(devices))


def _numbers(text: str) -> Sequence[int]:
    return [int(number) for number in text.split(',') if number]
