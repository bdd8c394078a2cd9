"""Which mesh and accumulation: ranked by arithmetic, and compiled one after another until one fits."""

import dataclasses
import math
import pathlib
from collections.abc import Iterator, Sequence

import flax.linen as nn
import jax
import numpy as np

from atlas_jax import errors
from atlas_jax.models import parameters
from atlas_jax.planning import plan as plan_lib
from atlas_jax.planning import slices
from atlas_jax.planning import workload as workload_lib

FINALISTS = 2  # compiled of each slice, at most


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A mesh and an accumulation, with what arithmetic says of them: seconds an update, of which on the links, and GiB a chip."""

    workload: workload_lib.Workload
    seconds: float
    link_seconds: float
    hbm_gib: float


def search(workload: workload_lib.Workload, topologies: Sequence[str], cache_dir: pathlib.Path | None
           ) -> tuple[plan_lib.Plan, workload_lib.Workload]:
    """The first finalist that fits, quickest first, on the first of the slices where one does; and its workload.

    Raises:
      ConfigError: none fits on any of them, the batch divides over none, or there is nothing to choose.
    """
    if workload.kind == 'index':
        raise errors.ConfigError('every host embeds passages alone, so that there is no mesh to search for: give --topology')
    nearest = None
    for name in topologies:
        slice_ = slices.parse(name)
        possible = candidates(workload, slice_)
        # The estimate leaves out what the compiler adds: what does not fit by it does not fit.
        likely = [candidate for candidate in possible if candidate.hbm_gib <= slice_.hbm_gib]
        needed = []
        for candidate in likely[:FINALISTS]:
            planned = plan_lib.plan(candidate.workload, name, cache_dir)
            if planned.fits:
                return planned, candidate.workload
            needed.append((planned.hbm_gib_per_chip, name))
        nearest = min(needed or [(candidate.hbm_gib, name) for candidate in possible], default=nearest)
    if nearest is None:
        raise errors.ConfigError(f'{workload.examples_a_step} examples an update divide over none of {", ".join(topologies)}; choose a '
                                 'multiple of the chips')
    raise errors.ConfigError(f'no mesh and accumulation fits on {", ".join(topologies)}; the nearest needs {nearest[0]:.1f} GiB a chip on '
                             f'{nearest[1]}: try a larger slice, bfloat16 or int8')


def candidates(workload: workload_lib.Workload, slice_: slices.Slice) -> list[Candidate]:
    """All meshes (data 1) and accumulations of the same examples an update, quickest first; equally quick ones by memory, then by traffic.

    Questions are answered in one batch, which is rounded up to whole chips.
    """
    examples, found = workload.examples_a_step, []
    counts = [steps for steps in range(1, examples + 1) if examples % steps == 0 and examples // steps % slice_.chips == 0]
    for mesh_shape in meshes(slice_.chips):
        for steps in counts if workload.trains else (1,):
            batch_size = examples // steps if workload.trains else -(-examples // slice_.chips) * slice_.chips
            changed = dataclasses.replace(workload, mesh_shape=mesh_shape, batch_size=batch_size,
                                          step=dataclasses.replace(workload.step, accumulation_steps=steps))
            found.append(estimate(changed, slice_))
    return sorted(found, key=lambda each: (round(each.seconds, 3), round(each.hbm_gib, 3), each.link_seconds))


def meshes(chips: int) -> Iterator[tuple[int, int, int]]:
    """Shapes (1, fsdp, model) with model up to 8."""
    return ((1, chips // model, model) for model in (1, 2, 4, 8) if chips % model == 0)


def estimate(workload: workload_lib.Workload, slice_: slices.Slice) -> Candidate:
    """What arithmetic says: states by their size, a chip's tokens by their layers, the weights that are moved."""
    config, step, chips = workload.config, workload.step, slice_.chips
    params = _size(parameters.abstract_params(config))
    reader, size = config.reader, 2 if step.compute_dtype == 'bfloat16' else 4
    width = {'float32': 4, 'bfloat16': 2, 'int8': 1}[workload.index_dtype] * config.retriever.emb_dim
    tables = 2 if workload.trains else 1
    index = workload.index_rows * (width + 2 * tables * workload.table_tokens) / chips if workload.n_context else 0
    weight = 2 if step.param_dtype == 'bfloat16' else 4
    tokens = workload.batch_size / chips * max(workload.n_context, 1) * _mean_tokens(workload)
    keys_values = 2 * size * reader.num_decoder_layers * reader.num_heads * reader.head_dim
    stages = 1 if workload.mesh_shape[2] > 1 else 2  # a gather over the whole slice becomes an all-reduce
    if not workload.trains:
        decoder = _size(parameters.abstract_params(config)['reader']['decoder'])
        flops = params * tokens
        moved = size * stages * (params + decoder * (config.inputs.target_max_tokens if workload.kind == 'answer' else 1))
        # The keys and values once as they are made, and once by head.
        return Candidate(workload, max(flops / slice_.flops, moved / slice_.link_bytes), moved / slice_.link_bytes,
                         (params * weight / chips + index + 2 * tokens * keys_values) / plan_lib.GIB)
    moments = 0 if workload.optimizer.optimizer == 'adafactor' else 8
    kept = {'full': 1, 'dots': 10, 'none': 30}[step.remat] * size * reader.num_encoder_layers * reader.emb_dim
    kept += 0 if step.remat == 'full' else keys_values
    full = step.remat == 'full'
    flops = (8 if full else 6) * params / 2 * tokens * step.accumulation_steps
    moved = step.accumulation_steps * (4 if full else 3) * params * 2 * stages
    return Candidate(workload, max(flops / slice_.flops, moved / slice_.link_bytes), moved / slice_.link_bytes,
                     (params * (2 * weight + moments) / chips + index + tokens * kept) / plan_lib.GIB)


def _size(params) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nn.unbox(params)))


def _mean_tokens(workload: workload_lib.Workload) -> float:
    """Tokens of a reader input, at the mean."""
    limit = workload.config.inputs.text_max_tokens
    if workload.passage_lengths is not None:
        return min(limit, float(np.mean(workload.passage_lengths[0])) + workload.query_tokens)
    return limit if workload.passage_tokens is None else workload.passage_tokens[0]
