"""Counts on the traced programs of a step, before anything is compiled."""

import dataclasses

import jax

from atlas_jax.apps.planning import gpus, planned_steps, program, slices
from atlas_jax.apps.planning import workload as workload_lib
from atlas_jax.apps.planning.planned_steps import PlannedStep
from atlas_jax.apps.planning.step_arguments import chip_bytes
from atlas_jax.searchers import codes as codes_lib


@dataclasses.dataclass(frozen=True)
class StepCounts:
    """FLOPs and items of a call on all chips; bytes and scans of one chip.

    Attributes:
      parts: bytes of a chip by part.
      flops, flops_at_limit: a call at typical lengths, and with every passage at its limit.
      model_flops: `flops` without recomputation.
      real_flops: on real tokens alone; 0 for a step that does not train.
      items: examples, questions or passages of a call.
      kernel_flops: Pallas kernels alone.
      read_bytes: the least that a chip reads.
      scan_flops: a chip's scan of codes.
    """

    parts: dict[str, float]
    flops: float
    flops_at_limit: float
    model_flops: float
    real_flops: float
    items: float
    kernel_flops: float
    read_bytes: float
    scan_flops: float


def count(workload: workload_lib.Workload, mesh: jax.sharding.Mesh, hosts: int,
          steps: list[PlannedStep], slice_: slices.Slice | gpus.GpuHosts) -> StepCounts:
    """Counts on the programs of a call, weighted by the shares of their shapes.

    Args:
      workload, mesh, hosts: the arguments of planned_steps.steps_of, which made the steps.
      steps: the programs of a call.
      slice_: the chips that the programs are traced for.
    """
    step = steps[-1]
    activations = step.keys_values_bytes
    if workload.trains:
        activations = program.kept_bytes(step.traced.jaxpr, gradient_shapes(step)) / slice_.chips
    codes, index = step.codes, step.index
    if index is not None:
        codes, index = index.codes or codes, index.replace(codes=None)
    held = {
        'parameters': step.parameters, 'optimizer': step.optimizer, 'index': index, 'codes': codes,
        'gradients': step.gradients}
    parts = {name: chip_bytes(tree) for name, tree in held.items()} | {'activations': activations}
    # The first branch of a switch has the smallest capacity, which fits a typical call. The last
    # one holds every passage at its limit.
    flops, items = _flops(steps, 0), _items(steps)
    model_flops, at_limit, real_flops = flops, _flops(steps, -1), 0.0
    if workload.trains:
        # A kernel makes its logits again for the gradient, so plain attention is counted.
        plain = dataclasses.replace(
            workload, step=dataclasses.replace(workload.step, remat='none', attention='plain'))
        model_flops = _flops(planned_steps.steps_of(plain, mesh, hosts), 0)
        real_flops = planned_steps.model_flops(workload, mesh)
    # Tracing again takes as long as the first time, so it is skipped where nothing would differ.
    if workload.at_limit() != workload:
        limited = planned_steps.steps_of(workload.at_limit(), mesh, hosts)
        # An index build's call holds fewer passages at the limit, so compare FLOPs for the same
        # number of passages.
        at_limit = _flops(limited, -1) * items / _items(limited)
    scan_flops = (0.0 if codes is None else
                  codes_lib.scan_flops(codes, workload.batch_size, mesh))
    read = sum(each.read_bytes for each in steps if each.every_call) + step.read_bytes
    return StepCounts(parts, flops, at_limit, model_flops, real_flops, items,
                  _flops(steps, 0, kernels_alone=True), read, scan_flops)


def gradient_shapes(step: PlannedStep) -> set[tuple[int, ...]]:
    """Returns the shapes of a step's gradients, which do not count as activations."""
    return {leaf.shape for leaf in jax.tree.leaves(step.gradients)}


def _flops(steps: list[PlannedStep], branch: int, kernels_alone: bool = False) -> float:
    """FLOPs of an average call on the whole slice, taking one branch of every switch."""
    return sum(step.share * step.copies * program.flops(step.traced.jaxpr, branch, kernels_alone)
               for step in steps)


def _items(steps: list[PlannedStep]) -> float:
    """Items of an average call on the whole slice."""
    return sum(step.share * step.items for step in steps)
