"""Chooses mesh, accumulation and rematerialisation for `plan --search`: ranks them by arithmetic
and compiles the best until one fits.
"""

import dataclasses
import itertools
import math
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from atlas_jax import errors
from atlas_jax.apps.planning import planned_steps, slices, tpu_plan
from atlas_jax.apps.planning import workload as workload_lib
from atlas_jax.apps.planning.plan import GIB, TpuPlan
from atlas_jax.models import parameters
from atlas_jax.steps import spec as spec_lib

# At most this many candidates are compiled on each slice, the one that needs the least memory last.
# Each takes minutes.
FINALISTS = 3
_MODEL_AXIS = (1, 2, 4, 8)  # sizes of `model`; the heads of every T5 divide by 8

# The arithmetic of `estimate` is rough: it ranks candidates, and the compiler decides.
_BYTES = {'float32': 4, 'bfloat16': 2, 'int8': 1}
_TOKEN_ID_BYTES = 2  # token tables are uint16
_ADAM_BYTES = 8  # two float32 moments of a weight; Adafactor keeps rows and columns, which are few
# FLOPs of a token for a weight it passes: a multiplication and an addition forward, twice that
# backward.
_FORWARD_FLOPS, _TRAINING_FLOPS = 2, 6
# Share of the weights: nearly all tokens are those of passages, which only the encoder reads.
_ENCODER_SHARE = 1 / 2
# A weight moves once for the forward pass, once for the backward pass, and its gradient goes back
# once.
_TRAINING_MOVES = 3
_MOVED_BYTES = 2  # weights are gathered, and gradients sent, in the compute dtype: bfloat16
# Activations that an encoder layer keeps for a token, in multiples of emb_dim, by `remat`. full:
# its input. dots: the results of T5 1.1's products with weights: q, k, v, o and wo are 1 wide, the
# two wi 2.5 each. none: about three times that, for norms, gates and dropout. On the traced step of
# models/xxl.gin with runs/plan.gin `program.kept_bytes` counts 1.1, 6.1 and 42 (68 with plain
# attention), the decoder's keys and values included.
_KEPT = {'full': 1, 'encoder_mlp': 6, 'encoder_dots': 11, 'dots': 10, 'none': 30}
# Share of an encoder layer's products that the backward pass computes again: of q, k, v, o (1
# each), wo and the two wi (2.5 each).
_AGAIN = {'full': 1.0, 'encoder_mlp': 6.5 / 11.5, 'encoder_dots': 0.0, 'dots': 0.0, 'none': 0.0}


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A workload on one mesh with one accumulation. Estimated are the seconds of a call, its
    seconds on the links, and the GiB of a chip.
    """

    workload: workload_lib.Workload
    seconds: float
    link_seconds: float
    hbm_gib: float


def first_that_fits(workload: workload_lib.Workload, topologies: Sequence[str],
                    cache_dir: pathlib.Path | None) -> tuple[TpuPlan, workload_lib.Workload]:
    """Returns the plan and workload of the fastest finalist that fits, on the first slice that fits
    one.

    Args:
      workload: the run; its mesh, accumulation and, in training, rematerialisation are replaced.
      topologies: names of slices to try, in this order.
      cache_dir: folder of earlier plans; None keeps none.

    Raises:
      ConfigError: nothing fits on any slice, the batch divides over no slice, or the step has no
        mesh to choose.
    """
    if workload.kind == 'index':
        raise errors.ConfigError('every host embeds passages alone, so that there is no mesh to '
                                 'search for: give --topology')
    nearest = None
    for name in topologies:
        slice_ = slices.parse(name)
        possible = candidates(workload, slice_)
        # The estimate leaves out the compiler's temporaries, so a candidate that it rejects does
        # not fit.
        likely = [
            candidate for candidate in possible if candidate.hbm_gib <= slice_.generation.hbm_gib]
        needed = []
        frugal = sorted(likely[FINALISTS - 1:], key=lambda each: each.hbm_gib)[:1]
        for candidate in (*likely[:FINALISTS - 1], *frugal):
            planned = tpu_plan.plan(candidate.workload, name, cache_dir)
            if planned.fits:
                return planned, candidate.workload
            needed.append((planned.hbm_gib_per_chip, name))
        nearest = min(needed or [(candidate.hbm_gib, name) for candidate in possible],
                      default=nearest)
    # No candidate at all: the batch divides over no slice.
    if nearest is None:
        raise errors.ConfigError(f'{workload.examples_a_step} examples an update divide over none '
                                 f'of {", ".join(topologies)}; choose a multiple of the chips')
    raise errors.ConfigError(f'no mesh and accumulation fits on {", ".join(topologies)}; the '
                             f'nearest needs {nearest[0]:.1f} GiB a chip on {nearest[1]}: try a '
                             'larger slice, bfloat16 or int8')


def candidates(workload: workload_lib.Workload, slice_: slices.Slice) -> list[Candidate]:
    """Returns the candidates on a slice, fastest first; equally fast ones by memory, then by
    traffic.

    They combine all meshes whose `data` is the number of slices, and for a step that trains all
    accumulations that keep the examples of an update, and all rematerialisations. Questions come in
    one batch, rounded up to whole chips.
    """
    examples, found = workload.examples_a_step, []
    together = planned_steps.passages_together(workload)
    for mesh_shape in meshes(slice_):
        choices: Iterable[tuple[int, str]] = ((1, workload.step.remat), )
        if workload.trains:
            counts = [steps for steps in range(1, examples + 1) if examples % steps == 0 and
                      spec_lib.divides(workload.config, mesh_shape, examples // steps, together)]
            choices = itertools.product(counts, spec_lib.REMAT_TRIED['tpu'])
        for steps, remat in choices:
            changed = dataclasses.replace(
                workload, mesh_shape=mesh_shape, batch_size=examples // steps,
                step=dataclasses.replace(workload.step, accumulation_steps=steps, remat=remat))
            found.append(estimate(changed.in_whole_chips(slice_.chips), slice_))
    # Rounded, so that candidates that differ only in the last digits count as equal.
    return sorted(
        found, key=lambda each: (round(each.seconds, 3), round(each.hbm_gib, 3), each.link_seconds))


def meshes(slice_: slices.Slice) -> Iterator[tuple[int, int, int]]:
    """Returns the mesh shapes (slices, fsdp, model) with model up to 8."""
    chips = slice_.chips // slice_.count
    return ((slice_.count, chips // model, model) for model in _MODEL_AXIS if chips % model == 0)


def estimate(workload: workload_lib.Workload, slice_: slices.Slice) -> Candidate:
    """Estimates a call's seconds and a chip's memory from the sizes of parameters, the tokens that
    pass the layers, and the moves of weights.
    """
    params = _size(parameters.abstract_params(workload.config))
    # reader tokens of a chip
    tokens = (workload.batch_size / slice_.chips * max(workload.n_context, 1) *
              _mean_tokens(workload))
    costs = _training if workload.trains else _answering
    flops, moved_bytes, held_bytes = costs(workload, slice_, params, tokens)
    link_seconds = moved_bytes / (2 * slice_.generation.dimensions * slice_.generation.link_bytes)
    held_bytes += _index_bytes(workload) / slice_.chips
    return Candidate(workload, max(flops / slice_.generation.flops, link_seconds), link_seconds,
                     held_bytes / GIB)


def _training(workload: workload_lib.Workload, slice_: slices.Slice, params: int,
              tokens: float) -> tuple[float, float, float]:
    """Returns (FLOPs, moved bytes, held bytes) of a chip in an update, without the index."""
    step, reader = workload.step, workload.config.reader
    flops_a_weight = _TRAINING_FLOPS + _FORWARD_FLOPS * _AGAIN[step.remat]
    flops = flops_a_weight * params * _ENCODER_SHARE * tokens * step.accumulation_steps
    moved_bytes = (step.accumulation_steps * _TRAINING_MOVES * _gathered(workload, 1) *
                   _MOVED_BYTES * _gather_cost(workload))
    kept = _KEPT[step.remat] * _compute_bytes(workload) * reader.num_encoder_layers * reader.emb_dim
    if step.remat in ('dots', 'none'):
        kept += _keys_values_bytes(workload)
    moments = 0 if workload.optimizer.optimizer == 'adafactor' else _ADAM_BYTES
    weights_and_gradients = 2 * _BYTES[step.param_dtype]
    # Every slice holds all weights.
    held_bytes = params * (weights_and_gradients + moments) * slice_.count / slice_.chips
    return flops, moved_bytes, held_bytes + tokens * kept


def _answering(workload: workload_lib.Workload, slice_: slices.Slice, params: int,
               tokens: float) -> tuple[float, float, float]:
    """Returns (FLOPs, moved bytes, held bytes) of a chip in a batch of questions, without the
    index.
    """
    move = _compute_bytes(workload) * _gather_cost(workload)
    weight_bytes = _BYTES[workload.step.param_dtype]
    if workload.kind == 'search':
        retriever = _size(parameters.abstract_params(workload.config)['retriever'])
        query_tokens = workload.batch_size / slice_.chips * workload.query_tokens
        return (_FORWARD_FLOPS * retriever * query_tokens, move * retriever,
                retriever * weight_bytes * slice_.count / slice_.chips)
    # The decoder's weights move for every token.
    decoded = workload.config.inputs.target_limit if workload.kind == 'answer' else 1
    moved_bytes = move * _gathered(workload, decoded)
    # Keys and values are held twice: as computed, and laid out by head.
    held_bytes = (params * weight_bytes * slice_.count / slice_.chips +
                  2 * tokens * _keys_values_bytes(workload))
    return _FORWARD_FLOPS * params * _ENCODER_SHARE * tokens, moved_bytes, held_bytes


def _gathered(workload: workload_lib.Workload, decoded: int) -> float:
    """Returns the weights that a chip gathers: all once, those of the decoder once for every
    decoded token. The decoder is split over `model`.
    """
    abstract = parameters.abstract_params(workload.config)
    decoder = _size(abstract['reader']['decoder'])
    _, fsdp, model = workload.mesh_shape or (1, 1, 1)
    # The decoder does not move where fsdp is 1. With model 1 all chips lie on fsdp.
    share = (fsdp - 1) / fsdp / model if model > 1 else 1
    return _size(abstract) - decoder + decoded * decoder * share


def _gather_cost(workload: workload_lib.Workload) -> int:
    """Returns 1 if weights are gathered in two stages; 2 over a whole slice, where the compiler
    uses an all-reduce with twice the bytes.
    """
    return 2 if workload.mesh_shape is None or workload.mesh_shape[2] == 1 else 1


def _compute_bytes(workload: workload_lib.Workload) -> int:
    return 2 if workload.step.compute_dtype == 'bfloat16' else 4


def _keys_values_bytes(workload: workload_lib.Workload) -> int:
    """Bytes of a token's keys and values in all decoder layers."""
    reader = workload.config.reader
    return (2 * _compute_bytes(workload) * reader.num_decoder_layers * reader.num_heads *
            reader.head_dim)


def _index_bytes(workload: workload_lib.Workload) -> int:
    """Bytes of the index on all chips: embeddings and token tables. The retriever's table is needed
    only to embed passages.
    """
    if not workload.n_context:
        return 0
    tables = 0 if workload.search.tokens == 'host' else 2 if workload.trains else 1
    embedding = _BYTES[workload.index_dtype] * workload.config.retriever.embedding_dim
    return workload.index_rows * (embedding + tables * _TOKEN_ID_BYTES * workload.table_tokens)


def _size(params: Any) -> int:
    """Numbers in a tree of parameters."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nn.unbox(params)))


def _mean_tokens(workload: workload_lib.Workload) -> float:
    """Mean tokens of a reader input."""
    limit = workload.config.inputs.text_max_tokens
    if workload.passage_lengths is not None:
        return min(limit, float(np.mean(workload.passage_lengths[0])) + workload.query_tokens)
    return limit if workload.passage_tokens is None else workload.passage_tokens[0]
