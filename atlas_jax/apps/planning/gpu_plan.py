"""Plans for GPUs by formula: counts memory and time on the traced program, so jax alone is enough.

The program is traced on CPU devices in place of the GPUs, and as it is lowered for a TPU. It has
the same products, and the TPU's attention kernel takes the place of cuDNN's, which can be traced
only where cuDNN is installed. docs/gpu.md compares its memory with the compiler's
(benchmarks/gpu_memory.py).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from atlas_jax import partitioning
from atlas_jax.apps.planning import counts, gpus, planned_steps, program, slices
from atlas_jax.apps.planning import workload as workload_lib
from atlas_jax.apps.planning.plan import GIB, GpuPlan
from atlas_jax.index import embed
from atlas_jax.nn import flash_attention

_TRACED_FOR = 'tpu'
_TRAINING_MOVES = 3  # a weight forward, again backward, and its gradient back


def plan(workload: workload_lib.Workload, topology: str) -> GpuPlan:
    """Plans a step on GPUs.

    Args:
      workload: the run whose step is traced.
      topology: such as h100:8.

    Raises:
      ConfigError: an unknown topology, a mesh or batch that does not divide, or a requested
        attention kernel that does not fit.
    """
    hosts = gpus.parse(topology)
    mesh_shape = slices.check_mesh(workload.mesh_shape, hosts)
    workload = workload.in_whole_chips(hosts.chips)
    if workload.kind == 'index':
        # Every process embeds its own shards on the GPUs of its host.
        mesh = embed.encoder_mesh(_stand_ins(hosts.host_chips))
        copies = hosts.chips // hosts.host_chips
    else:
        mesh, copies = partitioning.make_mesh(mesh_shape, _stand_ins(hosts.chips)), 1
    attention = _attention(workload, mesh)
    workload = dataclasses.replace(workload, lower_for=_TRACED_FOR,
                                   step=dataclasses.replace(workload.step, attention=attention))
    steps = planned_steps.steps_of(workload, mesh, copies)
    counted = counts.count(workload, mesh, copies, steps, hosts)
    parts = counted.parts | {'working set': _working_bytes(workload, steps[-1], mesh)}
    moved = _moved(workload, steps[-1].parameters, mesh_shape)
    compute = counted.flops / hosts.chips / hosts.gpu.flops
    links = sum(bytes_ / hosts.rate(span) for bytes_, span in moved)
    memory = (counted.read_bytes + _updated_bytes(counted.parts)) / hosts.gpu.hbm_rate
    roofline, total, limit = max(compute, links, memory), sum(parts.values()), hosts.gpu.hbm_bytes
    return GpuPlan(
        kind=workload.kind, topology=topology, chips=hosts.chips, mesh_shape=mesh_shape,
        accumulation_steps=workload.step.accumulation_steps if workload.trains else 1,
        batch_size=workload.batch_size, fits=total <= limit, hbm_gib_per_chip=total / GIB,
        hbm_limit_gib=limit / GIB, hbm_parts={name: size / GIB for name, size in parts.items()},
        flops=counted.flops, flops_at_limit=counted.flops_at_limit, compute_seconds=compute,
        link_seconds=links, memory_seconds=memory, step_seconds_roofline=roofline,
        items_per_second=counted.items / roofline,
        mfu_bound=counted.model_flops / hosts.chips / hosts.gpu.flops / roofline,
        attention='plain' if attention == 'plain' else 'cuDNN',
        step_seconds_apart=compute + links + memory, moved_bytes=sum(bytes_ for bytes_, _ in moved))


def _stand_ins(number: int) -> list[jax.Device]:
    devices = jax.devices()
    if len(devices) < number:
        raise RuntimeError(f'there are {len(devices)} devices to stand in for {number} GPUs: call '
                           'gpus.prepare_environment() first')
    return devices[:number]


def _attention(workload: workload_lib.Workload, mesh: jax.sharding.Mesh) -> str:
    """Returns the StepConfig.attention whose program is counted: 'auto' for a kernel, or 'plain'.

    Raises ConfigError: a kernel is requested, and cuDNN does not support the reader's attention.
    """
    if workload.kind == 'index':  # an index build uses plain attention on every platform
        return 'plain'
    spec = planned_steps.make_planned_spec(dataclasses.replace(workload, lower_for='gpu'), mesh)
    reader = spec.reader.config
    dropout_rate = spec.config.reader.dropout_rate if workload.trains else 0.0
    fits = flash_attention.fits(spec.read[-1].longest, reader.num_heads, reader.head_dim,
                                reader.dtype, dropout_rate, 'gpu')
    return 'auto' if spec.flash and fits else 'plain'


def _working_bytes(workload: workload_lib.Workload, step: planned_steps.PlannedStep,
                   mesh: jax.sharding.Mesh) -> float:
    """Returns the bytes that a GPU needs for one layer while it computes it, and for a second copy
    of the keys and values that answers read.
    """
    if workload.kind == 'search':  # queries are few and short
        return 0.0
    if workload.kind == 'index':
        # passages of a pack on a GPU
        capacity, heads = step.arguments[-1].shape[1], workload.config.retriever.num_heads
        # Plain attention's logits and probabilities, float32.
        return 2.0 * 4 * capacity * heads * step.static['longest']**2
    encoder = _model_params(workload, step.parameters)['reader']['encoder']
    weights = (_numbers(encoder) / workload.config.reader.num_encoder_layers *
               _compute_bytes(workload))
    if not workload.trains:  # keys and values are held as computed, and again laid out by head
        return weights + step.keys_values_bytes
    # With no recomputation a layer keeps all its activations for its gradient. They are all there
    # while its own backward pass runs.
    everything = dataclasses.replace(workload,
                                     step=dataclasses.replace(workload.step, remat='none'))
    kept = max(program.layer_bytes(each.traced.jaxpr, counts.gradient_shapes(step))
               for each in planned_steps.steps_of(everything, mesh)) / mesh.size
    return 2 * weights + kept  # the gathered weights and their gradient


def _moved(workload: workload_lib.Workload, params: Any,
           mesh_shape: tuple[int, int, int]) -> list[tuple[float, int]]:
    """Lists the bytes that a GPU sends in a call, by kind of group: (bytes, number of neighbouring
    GPUs that such a group spans).
    """
    if workload.kind == 'index':  # every GPU holds all weights
        return []
    data, fsdp, model = mesh_shape
    reader = _model_params(workload, params).get('reader')  # a search has none
    decoder = 0.0 if reader is None else float(
        _numbers(reader['decoder'])) * _compute_bytes(workload)
    rest = float(_numbers(params)) * _compute_bytes(workload) - decoder
    times = workload.step.accumulation_steps * _TRAINING_MOVES if workload.trains else 1
    if workload.kind == 'answer':  # the decoder's weights are gathered for every token
        decoder *= workload.config.inputs.target_limit
    # Weights are gathered over `model` and then over `fsdp`. Those of the decoder stay split over
    # `model` where it divides them (partitioning.split_in).
    sizes = workload.config.reader
    if sizes.num_heads % model or sizes.mlp_dim % model:
        rest, decoder = rest + decoder, 0.0
    moved = [(times * rest / fsdp * (model - 1) / model, model),
             (times * (rest + decoder / model) * (fsdp - 1) / fsdp, fsdp * model)]
    if workload.trains:  # replicas add up their gradients' shards once an update
        shard = float(_numbers(params)) * workload.step.param_type.itemsize / (fsdp * model)
        moved.append((2 * shard * (data - 1) / data, data * fsdp * model))
    return moved


def _updated_bytes(parts: dict[str, float]) -> float:
    """Returns the bytes that an update reads and writes: weights, gradients and moments, once each
    way. 0 for a step that does not train.
    """
    return 2 * (parts['parameters'] + parts['gradients'] +
                parts['optimizer']) if parts['optimizer'] else 0.0


def _model_params(workload: workload_lib.Workload, params: Any) -> Any:
    """The model's parameters without a passage encoder, which a train step holds beside them."""
    return params[0] if workload.trains else params


def _compute_bytes(workload: workload_lib.Workload) -> int:
    return jnp.dtype(workload.step.compute_dtype or workload.config.reader.dtype).itemsize


def _numbers(params: Any) -> int:
    """Numbers in a tree of shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
