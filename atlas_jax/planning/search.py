"""Which mesh and accumulation: ranked by arithmetic, and only the best are compiled."""

import dataclasses
import math
import pathlib
from collections.abc import Iterator, Sequence

import flax.linen as nn
import jax
import numpy as np

from atlas_jax import errors
from atlas_jax.planning import plan as plan_lib
from atlas_jax.planning import slices
from atlas_jax.planning import workload as workload_lib
from atlas_jax.training import state as state_lib

FINALISTS = 2  # compiled of each slice
_MARGIN = 1.15  # the estimate of memory may be so much too high


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A mesh and an accumulation, with what arithmetic says of them: seconds an update and GiB a chip."""

    workload: workload_lib.Workload
    seconds: float
    hbm_gib: float


def search(workload: workload_lib.Workload, topologies: Sequence[str], cache_dir: pathlib.Path | None
           ) -> tuple[plan_lib.Plan, workload_lib.Workload]:
    """The quickest finalist that fits on the first of the slices where one does, and its workload.

    Raises:
      ConfigError: none fits on any of them, or the batch divides over none.
    """
    last = None
    for name in topologies:
        slice_ = slices.parse(name)
        possible = [candidate for candidate in candidates(workload, slice_) if candidate.hbm_gib <= _MARGIN * slice_.hbm_gib]
        plans = [(plan_lib.plan(candidate.workload, name, cache_dir), candidate.workload) for candidate in possible[:FINALISTS]]
        fitting = [pair for pair in plans if pair[0].fits]
        if fitting:
            return min(fitting, key=lambda pair: pair[0].step_seconds_roofline)
        last = plans[0] if plans else last
    nearest = '' if last is None else f'; the nearest needs {last[0].hbm_gib_per_chip:.1f} GiB a chip on {last[0].topology}'
    raise errors.ConfigError(f'no mesh and accumulation fits on {", ".join(topologies)}{nearest}: try a larger slice, bfloat16 or int8')


def candidates(workload: workload_lib.Workload, slice_: slices.Slice) -> list[Candidate]:
    """All meshes (data 1) and accumulations of the same examples an update, quickest first; equally quick ones by memory."""
    examples = workload.examples_an_update
    found = []
    for mesh_shape in meshes(slice_.chips):
        for steps in (steps for steps in range(1, examples + 1) if examples % steps == 0 and examples // steps % slice_.chips == 0):
            changed = dataclasses.replace(workload, mesh_shape=mesh_shape, batch_size=examples // steps,
                                          step=dataclasses.replace(workload.step, accumulation_steps=steps))
            found.append(estimate(changed, slice_))
    return sorted(found, key=lambda candidate: (round(candidate.seconds, 3), candidate.hbm_gib))


def meshes(chips: int) -> Iterator[tuple[int, int, int]]:
    """Shapes (1, fsdp, model) with model up to 8."""
    return ((1, chips // model, model) for model in (1, 2, 4, 8) if chips % model == 0)


def estimate(workload: workload_lib.Workload, slice_: slices.Slice) -> Candidate:
    """What arithmetic says: states by their size, a chip's tokens by their layers, weights moved three times a micro-batch."""
    config, step = workload.config, workload.step
    params = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nn.unbox(state_lib.abstract_params(config))))
    weight = np.dtype(step.param_dtype).itemsize if step.param_dtype != 'bfloat16' else 2
    moments = 0 if workload.optimizer.optimizer == 'adafactor' else 8
    width = {'float32': 4, 'bfloat16': 2, 'int8': 1}[workload.index_dtype] * config.retriever.emb_dim + 4 * workload.table_tokens
    fixed = (params * (2 * weight + moments) + workload.index_rows * width) / slice_.chips
    reader, size = config.reader, 2 if step.compute_dtype == 'bfloat16' else 4
    length = workload.config.inputs.text_max_tokens if workload.passage_tokens is None else workload.passage_tokens[0]
    tokens = workload.batch_size / slice_.chips * max(workload.n_context, 1) * length
    kept = {'full': 1, 'dots': 10, 'none': 30}[step.remat] * reader.num_encoder_layers * reader.emb_dim
    keys_values = 0 if step.remat == 'full' else 4 * reader.num_decoder_layers * reader.num_heads * reader.head_dim
    flops = (8 if step.remat == 'full' else 6) * params / 2 * tokens * step.accumulation_steps
    passes = 3 if step.remat == 'full' else 2
    moved = step.accumulation_steps * (passes + 1) * params * 2 * (1 if workload.mesh_shape[2] > 1 else 2)
    return Candidate(workload, max(flops / slice_.flops, moved / slice_.link_bytes),
                     (fixed + tokens * size * (kept + keys_values)) / plan_lib.GIB)
