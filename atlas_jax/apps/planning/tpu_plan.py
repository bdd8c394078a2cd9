"""Plans for TPUs: compiles a step for a slice and reports memory by part, FLOPs, traffic and time.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import pathlib
import re
import time

import jax

from atlas_jax.apps.planning import compiled as compiled_lib
from atlas_jax.apps.planning import counts, planned_steps, program, refreshes, slices
from atlas_jax.apps.planning import workload as workload_lib
from atlas_jax.apps.planning.plan import GIB, PARTS, TpuPlan
from atlas_jax.io import atomic, untrusted
from atlas_jax.steps import spec as spec_lib

# Raise it when plans are made in another way, so that plans in the cache are made again.
_VERSION = 8


def plan(workload: workload_lib.Workload, topology: str,
         cache_dir: pathlib.Path | None = None) -> TpuPlan:
    """Plans a step on a slice.

    Args:
      workload: the run whose step is compiled.
      topology: the slice's name, such as v4:4x4x4.
      cache_dir: folder of earlier plans, named by a hash of the lowered programs, the topology and
        the compiler's versions; None keeps none.

    Raises:
      ConfigError: an unknown topology, or a mesh or batch that does not divide; before anything is
        compiled.
    """
    slice_ = slices.parse(topology)
    slices.check_mesh(workload.mesh_shape, slice_)
    workload = workload.in_whole_chips(slice_.chips)
    step = workload.step
    # A run tries the same rematerialisations in this order, the least recomputation first.
    auto = workload.trains and step.remat == 'auto'
    for remat in spec_lib.REMAT_TRIED['tpu'] if auto else (step.remat, ):
        planned = _plan(
            dataclasses.replace(workload, step=dataclasses.replace(step, remat=remat)), slice_,
            cache_dir)
        if planned.fits:
            break
    return planned


def _plan(workload: workload_lib.Workload, slice_: slices.Slice,
          cache_dir: pathlib.Path | None) -> TpuPlan:
    """Plans a step with a given rematerialisation."""
    mesh, hosts = planned_steps.mesh_of(workload, slice_)
    steps = planned_steps.steps_of(workload, mesh, hosts)
    # Narrower packs of an index build need less memory than the last, and are not compiled.
    compiled = [step for step in steps if step.every_call or step is steps[-1]]
    block = refreshes.block(workload, mesh)
    again = [] if block is None else [block.step]
    lowered = [step.traced.lower() for step in (*compiled, *again)]
    path = None
    if cache_dir is not None:
        shapes = [f'{step.static} {step.share} {step.items}' for step in steps]
        texts = [*(each.as_text() for each in lowered), *shapes, f'{block and block.calls} blocks']
        path = cache_dir / f'{_key(texts, slice_.name)}.json'
        if (found := _read_cached(path)) is not None:
            return found
    counted = counts.count(workload, mesh, hosts, steps, slice_)
    beside = [step.beside_bytes for step in compiled]
    result = _compiled(lowered[:len(compiled)], beside, counted, workload, mesh, slice_)
    if block is not None and result.fits:
        result = _with_refresh(result, block, lowered[-1], mesh, slice_)
    if path is not None:
        atomic.write_json(path, dataclasses.asdict(result))
    return result


def _read_cached(path: pathlib.Path) -> TpuPlan | None:
    """Returns the cached plan; None if it is missing or damaged."""
    with contextlib.suppress(ValueError, TypeError, KeyError, OSError):
        values = untrusted.read_json(path)
        # JSON has no tuples.
        found = TpuPlan(**values | {'mesh_shape': tuple(values['mesh_shape'])})
        if all(untrusted.has_type(getattr(found, field.name), field.type)
               for field in dataclasses.fields(TpuPlan)):
            return found
    return None


def _key(texts: list[str], topology: str) -> str:
    # jax and jaxlib lower the program, and libtpu compiles it: another version of any of them makes
    # another plan.
    versions = [f'{name} {_version(name)}' for name in ('jax', 'jaxlib', 'libtpu')]
    return hashlib.sha256('\n'.join([*texts, topology, *versions,
                                     f'plan {_VERSION}']).encode()).hexdigest()[:32]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return 'none'


def _compiled(lowered: list[jax.stages.Lowered], beside: list[float], counted: counts.StepCounts,
              workload: workload_lib.Workload, mesh: jax.sharding.Mesh,
              slice_: slices.Slice) -> TpuPlan:
    """Compiles the programs of a call; `beside` has the bytes beside the arguments of each."""
    start, totals, cost = time.perf_counter(), [], compiled_lib.Cost()
    for program_, held in zip(lowered, beside, strict=True):
        needed, text = _bytes_and_text(program_)
        totals.append(needed + held)
        if text is None:
            cost = compiled_lib.Cost()
            break
        cost.add(_cost(text, mesh, slice_))
    return _plan_of(max(totals), cost, counted, workload, slice_, time.perf_counter() - start)


def _with_refresh(planned: TpuPlan, block: refreshes.Block, lowered: jax.stages.Lowered,
                  mesh: jax.sharding.Mesh, slice_: slices.Slice) -> TpuPlan:
    """Adds the seconds of embedding the index again, and its memory where it needs more than the
    update.
    """
    start, chip = time.perf_counter(), slice_.generation
    needed, text = _bytes_and_text(lowered)
    more = max((needed + block.step.beside_bytes) / GIB - planned.hbm_gib_per_chip, 0.0)
    total, seconds = planned.hbm_gib_per_chip + more, 0.0
    if text is not None:
        cost = _cost(text, mesh, slice_)
        compute, kernels = (
            program.flops(block.step.traced.jaxpr, 0, alone) / slice_.chips / chip.flops
            for alone in (False, True))
        seconds = max(compute, cost.cycles / chip.cycles_a_second + kernels + cost.exposed_seconds)
    parts = planned.hbm_parts | {'temporaries': planned.hbm_parts['temporaries'] + more}
    return dataclasses.replace(
        planned, refresh_seconds=block.calls * seconds, hbm_gib_per_chip=total,
        fits=total <= planned.hbm_limit_gib, hbm_parts=parts,
        compile_seconds=planned.compile_seconds + time.perf_counter() - start)


def _bytes_and_text(lowered: jax.stages.Lowered) -> tuple[float, str | None]:
    """Compiles a program. Returns the bytes that it needs on a chip, and its text, None if it does
    not fit.
    """
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        # A program that does not fit is a result too: the compiler says how much it would need.
        return _out_of_memory(error), None
    memory, text = compiled.memory_analysis(), compiled.as_text()
    if memory is None or text is None:
        raise RuntimeError('the TPU compiler gave a program without its memory or text; another '
                           'version of libtpu may give both')
    # Aliased outputs lie in the buffers of donated arguments and take no memory of their own.
    return (memory.argument_size_in_bytes + memory.output_size_in_bytes -
            memory.alias_size_in_bytes + memory.temp_size_in_bytes +
            memory.generated_code_size_in_bytes), text


def _cost(text: str, mesh: jax.sharding.Mesh, slice_: slices.Slice) -> compiled_lib.Cost:
    # The places of a group's chips decide which links carry its bytes.
    places = [device.coords for device in mesh.devices.flat]
    # The text describes one slice, whose chips are numbered from 0. Slices follow each other on the
    # mesh.
    return compiled_lib.cost(text, mesh.size // slice_.count,
                             lambda group: slice_.bandwidth([places[number] for number in group]),
                             slice_.rates)


def _plan_of(total: float, cost: compiled_lib.Cost, counted: counts.StepCounts,
             workload: workload_lib.Workload, slice_: slices.Slice, seconds: float) -> TpuPlan:
    """Returns the plan of a program that needs `total` bytes and was compiled in `seconds`."""
    parts, chip = _parts(counted.parts, total), slice_.generation

    def at_peak(flops: float) -> float:
        return flops / slice_.chips / chip.flops

    compute, reading = at_peak(counted.flops), counted.read_bytes / chip.hbm_bytes
    kernels, compiler = at_peak(counted.kernel_flops), cost.cycles / chip.cycles_a_second
    traffic = sum(cost.moved.values()) / (2 * chip.dimensions * chip.link_bytes)
    network = cost.network_bytes / chip.network_bytes
    roofline = max(compute, traffic, network, reading)
    expected = max(roofline, compiler + kernels + cost.exposed_seconds)
    return TpuPlan(
        kind=workload.kind, topology=slice_.name, chips=slice_.chips,
        mesh_shape=slices.check_mesh(workload.mesh_shape, slice_),
        accumulation_steps=workload.step.accumulation_steps if workload.trains else 1,
        batch_size=workload.batch_size, fits=total <= chip.hbm_gib * GIB,
        hbm_gib_per_chip=total / GIB, hbm_limit_gib=chip.hbm_gib,
        hbm_parts={name: parts[name] / GIB for name in PARTS}, flops=counted.flops,
        flops_at_limit=counted.flops_at_limit, compute_seconds=compute,
        link_seconds=cost.link_seconds, memory_seconds=cost.memory_bytes / chip.hbm_bytes,
        step_seconds_roofline=roofline, items_per_second=counted.items / roofline,
        mfu_bound=at_peak(counted.model_flops) / roofline,
        remat=workload.step.remat if workload.trains else 'none', step_seconds_expected=expected,
        compiler_seconds=compiler, kernel_seconds=kernels, collective_seconds=traffic,
        network_seconds=network, exposed_seconds=cost.exposed_seconds, reading_seconds=reading,
        mfu=at_peak(counted.real_flops) / expected, collective_bytes=cost.moved,
        asynchronous_bytes=cost.asynchronous, compile_seconds=seconds,
        host_gib={name: size / GIB for name, size in workload_lib.host_bytes(workload).items()},
        scan_seconds=max(counted.scan_flops / chip.flops, counted.parts['codes'] / chip.hbm_bytes))


def _parts(parts: dict[str, float], total: float) -> dict[str, float]:
    """Returns bytes by PARTS that add up to the compiler's total. Where counts and total disagree,
    the total wins.
    """
    # The compiler may free a gradient before it makes the next one, so the counts can exceed the
    # rest of its total.
    left = max(total - sum(parts[name] for name in ('parameters', 'optimizer', 'index', 'codes')),
               0)
    gradients = min(parts['gradients'], left)
    activations = min(parts['activations'], left - gradients)
    return parts | {
        'gradients': gradients, 'activations': activations,
        'temporaries': left - gradients - activations}


def _out_of_memory(error: Exception) -> float:
    """Returns the bytes that the program would have needed, from the compiler's message; raises any
    other error again.
    """
    # The compiler words its message in one of two ways.
    match = re.search(r'Used ([\d.]+)([KMG]) of [\d.]+[KMG] hbm|\(([\d.]+)([KMG])\) exceeds '
                      r'available HBM', str(error))
    if 'RESOURCE_EXHAUSTED' not in str(error) or match is None:
        raise error
    number, unit = (part for part in match.groups() if part)
    return float(number) * {'K': 2**10, 'M': 2**20, 'G': 2**30}[unit]
