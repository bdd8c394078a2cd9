"""Bytes that a chip moves in each kind of collective, read off the compiled program's text with the trip counts of its loops."""

import math
import re
from collections import Counter

KINDS = ('all-gather', 'reduce-scatter', 'all-reduce', 'all-to-all', 'collective-permute')
_BYTES = {'pred': 1, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2, 'bf16': 2, 'f16': 2, 's32': 4, 'u32': 4, 'f32': 4, 's64': 8, 'u64': 8, 'f64': 8}
_COMPUTATION = re.compile(r'^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$')
_OPERATION = re.compile(r'^\s*(?:ROOT )?%?[\w.\-]+ = (.*?) ([\w\-]+)\(')
_SHAPE = re.compile(r'\b(\w+)\[([\d,]*)\]')
_CALLED = re.compile(r'(?:calls|to_apply|called_computations)=\{?%?([\w.\-]+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}|(?:true|false)_computation=%?([\w.\-]+)')


def collective_bytes(text: str, devices: int) -> dict[str, float]:
    """Bytes a chip sends in each of KINDS, of a compiled program's text; of a switch its most expensive branch.

    A ring's traffic: (n - 1) / n of the gathered or scattered array, twice that for an all-reduce, in groups of n.
    """
    computations = _computations(text)
    entry = next(name for name, (is_entry, _) in computations.items() if is_entry)
    seen: dict[str, Counter] = {}
    total = _of(entry, computations, devices, seen)
    return {kind: float(total[kind]) for kind in KINDS}


def _computations(text: str) -> dict[str, tuple[bool, list[str]]]:
    found, lines = {}, None
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            lines = []
            found[match.group(1)] = (line.startswith('ENTRY'), lines)
        elif line.startswith('}'):
            lines = None
        elif lines is not None:
            lines.append(line)
    return found


def _of(name: str, computations: dict[str, tuple[bool, list[str]]], devices: int, seen: dict[str, Counter]) -> Counter:
    if name not in seen:
        seen[name] = Counter()  # no recursion in HLO
        for line in computations.get(name, (False, []))[1]:
            seen[name].update(_of_operation(line, computations, devices, seen))
    return seen[name]


def _of_operation(line: str, computations, devices: int, seen) -> Counter:
    match = _OPERATION.match(line)
    if match is None:
        return Counter()
    shape, operation = match.groups()
    kind = operation.removesuffix('-start')
    if kind in KINDS:
        return Counter({kind: _moved(kind, shape, _group_size(line, devices))})
    if operation == 'while':
        condition, body = (re.search(rf'{part}=%?([\w.\-]+)', line).group(1) for part in ('condition', 'body'))
        trips = _trip_count(line, computations[condition][1], computations)
        return Counter({kind: trips * moved for kind, moved in _of(body, computations, devices, seen).items()})
    if operation == 'conditional':
        names = [name.strip().lstrip('%') for groups in _BRANCHES.findall(line) for group in groups if group for name in group.split(',')]
        return max((_of(name, computations, devices, seen) for name in names), key=lambda counter: sum(counter.values()))
    if (called := _CALLED.search(line)) is None:
        return Counter()
    inside = _of(called.group(1), computations, devices, seen)
    if 'all-reduce-scatter' in called.group(1):  # how the TPU compiler writes a reduce-scatter: an all-reduce of which a slice is kept
        return Counter({'reduce-scatter': inside['all-reduce'] / 2})
    return inside


def _moved(kind: str, shape: str, group: int) -> float:
    sizes = [_BYTES.get(dtype, 4) * math.prod(int(side) for side in sides.split(',') if side) for dtype, sides in _SHAPE.findall(shape)]
    if not sizes:
        return 0.0
    share = (group - 1) / group
    if kind == 'all-reduce':
        return 2 * share * sum(sizes)
    if kind == 'reduce-scatter':
        return (group - 1) * sum(sizes)  # the shape is that of the part that is kept
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


def _trip_count(line: str, condition: list[str], computations) -> int:
    """A loop's trips: as the compiler states them, else the constant that its condition compares the counter with."""
    if match := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line):
        return int(match.group(1))
    lines = list(condition)
    for text in condition:
        if called := _CALLED.search(text):
            lines += computations.get(called.group(1), (False, []))[1]
    constants = [int(match.group(1)) for text in lines if (match := re.search(r's32\[\]\S* constant\((\d+)\)', text))]
    return max(constants, default=1)
