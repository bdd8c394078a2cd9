"""The batches of a training run on the devices: made while a step runs, where nothing of them depends on that step."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from atlas_jax.input import pipeline
from atlas_jax.runtime import hosts
from atlas_jax.steps import prepare
from atlas_jax.steps import spec as spec_lib
from atlas_jax.tasks.task import TaskExample


@dataclasses.dataclass
class _Ahead:
    """A batch that was drawn before its step came.

    Attributes:
      drawn: what the pipeline gave.
      position: the pipeline's before it.
      made: waits for the batch; None where it is still to be searched for.
    """

    drawn: Any
    position: dict[str, Any]
    made: Callable[[], prepare.Made] | None


@dataclasses.dataclass
class TrainBatches:
    """The training pipeline, and what makes a batch on the devices of what it yields.

    Attributes:
      iterator: yields batches on the devices, or the examples themselves where the host makes the batch between two programs.
      prepared: of the same examples.
      rows: of a batch, all micro-batches together.
      placed: True where what the iterator yields is all that a step needs.
      searches_ahead: True where the search for the next batch is begun before a step is handed over.
    """

    iterator: pipeline.ResumableIterator
    prepared: prepare.Prepared
    rows: int
    placed: bool
    searches_ahead: bool = False
    _ahead: _Ahead | None = None

    @classmethod
    def of(cls, examples: Sequence[TaskExample], prepared: prepare.Prepared, batch_size: int, seed: int, ahead: int) -> 'TrainBatches':
        """Makes the pipeline; `ahead` batches are made before they are asked for. Raises ConfigError: no examples."""
        rows = batch_size * prepared.spec.step.accumulation_steps
        # Else it has to wait for the step before, or the processes have to search together.
        placed = not prepared.needs_params and not prepared.together
        searches_ahead = not placed and (_is_frozen(prepared.spec) or prepared.spec.search.overlap)
        options: dict[str, Any] = {'ahead': ahead}
        if prepared.on_host:
            if placed:
                options['finish'] = lambda drawn: prepared.batch(drawn, rows, None)
            whole = pipeline.training_examples(examples, prepared.encoder, rows, seed, **options)
            return cls(whole, prepared, rows, placed, searches_ahead)
        # Positions are global, so any number of processes can go on where another number stopped.
        own_rows = hosts.local_rows(prepared.sharding(rows), rows).tolist()
        options['finish'] = lambda drawn: prepared.training_batch(drawn, rows)
        if placed:
            options['finish'] = lambda drawn: (prepared.training_batch(drawn, rows), None)
        batches = pipeline.training_batches(examples, prepared.encoder, rows, seed, own_rows, **options)
        return cls(batches, prepared, rows, placed, searches_ahead)

    def take(self, params: Any) -> prepare.Made:
        """Returns the next batch on the devices, and what was found for it; the caller hands over its step before the next call.

        It is found by `params`, the parameters of the moment, unless it was searched for in the call before.
        """
        if self.placed:
            return next(self.iterator)
        if not self.searches_ahead:
            return self.prepared.begin(next(self.iterator), self.rows, params)()
        # Of a run that begins or goes on, nothing was searched for.
        now = self._ahead or self._draw()
        made = now.made or self.prepared.begin(now.drawn, self.rows, params)
        batch = made()
        # On the devices this search comes before the step of the batch that is returned, and its passages are read while that step runs.
        self._ahead = self._draw()
        self._ahead.made = self.prepared.begin(self._ahead.drawn, self.rows, params, ahead=True)
        return batch

    def state(self) -> dict[str, Any]:
        """Returns the position behind the batch that was taken last, as JSON values."""
        return self.iterator.get_state() if self._ahead is None else self._ahead.position

    def restore(self, state: dict[str, Any]) -> None:
        """Goes to a position of `state`."""
        self._ahead = None
        self.iterator.set_state(state)

    def search_again(self) -> None:
        """Lets the next batch be found by the parameters of the moment it is taken at, as it is in a run that goes on from here."""
        # A retriever that stays as it is finds the same.
        if self._ahead is not None and not _is_frozen(self.prepared.spec):
            self._ahead.made = None

    def _draw(self) -> _Ahead:
        position = self.iterator.get_state()
        return _Ahead(next(self.iterator), position, None)


def _is_frozen(spec: spec_lib.StepSpec) -> bool:
    """Returns whether query embeddings stay as they are for the whole run."""
    return not spec.passages_scored
