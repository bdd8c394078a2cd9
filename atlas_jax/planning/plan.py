"""Compiles a step for a slice and says what it needs: memory by part, FLOPs, traffic, time."""

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import pathlib
import re
import time
from typing import Any

import jax
import numpy as np

from atlas_jax import errors
from atlas_jax.io import atomic
from atlas_jax.planning import collectives, program, slices, steps
from atlas_jax.planning import workload as workload_lib

GIB = 2**30
_VERSION = 3  # raise it when plans are made otherwise, so that none is taken from a cache that was made before
PARTS = ('parameters', 'optimizer', 'index', 'gradients', 'activations', 'temporaries')


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one step needs on one slice; figures of memory and traffic are a chip's, `flops` the whole slice's.

    Attributes:
      kind: of the step, workload.STEPS.
      batch_size: examples of a micro-batch, or of a batch that is answered.
      fits: whether it compiles into `hbm_limit_gib`.
      hbm_parts: GiB by PARTS. Gradients and activations are counted on the program, temporaries are what the compiler adds. Of a step
        that answers, activations are the passages' keys and values.
      flops: of one call at typical lengths; `flops_at_limit` with every passage at its limit. A call is an update, a batch that is
        answered, or a pack of passages on every host.
      step_seconds_roofline: the longest of computing at the peak rate, moving the collectives' bytes over all links, and reading weights,
        keys and values for every token of an answer.
      items_per_second: examples, questions or passages, at that speed.
      mfu_bound: share of the peak that the model's own FLOPs, without what is computed again, can reach at best.
      collective_bytes: by kind of collective.
      compile_seconds: as measured when it was compiled; a plan from the cache keeps it.
    """

    kind: str
    topology: str
    chips: int
    mesh_shape: tuple[int, int, int]
    accumulation_steps: int
    batch_size: int
    fits: bool
    hbm_gib_per_chip: float
    hbm_limit_gib: float
    hbm_parts: dict[str, float]
    flops: float
    flops_at_limit: float
    step_seconds_roofline: float
    compute_seconds: float
    collective_seconds: float
    reading_seconds: float
    items_per_second: float
    mfu_bound: float
    collective_bytes: dict[str, float]
    compile_seconds: float


def plan(workload: workload_lib.Workload, topology: str, cache_dir: pathlib.Path | None = None) -> Plan:
    """Plans a step on a slice.

    Args:
      workload: what is trained, answered or embedded.
      topology: such as v4:4x4x4.
      cache_dir: plans are kept there under a hash of the lowered program, the topology and the compiler's versions; None keeps none.

    Raises:
      ConfigError: an unknown topology, or a mesh or batch that does not divide; before anything is compiled.
    """
    slice_ = slices.parse(topology)
    shape = slices.check_mesh(workload.mesh_shape, slice_)
    if workload.trains and workload.batch_size % slice_.chips:
        raise errors.ConfigError(f'batch_size {workload.batch_size} (of a micro-batch) does not divide over the {slice_.chips} chips of '
                                 f'{topology}; choose a multiple of {slice_.chips}')
    if not workload.trains:  # as api.Atlas.whole_batch
        workload = dataclasses.replace(workload, batch_size=-(-workload.batch_size // slice_.chips) * slice_.chips)
    mesh, hosts = steps.mesh_of(workload, slice_)
    parts = steps.steps_of(workload, mesh, hosts)
    traced = [part.trace() for part in parts]
    lowered = traced[-1].lower()
    key = _key('\n'.join([lowered.as_text(), *(f'{part.static} {part.share} {part.items}' for part in parts)]), topology)
    path = None if cache_dir is None else cache_dir / f'{key}.json'
    if path is not None and path.is_file():
        values = json.loads(path.read_text(encoding='utf-8'))
        return Plan(**values | {'mesh_shape': tuple(values['mesh_shape'])})
    counted = _counted(workload, mesh, hosts, list(zip(parts, traced, strict=True)), slice_)
    result = _compiled(lowered, counted, workload, shape, slice_)
    if path is not None:
        atomic.write_json(path, dataclasses.asdict(result))
    return result


def typical_fraction(planned: Plan) -> float:
    """FLOPs at typical lengths, as a share of those with every passage at its limit."""
    return planned.flops / planned.flops_at_limit


def _key(text: str, topology: str) -> str:
    versions = [f'{name} {_version(name)}' for name in ('jax', 'jaxlib', 'libtpu')]
    return hashlib.sha256('\n'.join([text, topology, *versions, f'plan {_VERSION}']).encode()).hexdigest()[:32]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return 'none'


def _counted(workload: workload_lib.Workload, mesh, hosts: int, traced: list[tuple[steps.Step, Any]],
             slice_: slices.Slice) -> dict[str, Any]:
    """What the program says of itself before it is compiled. The shares of its shapes make an item of work an average one."""
    step, program_ = traced[-1]
    if workload.trains:
        kept = program.kept_bytes(program_.jaxpr, {leaf.shape for leaf in jax.tree.leaves(step.gradients)}) / slice_.chips
    else:
        kept = step.keys_values_bytes
    parts = {'parameters': _chip_bytes(step.parameters), 'optimizer': _chip_bytes(step.optimizer), 'index': _chip_bytes(step.index),
             'gradients': _chip_bytes(step.gradients), 'activations': kept}
    flops = _flops([(part, found.jaxpr) for part, found in traced], 0)
    plain, at_limit = flops, _flops([(part, found.jaxpr) for part, found in traced], -1)
    items = sum(part.share * part.items for part, _ in traced)
    if workload.trains:  # nothing computed again, neither layers nor logits
        step_without = dataclasses.replace(workload.step, remat='none', attention='plain')
        plain = _flops(_traced(dataclasses.replace(workload, step=step_without), mesh, hosts), 0)
    if workload.at_limit() != workload:
        limited = _traced(workload.at_limit(), mesh, hosts)
        # A call of an index build holds fewer passages at the limit: compared is what the same work takes.
        at_limit = _flops(limited, -1) * items / sum(part.share * part.items for part, _ in limited)
    return {'parts': parts, 'flops': flops, 'flops_at_limit': at_limit, 'model_flops': plain, 'items': items,
            'read_bytes': step.read_bytes, 'copies': step.copies}


def _traced(workload: workload_lib.Workload, mesh, hosts: int) -> list[tuple[steps.Step, Any]]:
    return [(part, part.trace().jaxpr) for part in steps.steps_of(workload, mesh, hosts)]


def _flops(traced: list[tuple[steps.Step, Any]], branch: int) -> float:
    return sum(part.share * part.copies * program.flops(jaxpr, branch) for part, jaxpr in traced)


def _compiled(lowered, counted: dict[str, Any], workload: workload_lib.Workload, shape, slice_: slices.Slice) -> Plan:
    start = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        total, moved = _out_of_memory(error), dict.fromkeys(collectives.KINDS, 0.0)
    else:
        memory = compiled.memory_analysis()
        total = (memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes + memory.temp_size_in_bytes
                 + memory.generated_code_size_in_bytes)
        moved = collectives.collective_bytes(compiled.as_text(), slice_.chips // counted['copies'])
    seconds = time.perf_counter() - start
    parts = _parts(counted['parts'], total)
    compute, traffic = counted['flops'] / slice_.chips / slice_.flops, sum(moved.values()) / slice_.link_bytes
    reading = counted['read_bytes'] / slice_.hbm_bytes
    roofline = max(compute, traffic, reading)
    return Plan(
        kind=workload.kind, topology=slice_.name, chips=slice_.chips, mesh_shape=shape,
        accumulation_steps=workload.step.accumulation_steps if workload.trains else 1, batch_size=workload.batch_size,
        fits=total <= slice_.hbm_gib * GIB, hbm_gib_per_chip=total / GIB, hbm_limit_gib=slice_.hbm_gib,
        hbm_parts={name: parts[name] / GIB for name in PARTS}, flops=counted['flops'], flops_at_limit=counted['flops_at_limit'],
        step_seconds_roofline=roofline, compute_seconds=compute, collective_seconds=traffic, reading_seconds=reading,
        items_per_second=counted['items'] / roofline, mfu_bound=counted['model_flops'] / slice_.chips / slice_.flops / roofline,
        collective_bytes=moved, compile_seconds=seconds)


def _parts(parts: dict[str, float], total: float) -> dict[str, float]:
    """Bytes by PARTS that add up to the compiler's total: what is counted on the program gives way to it."""
    left = max(total - sum(parts[name] for name in ('parameters', 'optimizer', 'index')), 0)
    gradients = min(parts['gradients'], left)
    activations = min(parts['activations'], left - gradients)
    return parts | {'gradients': gradients, 'activations': activations, 'temporaries': left - gradients - activations}


def _out_of_memory(error: Exception) -> float:
    """Bytes the program would have needed, of the compiler's message; raises what is another error."""
    match = re.search(r'Used ([\d.]+)([KMG]) of [\d.]+[KMG] hbm|\(([\d.]+)([KMG])\) exceeds available HBM', str(error))
    if 'RESOURCE_EXHAUSTED' not in str(error) or match is None:
        raise error
    number, unit = (part for part in match.groups() if part)
    return float(number) * {'K': 2**10, 'M': 2**20, 'G': 2**30}[unit]


def _chip_bytes(tree: Any) -> float:
    """Bytes of a chip's shards of a tree of shapes with shardings."""
    return float(sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree)))
