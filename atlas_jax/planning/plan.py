"""Compiles a step for a slice and reports what it needs: memory by part, FLOPs, traffic, time, and what to change where it does not fit."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import math
import pathlib
import re
import time
from typing import TYPE_CHECKING

import jax

from atlas_jax.io import atomic, untrusted
from atlas_jax.planning import compiled as compiled_lib
from atlas_jax.planning import gpus, pair_lengths, program, refreshes, slices, steps
from atlas_jax.planning import workload as workload_lib
from atlas_jax.searchers import codes as codes_lib
from atlas_jax.steps import spec as spec_lib

if TYPE_CHECKING:  # it imports this module
    from atlas_jax.planning import gpu_plan

GIB = 2**30
TRAINING = workload_lib.TRAINING
_VERSION = 8  # raise it when plans are made otherwise, so that the cache gives none that was made before
PARTS = ('parameters', 'optimizer', 'index', 'codes', 'gradients', 'activations', 'temporaries')
# A call and its items, as the printed plan names them.
CALL = {'train': 'update', 'contrastive': 'update', 'answer': 'batch', 'score': 'batch', 'search': 'batch', 'index': 'pack'}
ITEM = {'train': 'examples', 'contrastive': 'examples',
        'answer': 'questions', 'score': 'orders of a question', 'search': 'questions', 'index': 'passages'}


@dataclasses.dataclass(frozen=True)
class Plan:
    """The needs of one step on one slice. Memory and traffic are a chip's, `flops` the whole slice's.

    Attributes:
      kind: the step, one of workload.STEPS.
      topology, chips: the slice's name and size.
      mesh_shape: (data, fsdp, model).
      accumulation_steps: micro-batches of an update; 1 where nothing is trained.
      remat: what the backward pass computes again (StepConfig); none where nothing is trained.
      batch_size: examples of a micro-batch, or of a batch of questions.
      fits: True if it compiles into `hbm_limit_gib`.
      hbm_gib_per_chip: GiB that the compiler needs.
      hbm_limit_gib: GiB that programs may use.
      hbm_parts: GiB by PARTS. Gradients and activations are counted on the program; temporaries are what the compiler adds. In a step that
        answers, activations are the passages' keys and values. Of a step before which the search is a program of its own, those of the
        one that needs more, with what lies beside it.
      flops: one call at typical lengths. A call is an update, a batch of questions, or a pack of passages on every host.
      flops_at_limit: the same with every passage at its limit.
      step_seconds_roofline: the longest of computing, moving and reading, as if they overlapped and all links were used at once; no
        program is quicker.
      step_seconds_expected: the compiled schedule: the compiler's estimate, kernels at the peak rate, and the collectives that it leaves
        uncovered. The longest of these and of the roofline.
      compute_seconds: `flops` at the peak rate.
      compiler_seconds: the compiler's own cycles, without collectives and without kernels.
      kernel_seconds: FLOPs of kernels at the peak rate.
      collective_seconds: the collectives' bytes over all links of a chip.
      link_seconds: the collectives' bytes over the links of their groups, one collective after another.
      network_seconds: what a chip sends to other slices over the data-centre network; 0 on one slice.
      exposed_seconds: seconds on links and network in which nothing else runs.
      reading_seconds: reading what must be read: decoder weights, keys and values for every token of an answer; the index for a search.
      memory_seconds: all that the compiled program reads and writes, at the memory's rate; the compiler's own cycles contain it.
      items_per_second: examples, questions or passages at the roofline.
      mfu_bound: share of the peak that the model's own FLOPs, without recomputation, can reach at best.
      mfu: share of the peak of the FLOPs on real tokens alone, at the expected speed; for a step that trains.
      collective_bytes: bytes by kind of collective.
      asynchronous_bytes: bytes of them that move while other operations run, by kind.
      compile_seconds: as measured when it was compiled; a plan from the cache keeps it.
      host_gib: GiB on each host by what they are, where it reads the passages' tokens: ids on its disk, and their places in its memory.
      scan_seconds: a scan of codes for a batch, at the peak rate of the matrix units or of the memory, the slower; a part of the others.
      refresh_seconds: embedding the whole index again, once, by the compiled schedule; 0 for a run that does not, or that does not fit.
    """

    kind: str
    topology: str
    chips: int
    mesh_shape: tuple[int, int, int]
    accumulation_steps: int
    remat: str
    batch_size: int
    fits: bool
    hbm_gib_per_chip: float
    hbm_limit_gib: float
    hbm_parts: dict[str, float]
    flops: float
    flops_at_limit: float
    step_seconds_roofline: float
    step_seconds_expected: float
    compute_seconds: float
    compiler_seconds: float
    kernel_seconds: float
    collective_seconds: float
    link_seconds: float
    network_seconds: float
    exposed_seconds: float
    reading_seconds: float
    memory_seconds: float
    items_per_second: float
    mfu_bound: float
    mfu: float
    collective_bytes: dict[str, float]
    asynchronous_bytes: dict[str, float]
    compile_seconds: float
    host_gib: dict[str, float] = dataclasses.field(default_factory=dict)
    scan_seconds: float = 0.0
    refresh_seconds: float = 0.0


def plan(workload: workload_lib.Workload, topology: str, cache_dir: pathlib.Path | None = None) -> Plan:
    """Plans a step on a slice.

    Args:
      workload: the run whose step is compiled.
      topology: the slice's name, such as v4:4x4x4.
      cache_dir: folder of earlier plans, under a hash of the lowered program, the topology and the compiler's versions; None keeps none.

    Raises:
      ConfigError: an unknown topology, or a mesh or batch that does not divide; before anything is compiled.
    """
    slice_ = slices.parse(topology)
    slices.check_mesh(workload.mesh_shape, slice_)
    if not workload.trains:  # evaluation fills its batches up in the same way
        workload = dataclasses.replace(workload, batch_size=math.ceil(workload.batch_size / slice_.chips) * slice_.chips)
    # As a run does: what computes least again is tried first.
    *tried, last = spec_lib.REMAT_TRIED['tpu'] if workload.trains and workload.step.remat == 'auto' else (workload.step.remat,)
    for remat in tried:
        planned = _plan(dataclasses.replace(workload, step=dataclasses.replace(workload.step, remat=remat)), slice_, topology, cache_dir)
        if planned.fits:
            return planned
    return _plan(dataclasses.replace(workload, step=dataclasses.replace(workload.step, remat=last)), slice_, topology, cache_dir)


def _plan(workload: workload_lib.Workload, slice_: slices.Slice, topology: str, cache_dir: pathlib.Path | None) -> Plan:
    """Plans a step whose rematerialisation is given."""
    mesh, hosts = steps.mesh_of(workload, slice_)
    traced = trace(workload, mesh, hosts)
    # Other shapes of an index build's packs need less, and are not compiled.
    compiled = [each for each in traced if each.step.every_call or each is traced[-1]]
    block = refreshes.block(workload, mesh)
    again = [] if block is None else [_Traced(block.step, block.step.trace())]
    lowered = [each.program.lower() for each in (*compiled, *again)]
    shapes = [f'{each.step.static} {each.step.share} {each.step.items}' for each in traced] + [f'{block and block.calls} blocks']
    path = None if cache_dir is None else cache_dir / f'{_key([*(each.as_text() for each in lowered), *shapes], topology)}.json'
    if path is not None and path.is_file():
        # A plan that is damaged is made again.
        with contextlib.suppress(ValueError, TypeError, KeyError, OSError):
            values = untrusted.read_json(path)
            # JSON has no tuples.
            found = Plan(**values | {'mesh_shape': tuple(values['mesh_shape'])})
            if all(untrusted.has_type(getattr(found, field.name), field.type) for field in dataclasses.fields(Plan)):
                return found
    beside = [each.step.beside_bytes for each in compiled]
    result = _compiled(lowered[:len(compiled)], beside, count(workload, mesh, hosts, traced, slice_), workload, mesh, slice_)
    if block is not None and result.fits:
        result = _with_refresh(result, block, again[0].program, lowered[-1], mesh, slice_)
    if path is not None:
        atomic.write_json(path, dataclasses.asdict(result))
    return result


def typical_fraction(planned: Plan) -> float:
    """FLOPs at typical lengths, as a share of those with every passage at its limit."""
    return planned.flops / planned.flops_at_limit


def lines(planned: Plan, workload: workload_lib.Workload) -> list[str]:
    """Returns the table that `atlas-jax plan` prints, remedies below it where the step does not fit."""
    call, item, fitting = CALL[planned.kind], ITEM[planned.kind], 'fits' if planned.fits else 'DOES NOT FIT'
    mesh = 'every host alone' if planned.kind == 'index' else 'data {} x fsdp {} x model {}'.format(*planned.mesh_shape)
    result = [f'{planned.topology}, {planned.chips} chips, {mesh}: {fitting}']
    if planned.kind in TRAINING:
        examples = planned.batch_size * planned.accumulation_steps
        result.append(f'examples an update     {examples} in {planned.accumulation_steps} micro-batches; remat {planned.remat}')
        if planned.kind == 'contrastive':
            result.append(f'lengths                {pair_lengths.line(workload, steps.stand_in_segments(workload.config).retriever)}')
    elif planned.kind != 'index':
        result.append(f'questions a batch      {planned.batch_size}')
    result.append(f'HBM a chip             {planned.hbm_gib_per_chip:.2f} of {planned.hbm_limit_gib} GiB')
    result += [f'  {name:21}{gib:.2f}' for name, gib in planned.hbm_parts.items() if gib]
    if planned.host_gib:
        result.append('on every host          ' + ', '.join(f'{gib:.2f} GiB of {name}' for name, gib in planned.host_gib.items()))
    result.append(f'{f"FLOPs of {call}":23}{planned.flops:.3g} on all chips')
    if planned.flops < planned.flops_at_limit:
        result.append(f'  at the limit         {planned.flops_at_limit:.3g}: real lengths take {typical_fraction(planned):.0%}')
    if planned.fits:
        result += _speed_lines(planned, workload, call, item)
    result.append(f'compiled in            {planned.compile_seconds:.0f} s')
    return result if planned.fits else [*result, *(f'to make it fit: {remedy}' for remedy in remedies(planned, workload))]


def _speed_lines(planned: Plan, workload: workload_lib.Workload, call: str, item: str) -> list[str]:
    moved = ', '.join(f'{kind} {moved / 1e9:.1f}' for kind, moved in planned.collective_bytes.items() if moved)
    read = 'the index' if planned.kind == 'search' else 'while decoding'
    reading = f', reading {read} {planned.reading_seconds:.3g}' if planned.reading_seconds else ''
    network = f', network {planned.network_seconds:.3g}' if planned.network_seconds else ''
    total = sum(planned.collective_bytes.values())
    hidden = f', {sum(planned.asynchronous_bytes.values()) / total:.0%} of it asynchronous' if total else ''
    result = [f'GB moved by a chip     {total / 1e9:.1f}{": " if moved else ""}{moved}{hidden}',
              f'roofline               {planned.step_seconds_roofline:.3g} s of {call} (compute {planned.compute_seconds:.3g}, '
              f'links {planned.collective_seconds:.3g}{network}{reading}, if they overlap)',
              f'expected               {planned.step_seconds_expected:.3g} s (compiler {planned.compiler_seconds:.3g}, of which memory '
              f'{planned.memory_seconds:.3g}; kernels {planned.kernel_seconds:.3g}; links {planned.link_seconds:.3g}{network}, not covered '
              f'{planned.exposed_seconds:.3g})',
              f'{f"{item} a second":23}{planned.items_per_second:.3g} at most',
              f'MFU at most            {planned.mfu_bound:.0%}; {planned.mfu:.0%} on real tokens as expected' if planned.kind in TRAINING
              else f'MFU at most            {planned.mfu_bound:.0%}']
    if planned.scan_seconds:
        result.append(f'scan of codes          {planned.scan_seconds:.3g} s of it, at the peak rate')
    chip_hours_a_second = planned.chips / 3600
    if planned.kind in TRAINING:
        hours = planned.step_seconds_expected * 1000 * chip_hours_a_second
        again = planned.refresh_seconds * 1000 * refreshes.a_update(workload) * chip_hours_a_second
        parts = f': {hours:.3g} of updates, {again:.3g} of embedding the index again, {planned.refresh_seconds:.3g} s each time'
        result.append(f'chip-hours             {hours + again:.3g} a 1000 updates, as expected{parts if again else ""}')
    elif planned.kind == 'index':
        rate = planned.items_per_second * planned.step_seconds_roofline / planned.step_seconds_expected
        result.append(f'the whole index        {workload.index_rows / rate * chip_hours_a_second:.3g} chip-hours, as expected: '
                      f'{workload.index_rows} passages, {rate:.3g} a second')
    return result


def remedies(planned: 'Plan | gpu_plan.GpuPlan', workload: workload_lib.Workload) -> list[str]:
    """Returns what to change where a plan does not fit, cheapest change first."""
    step, found = workload.step, []
    if planned.kind == 'index':
        return ['a smaller retriever, or a lower text_max_tokens']
    # One example a chip is the least that a step takes, so a batch of as many examples as chips cannot shrink further.
    if planned.kind not in TRAINING and planned.batch_size > planned.chips:
        found.append(f'fewer questions at a time: batch_size {planned.chips}')
    if planned.kind == 'train' and planned.batch_size > planned.chips:
        factor = planned.batch_size // planned.chips
        found.append(f'accumulate: StepConfig.accumulation_steps={planned.accumulation_steps * factor} with batch_size {planned.chips} '
                     '(the same examples an update, one a chip at a time)')
    # An index, or moments, of less than 1 GiB a chip are not the reason that a step does not fit.
    # Chunks keep the loss, which accumulation would change.
    if planned.kind == 'contrastive' and planned.batch_size > planned.chips:
        found.append(f'encode the batch in parts: ContrastiveConfig.chunks={planned.batch_size // planned.chips}')
    if planned.hbm_parts['index'] > 1 and workload.index_dtype != 'int8':
        found.append("an index in int8: --index_dtype int8 with SearchConfig.searcher='int8'")
    if planned.hbm_parts['index'] > 1 and not workload.search.on_host:
        found.append("codes on the devices and embeddings on the host: SearchConfig.searcher='codes' with SearchConfig.rescore='host'")
    if step.compute_dtype != 'bfloat16':
        found.append("compute in bfloat16: StepConfig.compute_dtype='bfloat16'")
    if step.attention == 'plain':
        found.append("encoders' attention without logits in memory: StepConfig.attention='auto'")
    remat = planned.remat if isinstance(planned, Plan) else step.remat  # auto on a GPU is full
    if planned.kind in TRAINING and remat not in ('auto', 'full'):
        least = 'full' if remat == 'encoder_mlp' else 'encoder_mlp'
        found.append(f"compute more of the layers again in the backward pass: StepConfig.remat='{least}'")
    if planned.kind in TRAINING and workload.optimizer.optimizer != 'adafactor' and planned.hbm_parts['optimizer'] > 1:
        found.append("factored moments: OptimizerConfig.optimizer='adafactor'")
    if step.param_dtype != 'bfloat16':
        found.append("weights and gradients in bfloat16: StepConfig.param_dtype='bfloat16'")
    return [*found, f'a larger slice than {planned.topology}']


@dataclasses.dataclass(frozen=True)
class _Traced:
    """A step and its traced program."""

    step: steps.Step
    program: jax.stages.Traced


@dataclasses.dataclass(frozen=True)
class _Counted:
    """Counts on the program before it is compiled: bytes of a chip by part and of its reading, FLOPs and items of a call.

    scan_flops are those of a chip's scan of codes.
    """

    parts: dict[str, float]
    flops: float
    flops_at_limit: float
    model_flops: float
    real_flops: float
    items: float
    kernel_flops: float
    read_bytes: float
    copies: int
    scan_flops: float = 0.0


def _key(texts: list[str], topology: str) -> str:
    # jax and jaxlib lower the program, libtpu compiles it: another version of any of them makes another plan.
    versions = [f'{name} {_version(name)}' for name in ('jax', 'jaxlib', 'libtpu')]
    return hashlib.sha256('\n'.join([*texts, topology, *versions, f'plan {_VERSION}']).encode()).hexdigest()[:32]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return 'none'


def count(workload: workload_lib.Workload, mesh: jax.sharding.Mesh, hosts: int, traced: list[_Traced],
          slice_: slices.Slice | gpus.GpuHosts) -> _Counted:
    """Counts on the traced programs; the shares of their shapes make an item of work an average one.

    Arguments as of `steps.steps_of` and `trace`, and the chips that the programs are traced for.
    """
    step, traced_program = traced[-1].step, traced[-1].program
    activations = step.keys_values_bytes
    if workload.trains:
        gradient_shapes = {leaf.shape for leaf in jax.tree.leaves(step.gradients)}
        activations = program.kept_bytes(traced_program.jaxpr, gradient_shapes) / slice_.chips
    codes = step.index.codes if step.index is not None and step.index.codes is not None else step.codes
    held = {'parameters': step.parameters, 'optimizer': step.optimizer, 'index': step.index and step.index.replace(codes=None),
            'codes': codes, 'gradients': step.gradients}
    parts = {name: steps.chip_bytes(tree) for name, tree in held.items()} | {'activations': activations}
    # The first branch of a switch is the smallest capacity, which a typical call fits; the last one holds every passage at its limit.
    flops, items = _flops(traced, 0), _items(traced)
    model_flops, at_limit = flops, _flops(traced, -1)
    real_flops = 0.0
    if workload.trains:  # without recomputation, and without a kernel that makes its logits again for the gradient
        plain = dataclasses.replace(workload, step=dataclasses.replace(workload.step, remat='none', attention='plain'))
        model_flops = _flops(trace(plain, mesh, hosts), 0)
        real_flops = steps.model_flops(workload, mesh)
    # Tracing again takes as long as the first time, so it is left out where nothing would differ.
    if workload.at_limit() != workload:
        limited = trace(workload.at_limit(), mesh, hosts)
        # A call of an index build holds fewer passages at the limit, so FLOPs for the same passages are compared.
        at_limit = _flops(limited, -1) * items / _items(limited)
    kernels = _flops(traced, 0, kernels_alone=True)
    scan_flops = 0.0 if codes is None else codes_lib.scan_flops(codes, workload.batch_size, mesh)
    read = sum(each.step.read_bytes for each in traced if each.step.every_call) + step.read_bytes
    return _Counted(parts, flops, at_limit, model_flops, real_flops, items, kernels, read, step.copies, scan_flops)


def trace(workload: workload_lib.Workload, mesh: jax.sharding.Mesh, hosts: int) -> list[_Traced]:
    """Traces the programs of `steps.steps_of`, in their order."""
    return [_Traced(step, step.trace()) for step in steps.steps_of(workload, mesh, hosts)]


def _flops(traced: list[_Traced], branch: int, kernels_alone: bool = False) -> float:
    """FLOPs of an average call on the whole slice, taking one branch of every switch."""
    return sum(each.step.share * each.step.copies * program.flops(each.program.jaxpr, branch, kernels_alone) for each in traced)


def _items(traced: list[_Traced]) -> float:
    """Items of an average call on the whole slice."""
    return sum(each.step.share * each.step.items for each in traced)


def _compiled(lowered: list[jax.stages.Lowered], beside: list[float], counted: _Counted, workload: workload_lib.Workload,
              mesh: jax.sharding.Mesh, slice_: slices.Slice) -> Plan:
    """Compiles the programs of a call; `beside` has the bytes that lie there besides the arguments of each."""
    start, totals, cost = time.perf_counter(), [], compiled_lib.Cost()
    for program_, held in zip(lowered, beside, strict=True):
        needed, text = _bytes_and_text(program_)
        totals.append(needed + held)
        if text is None:
            cost = compiled_lib.Cost()
            break
        cost.add(_cost(text, mesh, slice_))
    return _plan_of(max(totals), cost, counted, workload, slice_, time.perf_counter() - start)


def _with_refresh(planned: Plan, block: refreshes.Block, traced: jax.stages.Traced, lowered: jax.stages.Lowered,
                  mesh: jax.sharding.Mesh, slice_: slices.Slice) -> Plan:
    """Adds what embedding the index again takes: its seconds, and its memory where that is more than the update's."""
    start, chip = time.perf_counter(), slice_.generation
    needed, text = _bytes_and_text(lowered)
    more = max((needed + block.step.beside_bytes) / GIB - planned.hbm_gib_per_chip, 0.0)
    total, seconds = planned.hbm_gib_per_chip + more, 0.0
    if text is not None:
        cost = _cost(text, mesh, slice_)
        compute, kernels = (program.flops(traced.jaxpr, 0, alone) / slice_.chips / chip.flops for alone in (False, True))
        seconds = max(compute, cost.cycles / chip.cycles_a_second + kernels + cost.exposed_seconds)
    return dataclasses.replace(
        planned, refresh_seconds=block.calls * seconds, hbm_gib_per_chip=total, fits=total <= planned.hbm_limit_gib,
        hbm_parts=planned.hbm_parts | {'temporaries': planned.hbm_parts['temporaries'] + more},
        compile_seconds=planned.compile_seconds + time.perf_counter() - start)


