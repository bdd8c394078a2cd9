"""Compiles the train step for a slice and says what it needs: memory by part, FLOPs, traffic, time."""

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

from atlas_jax import errors, partitioning
from atlas_jax.io import atomic
from atlas_jax.planning import collectives, program, slices
from atlas_jax.planning import workload as workload_lib

GIB = 2**30
_VERSION = 2  # raise it when plans are made otherwise, so that none is taken from a cache that was made before
PARTS = ('parameters', 'optimizer', 'index', 'gradients', 'activations', 'temporaries')


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one step needs on one slice; figures of memory and traffic are a chip's, `flops` the whole slice's.

    Attributes:
      fits: whether it compiles into `hbm_limit_gib`.
      hbm_parts: GiB by PARTS. Gradients and activations are counted on the program, temporaries are what the compiler adds.
      flops: of one update at typical lengths; `flops_at_limit` with every passage at its limit.
      step_seconds_roofline: the longer of computing at the peak rate and moving the collectives' bytes over all links.
      mfu_bound: share of the peak that the model's own FLOPs, without what is computed again, can reach at best.
      collective_bytes: by kind of collective.
      compile_seconds: as measured when it was compiled; a plan from the cache keeps it.
    """

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
    mfu_bound: float
    collective_bytes: dict[str, float]
    compile_seconds: float


def plan(workload: workload_lib.Workload, topology: str, cache_dir: pathlib.Path | None = None) -> Plan:
    """Plans the train step on a slice.

    Args:
      workload: what is trained.
      topology: such as v4:4x4x4.
      cache_dir: plans are kept there under a hash of the lowered program, the topology and the compiler's versions; None keeps none.

    Raises:
      ConfigError: an unknown topology, or a mesh or batch that does not divide; before anything is compiled.
    """
    slice_ = slices.parse(topology)
    shape = slices.check_mesh(workload.mesh_shape, slice_)
    if workload.batch_size % slice_.chips:
        raise errors.ConfigError(f'batch_size {workload.batch_size} (of a micro-batch) does not divide over the {slice_.chips} chips of '
                                 f'{topology}; choose a multiple of {slice_.chips}')
    mesh = partitioning.make_mesh(shape, slices.devices(slice_))
    step, arguments, _ = workload_lib.train_program(workload, mesh)
    traced = step.trace(*arguments)
    lowered = traced.lower()
    path = None if cache_dir is None else cache_dir / f'{_key(lowered.as_text(), topology)}.json'
    if path is not None and path.is_file():
        values = json.loads(path.read_text(encoding='utf-8'))
        return Plan(**values | {'mesh_shape': tuple(values['mesh_shape'])})
    counted = _counted(workload, mesh, traced.jaxpr, arguments, slice_)
    result = _compiled(lowered, counted, workload, shape, slice_)
    if path is not None:
        atomic.write_json(path, dataclasses.asdict(result))
    return result


def program_key(workload: workload_lib.Workload, mesh: jax.sharding.Mesh) -> str:
    """The hash of the lowered train step, by which a plan is known."""
    step, arguments, _ = workload_lib.train_program(workload, mesh)
    return _key(step.lower(*arguments).as_text(), '')


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


def _counted(workload: workload_lib.Workload, mesh, jaxpr, arguments, slice_: slices.Slice) -> dict[str, Any]:
    """What the program says of itself before it is compiled."""
    state, _, knowledge = arguments
    params = state.params
    kept = program.kept_bytes(jaxpr, {leaf.shape for leaf in jax.tree.leaves(params)})
    parts = {'parameters': _chip_bytes((params, state.passage_encoder)), 'optimizer': _chip_bytes(state.optimizer_state),
             'index': _chip_bytes(knowledge), 'gradients': _chip_bytes(params), 'activations': kept / slice_.chips}
    plain = at_limit = jaxpr
    if workload.step.remat != 'none':
        plain = _traced(dataclasses.replace(workload, step=dataclasses.replace(workload.step, remat='none')), mesh)
    if workload.passage_tokens is not None or workload.passage_lengths is not None:
        at_limit = _traced(dataclasses.replace(workload, passage_tokens=None, passage_lengths=None), mesh)
    return {'parts': parts, 'flops': program.flops(jaxpr, 0), 'flops_at_limit': program.flops(at_limit),
            'model_flops': program.flops(plain, 0)}


def _traced(workload: workload_lib.Workload, mesh):
    step, arguments, _ = workload_lib.train_program(workload, mesh)
    return step.trace(*arguments).jaxpr


def _compiled(lowered, counted: dict[str, Any], workload: workload_lib.Workload, shape, slice_: slices.Slice) -> Plan:
    start, parts = time.perf_counter(), counted['parts']
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        total, moved = _out_of_memory(error), dict.fromkeys(collectives.KINDS, 0.0)
    else:
        memory = compiled.memory_analysis()
        total = (memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes + memory.temp_size_in_bytes
                 + memory.generated_code_size_in_bytes)
        moved = collectives.collective_bytes(compiled.as_text(), slice_.chips)
    seconds = time.perf_counter() - start
    fixed = sum(parts[name] for name in ('parameters', 'optimizer', 'index'))
    parts['gradients'] = min(parts['gradients'], max(total - fixed, 0))
    parts['activations'] = min(parts['activations'], max(total - fixed - parts['gradients'], 0))
    parts['temporaries'] = max(total - sum(parts[name] for name in PARTS[:-1]), 0)
    compute, traffic = counted['flops'] / slice_.chips / slice_.flops, sum(moved.values()) / slice_.link_bytes
    return Plan(
        topology=slice_.name, chips=slice_.chips, mesh_shape=shape, accumulation_steps=workload.step.accumulation_steps,
        batch_size=workload.batch_size, fits=total <= slice_.hbm_gib * GIB, hbm_gib_per_chip=total / GIB, hbm_limit_gib=slice_.hbm_gib,
        hbm_parts={name: parts[name] / GIB for name in PARTS}, flops=counted['flops'], flops_at_limit=counted['flops_at_limit'],
        step_seconds_roofline=max(compute, traffic), compute_seconds=compute, collective_seconds=traffic,
        mfu_bound=counted['model_flops'] / slice_.chips / slice_.flops / max(compute, traffic), collective_bytes=moved,
        compile_seconds=seconds)


def _out_of_memory(error: Exception) -> float:
    """Bytes the program would have needed, of the compiler's message; raises what is another error."""
    match = re.search(r'Used ([\d.]+)([KMG]) of [\d.]+[KMG] hbm', str(error))
    if 'RESOURCE_EXHAUSTED' not in str(error) or match is None:
        raise error
    return float(match.group(1)) * {'K': 2**10, 'M': 2**20, 'G': 2**30}[match.group(2)]


def _chip_bytes(tree: Any) -> float:
    """Bytes of a chip's shards of a tree of shapes with shardings."""
    return float(sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree)))
