"""Refreshes in the plan of a joint run: how often the run embeds its index again, and the program
that does it.
"""

import dataclasses

import jax
import numpy as np

from atlas_jax import partitioning
from atlas_jax.apps.planning import planned_steps, step_arguments
from atlas_jax.apps.planning import workload as workload_lib
from atlas_jax.apps.planning.step_arguments import chip_bytes
from atlas_jax.training import refresh as refresh_lib


@dataclasses.dataclass(frozen=True)
class Block:
    """The program that embeds a block of the index again.

    Attributes:
      step: the program with its arguments. It runs between two updates, beside everything that
        training holds.
      calls: calls that embed the whole index.
    """

    step: planned_steps.PlannedStep
    calls: int


def times(workload: workload_lib.Workload) -> float:
    """Returns how many times a run embeds its whole index again, one block of n counting as 1/n; 0
    for a run without refreshes.
    """
    config, frozen = workload.refresh, workload.distill.freeze_retriever_steps
    if workload.kind != 'train' or not config.refreshes:
        return 0.0
    # As in Refresher.after_update: nothing while the retriever is frozen, and no rolling block in a
    # step that refreshes the whole index.
    updates = range(max(frozen, 1), workload.optimizer.total_steps + 1)
    whole = sum(refresh_lib.is_due(config.schedule, step, frozen) for step in updates)
    return whole + config.rolling_fraction * (len(updates) - whole)


def a_update(workload: workload_lib.Workload) -> float:
    """Returns the mean number of refreshes in an update."""
    return times(workload) / workload.optimizer.total_steps


def block(workload: workload_lib.Workload, mesh: jax.sharding.Mesh) -> Block | None:
    """Returns the program of a run's refreshes; None for a run without refreshes, or one that
    refuses them.
    """
    if not times(workload):
        return None
    spec = planned_steps.make_planned_spec(workload, mesh)
    state, _, knowledge, *_ = step_arguments.train_arguments(workload, spec)
    if (not spec.embeds_passages or knowledge is None or knowledge.index is None or
            knowledge.codes is not None):
        return None
    rows = knowledge.index.valid.shape[0]
    refresher = refresh_lib.Refresher(spec, workload.refresh, rows,
                                      workload_lib.token_lengths(workload))
    scanned = [] if knowledge.scanned is None else [knowledge.scanned]
    embeddings = [(each.embeddings, each.scales)
                  for each in (knowledge.index, *(copy.rows for copy in scanned))]
    encoder = state.params.get('passage_encoder', state.params['retriever'])
    table = knowledge.retriever_table
    if table is None:  # the host reads a block's tokens for every device
        block_rows = mesh.size * min(workload.refresh.block_passages, rows // mesh.size)
        column = step_arguments.columns((block_rows, ), partitioning.sharding(mesh, 'passages'))
        table = step_arguments.token_table(column, workload.table_tokens)
    rotation = scanned[0].rotation if scanned else None
    held = chip_bytes((state, knowledge)) - chip_bytes(
        (embeddings, encoder, knowledge.retriever_table))
    step = planned_steps.PlannedStep(refresher.program,
                                     (embeddings, encoder, table, np.int32(0), rotation), encoder,
                                     beside_bytes=held)
    return Block(step, len(refresher.generations))
