"""Refreshes of the index in the plan of a joint run: how often the run embeds its index again, and the program that does it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax import partitioning, types
from atlas_jax.planning import steps
from atlas_jax.planning import workload as workload_lib
from atlas_jax.training import refresh as refresh_lib


@dataclasses.dataclass(frozen=True)
class Block:
    """The program that embeds a block of the index again.

    Attributes:
      step: the program with its arguments; it runs between two updates, beside all that training holds.
      calls: of the whole index.
    """

    step: steps.Step
    calls: int


def times(workload: workload_lib.Workload) -> float:
    """Returns how many times a run embeds its whole index again, one block of n counting as 1/n; 0 for a run that does not."""
    config, frozen = workload.refresh, workload.distill.freeze_retriever_steps
    if workload.kind != 'train' or not config.refreshes:
        return 0.0
    # As Refresher.after_update: nothing while the retriever is frozen, and no part on top of the whole.
    updates = range(max(frozen, 1), workload.optimizer.total_steps + 1)
    whole = sum(refresh_lib.is_due(config.schedule, step, frozen) for step in updates)
    return whole + config.rolling_fraction * (len(updates) - whole)


def a_update(workload: workload_lib.Workload) -> float:
    """Returns the refreshes of an update, on average over the run."""
    return times(workload) / workload.optimizer.total_steps


def block(workload: workload_lib.Workload, mesh: jax.sharding.Mesh) -> Block | None:
    """Returns the program of a run's refreshes; None for a run without any, and where a run would refuse them."""
    if not times(workload):
        return None
    spec = steps.make_spec(workload, mesh)
    state, _, knowledge, *_ = steps.train_arguments(workload, spec)
    if not spec.embeds_passages or knowledge is None or knowledge.index is None or knowledge.codes is not None:
        return None
    rows = knowledge.index.valid.shape[0]
    refresher = refresh_lib.Refresher(spec, workload.refresh, rows, workload_lib.token_lengths(workload))
    arrays = [knowledge.index] + ([] if knowledge.scanned is None else [knowledge.scanned.rows])
    rotation = None if knowledge.scanned is None else knowledge.scanned.rotation
    encoder = state.params.get('passage_encoder', state.params['retriever'])
    table = knowledge.retriever_table
    if table is None:
        table = _read_table(workload, mesh, min(workload.refresh.block_passages, rows // mesh.size))
    arguments = ([(each.embeddings, each.scales) for each in arrays], encoder, table, np.int32(0), rotation)
    held = steps.chip_bytes((state, knowledge)) - steps.chip_bytes((arguments[0], encoder, knowledge.retriever_table))
    return Block(steps.Step(refresher.program, arguments, encoder, beside_bytes=held), len(refresher.generations))


def _read_table(workload: workload_lib.Workload, mesh: jax.sharding.Mesh, passages: int) -> types.TokenTable:
    """The shapes of a block's tokens that the host has read, `passages` of each device."""
    sharding = partitioning.sharding(mesh, 'passages')

    # A shape in the place of an array, as everywhere in a plan.
    def column(dtype: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct((mesh.size * passages, *shape), dtype, sharding=sharding)

    return types.TokenTable(tokens=column(jnp.uint16, workload.table_tokens), title_lengths=column(jnp.int32), lengths=column(jnp.int32))