def _bytes_and_text(lowered: jax.stages.Lowered) -> tuple[float, str | None]:
    """Compiles a program; returns the bytes of a chip that it needs, and its text, None where it does not fit."""
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        # A program that does not fit is a result too: the compiler says how much it would need.
        return _out_of_memory(error), None
    memory, text = compiled.memory_analysis(), compiled.as_text()
    if memory is None or text is None:
        raise RuntimeError('the TPU compiler gave a program without its memory or text; another version of libtpu may give both')
    # Aliased outputs lie in the buffers of donated arguments and take no memory of their own.
    return (memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes + memory.temp_size_in_bytes
            + memory.generated_code_size_in_bytes), text


def _cost(text: str, mesh: jax.sharding.Mesh, slice_: slices.Slice) -> compiled_lib.Cost:
    # Where each chip lies decides which links carry a group's bytes.
    places = [device.coords for device in mesh.devices.flat]
    # The compiled text is that of one slice, whose chips are numbered from 0; slices lie one behind the other on the mesh.
    return compiled_lib.cost(text, mesh.size // slice_.count, lambda group: slice_.bandwidth([places[number] for number in group]),
                             slice_.rates)


def _plan_of(total: float, cost: compiled_lib.Cost, counted: _Counted, workload: workload_lib.Workload, slice_: slices.Slice,
             seconds: float) -> Plan:
    parts, chip = _parts(counted.parts, total), slice_.generation
    compute, reading = counted.flops / slice_.chips / chip.flops, counted.read_bytes / chip.hbm_bytes
    kernels, compiler = counted.kernel_flops / slice_.chips / chip.flops, cost.cycles / chip.cycles_a_second
    scan = max(counted.scan_flops / chip.flops, counted.parts['codes'] / chip.hbm_bytes)
    traffic = sum(cost.moved.values()) / (2 * chip.dimensions * chip.link_bytes)
    network = cost.network_bytes / chip.network_bytes
    roofline = max(compute, traffic, network, reading)
    expected = max(roofline, compiler + kernels + cost.exposed_seconds)
    mesh_shape = slices.check_mesh(workload.mesh_shape, slice_)
    return Plan(
        kind=workload.kind, topology=slice_.name, chips=slice_.chips, mesh_shape=mesh_shape,
        accumulation_steps=workload.step.accumulation_steps if workload.trains else 1,
        remat=workload.step.remat if workload.trains else 'none', batch_size=workload.batch_size,
        fits=total <= chip.hbm_gib * GIB, hbm_gib_per_chip=total / GIB, hbm_limit_gib=chip.hbm_gib,
        hbm_parts={name: parts[name] / GIB for name in PARTS}, flops=counted.flops, flops_at_limit=counted.flops_at_limit,
        step_seconds_roofline=roofline, step_seconds_expected=expected, compute_seconds=compute, compiler_seconds=compiler,
        kernel_seconds=kernels, collective_seconds=traffic, link_seconds=cost.link_seconds,
        network_seconds=network, exposed_seconds=cost.exposed_seconds, reading_seconds=reading,
        memory_seconds=cost.memory_bytes / chip.hbm_bytes, items_per_second=counted.items / roofline,
        mfu_bound=counted.model_flops / slice_.chips / chip.flops / roofline,
        mfu=counted.real_flops / slice_.chips / chip.flops / expected,
        collective_bytes=cost.moved, asynchronous_bytes=cost.asynchronous, compile_seconds=seconds,
        host_gib={name: size / GIB for name, size in workload_lib.host_bytes(workload).items()},
        scan_seconds=scan)


def _parts(parts: dict[str, float], total: float) -> dict[str, float]:
    """Returns bytes by PARTS that add up to the compiler's total: counts on the program give way to it."""
    # The compiler may free a gradient before the next one is made, so the counts can exceed what is left of its total.
    left = max(total - sum(parts[name] for name in ('parameters', 'optimizer', 'index', 'codes')), 0)
    gradients = min(parts['gradients'], left)
    activations = min(parts['activations'], left - gradients)
    return parts | {'gradients': gradients, 'activations': activations, 'temporaries': left - gradients - activations}


def _out_of_memory(error: Exception) -> float:
    """Returns the bytes that the program would have needed, as the compiler's message says; raises any other error again."""
    # The compiler words its message in one of two ways.
    match = re.search(r'Used ([\d.]+)([KMG]) of [\d.]+[KMG] hbm|\(([\d.]+)([KMG])\) exceeds available HBM', str(error))
    if 'RESOURCE_EXHAUSTED' not in str(error) or match is None:
        raise error
    number, unit = (part for part in match.groups() if part)
    return float(number) * {'K': 2**10, 'M': 2**20, 'G': 2**30}[unit]
