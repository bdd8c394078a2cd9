"""The batches of a training run on the devices: made by a thread while a step runs, where nothing of them depends on that step."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from atlas_jax import types
from atlas_jax.input import pipeline
from atlas_jax.runtime import hosts
from atlas_jax.steps import prepare
from atlas_jax.tasks.task import TaskExample


@dataclasses.dataclass(frozen=True)
class TrainBatches:
    """The training pipeline, and what makes a batch on the devices of what it yields.

    Attributes:
      iterator: yields rows of this process, or the examples themselves where the host makes the batch between two programs.
      prepared: of the same examples.
      rows: of a batch, all micro-batches together.
      placed: True where the iterator yields batches on the devices.
    """

    iterator: pipeline.ResumableIterator
    prepared: prepare.Prepared
    rows: int
    placed: bool

    @classmethod
    def of(cls, examples: Sequence[TaskExample], prepared: prepare.Prepared, batch_size: int, seed: int, ahead: int) -> 'TrainBatches':
        """Makes the pipeline; `ahead` batches are made before they are asked for. Raises ConfigError: no examples."""
        rows = batch_size * prepared.spec.step.accumulation_steps
        placed = not prepared.needs_params  # else it has to wait for the step before
        options: dict[str, Any] = {'ahead': ahead}
        if placed:
            options['finish'] = lambda drawn: prepared.training_batch(drawn, None, rows)
        if prepared.on_host:
            return cls(pipeline.training_examples(examples, prepared.encoder, rows, seed, **options), prepared, rows, placed)
        # Positions are global, so any number of processes can go on where another number stopped.
        own_rows = hosts.local_rows(prepared.sharding(rows), rows).tolist()
        return cls(pipeline.training_batches(examples, prepared.encoder, rows, seed, own_rows, **options), prepared, rows, placed)

    def take(self, params: Any) -> tuple[types.Batch, types.Retrieved | None]:
        """Returns the next batch on the devices, and what the host has found for it by `params`, the parameters of the moment."""
        drawn = next(self.iterator)
        return drawn if self.placed else self.prepared.training_batch(drawn, params, self.rows)
