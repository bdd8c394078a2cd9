"""Plans for GPUs by formula: memory and time are counted on the traced program, so that a plan needs nothing but jax.

The program is traced on CPU devices that stand in for the GPUs, and as it is lowered for a TPU: it has the same products, and the TPU's
attention kernel stands in for cuDNN's, which can be traced only where cuDNN is installed. docs/gpu.md compares its memory with the
compiler's (benchmarks/gpu_memory.py).
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from atlas_jax import partitioning
from atlas_jax.index import embed
from atlas_jax.nn import flash_attention
from atlas_jax.planning import gpus, program, slices, steps
from atlas_jax.planning import plan as plan_lib
from atlas_jax.planning import workload as workload_lib

_TRACED_FOR = 'tpu'
_TRAINING_MOVES = 3  # a weight forward, again backward, and its gradient back
NOT_COUNTED = ('copies and scratch of XLA, buffers of NCCL and cuDNN, fragmentation',
               'kernels below their peak, activations read and written, launches, the host')


@dataclasses.dataclass(frozen=True)
class GpuPlan:
    """The needs of one step, by formula. Memory and traffic are a GPU's, `flops` those of all.

    Attributes:
      kind, topology, chips, mesh_shape, accumulation_steps, batch_size: as in plan.Plan.
      attention: of the encoders, 'cuDNN' or 'plain'.
      fits: True if what is counted fits.
      hbm_gib_per_chip: GiB of what is counted.
      hbm_limit_gib: GiB of a GPU.
      hbm_parts: GiB by plan.PARTS but temporaries, and `working set`: what one layer needs while it is computed, and a second copy of the
        keys and values that answers read.
      flops, flops_at_limit: as in plan.Plan.
      compute_seconds: `flops` at the peak rate.
      link_seconds: gathering weights and sending gradients, over NVLink within a host and over the network between hosts.
      memory_seconds: the least that is read and written: weights, gradients and moments of an update; decoder weights, keys and values for
        every token of an answer; the index for a search.
      step_seconds_roofline: the longest of the three, as if they overlapped; no run is quicker.
      step_seconds_apart: the sum of the three.
      items_per_second: examples, questions or passages at the roofline.
      mfu_bound: share of the peak that the model's own FLOPs, without recomputation, can reach at best.
      moved_bytes: bytes that a GPU sends.
      by: always 'formula': nothing was compiled and nothing has run.
      not_counted: what memory and time leave out.
    """

    kind: str
    topology: str
    chips: int
    mesh_shape: tuple[int, int, int]
    accumulation_steps: int
    batch_size: int
    attention: str
    fits: bool
    hbm_gib_per_chip: float
    hbm_limit_gib: float
    hbm_parts: dict[str, float]
    flops: float
    flops_at_limit: float
    compute_seconds: float
    link_seconds: float
    memory_seconds: float
    step_seconds_roofline: float
    step_seconds_apart: float
    items_per_second: float
    mfu_bound: float
    moved_bytes: float
    by: str = 'formula'
    not_counted: tuple[str, ...] = NOT_COUNTED


def plan(workload: workload_lib.Workload, topology: str) -> GpuPlan:
    """Plans a step on GPUs.

    Args:
      workload: the run whose step is traced.
      topology: such as h100:8.

    Raises:
      ConfigError: an unknown topology, a mesh or batch that does not divide, or a kernel that is asked for and does not fit.
    """
    hosts = gpus.parse(topology)
    mesh_shape = slices.check_mesh(workload.mesh_shape, hosts)
    if not workload.trains:  # evaluation fills its batches up in the same way
        workload = dataclasses.replace(workload, batch_size=math.ceil(workload.batch_size / hosts.chips) * hosts.chips)
    if workload.kind == 'index':
        # Every process embeds its own shards on the GPUs of its host.
        mesh, copies = embed.encoder_mesh(_stand_ins(hosts.host_chips)), hosts.chips // hosts.host_chips
    else:
        mesh, copies = partitioning.make_mesh(mesh_shape, _stand_ins(hosts.chips)), 1
    attention = _attention(workload, mesh)
    workload = dataclasses.replace(workload, lower_for=_TRACED_FOR, step=dataclasses.replace(workload.step, attention=attention))
    traced = plan_lib.trace(workload, mesh, copies)
    counted = plan_lib.count(workload, mesh, copies, traced, hosts)
    step = traced[-1].step
    parts = counted.parts | {'working set': _working_bytes(workload, step, mesh)}
    moved = _moved(workload, step.parameters, mesh_shape)
    compute, links = counted.flops / hosts.chips / hosts.gpu.flops, sum(bytes_ / hosts.rate(span) for bytes_, span in moved)
    memory = (counted.read_bytes + _updated_bytes(counted.parts)) / hosts.gpu.hbm_rate
    roofline, total, limit = max(compute, links, memory), sum(parts.values()), hosts.gpu.hbm_bytes
    return GpuPlan(
        kind=workload.kind, topology=topology, chips=hosts.chips, mesh_shape=mesh_shape,
        accumulation_steps=workload.step.accumulation_steps if workload.trains else 1, batch_size=workload.batch_size,
        attention='plain' if attention == 'plain' else 'cuDNN', fits=total <= limit, hbm_gib_per_chip=total / plan_lib.GIB,
        hbm_limit_gib=limit / plan_lib.GIB, hbm_parts={name: size / plan_lib.GIB for name, size in parts.items()}, flops=counted.flops,
        flops_at_limit=counted.flops_at_limit, compute_seconds=compute, link_seconds=links, memory_seconds=memory,
        step_seconds_roofline=roofline, step_seconds_apart=compute + links + memory, items_per_second=counted.items / roofline,
        mfu_bound=counted.model_flops / hosts.chips / hosts.gpu.flops / roofline, moved_bytes=sum(bytes_ for bytes_, _ in moved))


def lines(planned: GpuPlan, workload: workload_lib.Workload) -> list[str]:
    """Returns the table that `atlas-jax plan` prints for GPUs."""
    call, item = plan_lib.CALL[planned.kind], plan_lib.ITEM[planned.kind]
    mesh = 'every host alone' if planned.kind == 'index' else 'data {} x fsdp {} x model {}'.format(*planned.mesh_shape)
    result = [f'{planned.topology}, {planned.chips} GPUs, {mesh}: {"fits" if planned.fits else "DOES NOT FIT"}, by formula',
              'nothing was compiled and nothing has run: all figures are counted on the traced program']
    if planned.kind == 'train':
        examples = planned.batch_size * planned.accumulation_steps
        result.append(f'examples an update     {examples} in {planned.accumulation_steps} micro-batches')
    elif planned.kind != 'index':
        result.append(f'questions a batch      {planned.batch_size}')
    result.append(f'encoders attend        {"by cuDNN" if planned.attention == "cuDNN" else "plainly"}')
    result.append(f'memory a GPU           {planned.hbm_gib_per_chip:.2f} of {planned.hbm_limit_gib:.1f} GiB')
    result += [f'  {name:21}{gib:.2f}' for name, gib in planned.hbm_parts.items() if gib]
    result += [f'  not counted          {planned.not_counted[0]}',
               f'{f"FLOPs of {call}":23}{planned.flops:.3g} on all GPUs']
    if planned.flops < planned.flops_at_limit:
        share = planned.flops / planned.flops_at_limit
        result.append(f'  at the limit         {planned.flops_at_limit:.3g}: real lengths take {share:.0%}')
    result += [f'GB sent by a GPU       {planned.moved_bytes / 1e9:.1f}',
               f'roofline               {planned.step_seconds_roofline:.3g} s of {call} (compute {planned.compute_seconds:.3g}, links '
               f'{planned.link_seconds:.3g}, memory {planned.memory_seconds:.3g}, if they overlap); {planned.step_seconds_apart:.3g} if '
               'nothing does',
               f'  not counted          {planned.not_counted[1]}',
               f'{f"{item} a second":23}{planned.items_per_second:.3g} at most',
               f'MFU at most            {planned.mfu_bound:.0%}']
    return result if planned.fits else [*result, *(f'to make it fit: {remedy}' for remedy in plan_lib.remedies(planned, workload))]


def _stand_ins(number: int) -> list[jax.Device]:
    devices = jax.devices()
    if len(devices) < number:
        raise RuntimeError(f'there are {len(devices)} devices to stand in for {number} GPUs: call gpus.prepare_environment() first')
    return devices[:number]


def _attention(workload: workload_lib.Workload, mesh: jax.sharding.Mesh) -> str:
    """Returns the StepConfig.attention whose program is counted: 'auto' for a kernel, or 'plain'.

    Raises ConfigError: a kernel is asked for, and cuDNN does not take the reader's attention.
    """
    if workload.kind == 'index':  # an index build attends plainly everywhere
        return 'plain'
    spec = steps.make_spec(dataclasses.replace(workload, lower_for='gpu'), mesh)
    reader, dropout_rate = spec.reader.config, spec.config.reader.dropout_rate if workload.trains else 0.0
    fits = flash_attention.fits(spec.read[-1].longest, reader.num_heads, reader.head_dim, reader.dtype, dropout_rate, 'gpu')
    return 'auto' if spec.flash and fits else 'plain'


def _working_bytes(workload: workload_lib.Workload, step: steps.Step, mesh: jax.sharding.Mesh) -> float:
    """Bytes that a GPU needs for one layer while it computes it, and for a second copy of the keys and values that answers read."""
    if workload.kind == 'search':  # queries are few and short
        return 0.0
    if workload.kind == 'index':
        capacity, heads = step.arguments[-1].shape[1], workload.config.retriever.num_heads  # passages of a pack on a GPU
        # Plain attention's logits and probabilities, float32.
        return 2.0 * 4 * capacity * heads * step.static['longest']**2
    reader = workload.config.reader
    encoder = (step.parameters[0] if workload.trains else step.parameters)['reader']['encoder']
    weights = _numbers(encoder) / reader.num_encoder_layers * _compute_bytes(workload)
    if not workload.trains:  # keys and values are there as they are made, and laid out by head
        return weights + step.keys_values_bytes
    # What the layer would keep for its gradient if nothing were computed again: it is there while its own backward pass runs.
    everything = dataclasses.replace(workload, step=dataclasses.replace(workload.step, remat='none'))
    gradients = {leaf.shape for leaf in jax.tree.leaves(step.gradients)}
    kept = max(program.layer_bytes(each.program.jaxpr, gradients) for each in plan_lib.trace(everything, mesh, 1)) / mesh.size
    return 2 * weights + kept  # the gathered weights and their gradient


def _moved(workload: workload_lib.Workload, params: Any, mesh_shape: tuple[int, int, int]) -> list[tuple[float, int]]:
    """Lists what a GPU sends in a call: bytes of each kind of group, and how many neighbouring GPUs such a group lies in."""
    if workload.kind == 'index':  # the weights are whole on every GPU
        return []
    data, fsdp, model = mesh_shape
    reader = (params[0] if workload.trains else params).get('reader')  # a search has none
    decoder = 0.0 if reader is None else float(_numbers(reader['decoder'])) * _compute_bytes(workload)
    rest = float(_numbers(params)) * _compute_bytes(workload) - decoder
    times = workload.step.accumulation_steps * _TRAINING_MOVES if workload.trains else 1
    if workload.kind == 'answer':  # the decoder's weights are gathered for every token
        decoder *= workload.config.inputs.target_limit
    # Weights are gathered over `model` and then over `fsdp`; those of the decoder stay split over `model` where it divides them
    # (partitioning.split_in).
    sizes = workload.config.reader
    if sizes.num_heads % model or sizes.mlp_dim % model:
        rest, decoder = rest + decoder, 0.0
    moved = [(times * rest / fsdp * (model - 1) / model, model), (times * (rest + decoder / model) * (fsdp - 1) / fsdp, fsdp * model)]
    if workload.trains:  # replicas add up their gradients' shards once an update
        shard = float(_numbers(params)) * workload.step.param_type.itemsize / (fsdp * model)
        moved.append((2 * shard * (data - 1) / data, data * fsdp * model))
    return moved


def _updated_bytes(parts: dict[str, float]) -> float:
    """Bytes that an update reads and writes: weights, gradients and moments, once each way. They are all 0 where nothing is trained."""
    return 2 * (parts['parameters'] + parts['gradients'] + parts['optimizer']) if parts['optimizer'] else 0.0


def _compute_bytes(workload: workload_lib.Workload) -> int:
    return jnp.dtype(workload.step.compute_dtype or workload.config.reader.dtype).itemsize


def _numbers(params: Any) -> int:
    """Numbers in a tree of shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
