"""The batches of a training run on the devices. They are made while a step runs, as far as they do
not depend on that step.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from atlas_jax.answering.prepared_examples import Made, PreparedExamples
from atlas_jax.input import pipeline
from atlas_jax.runtime import hosts
from atlas_jax.steps import spec as spec_lib
from atlas_jax.tasks.task import TaskExample


@dataclasses.dataclass
class _Ahead:
    """A batch drawn before its step.

    Attributes:
      drawn: item of the pipeline.
      position: the pipeline's position before it.
      made: waits for the batch; None if its search has not begun.
    """

    drawn: Any
    position: dict[str, Any]
    made: Callable[[], Made] | None


@dataclasses.dataclass
class TrainBatches:
    """The training pipeline, with its batches placed on the devices.

    Attributes:
      iterator: yields batches on the devices, or examples where the host makes the batch between
        two programs.
      prepared: the same examples, prepared for the step.
      rows: rows of a batch, all micro-batches together.
      placed: True where the iterator yields everything that a step needs.
      searches_ahead: True where the search for the next batch begins before a step is handed over.
    """

    iterator: pipeline.ResumableIterator
    prepared: PreparedExamples
    rows: int
    placed: bool
    searches_ahead: bool = False
    _ahead: _Ahead | None = None

    @classmethod
    def of(cls, examples: Sequence[TaskExample], prepared: PreparedExamples,
           batch_size: int, seed: int, ahead: int) -> 'TrainBatches':
        """Makes the pipeline; `ahead` batches are made in advance.

        Raises ConfigError: no examples.
        """
        rows = batch_size * prepared.spec.step.accumulation_steps
        # Otherwise a batch waits for the step before, or the processes search together.
        placed = not prepared.needs_params and not prepared.together
        searches_ahead = not placed and (_is_frozen(prepared.spec) or prepared.spec.search.overlap)
        options: dict[str, Any] = {'ahead': ahead}
        if prepared.on_host:
            if placed:
                options['finish'] = lambda drawn: prepared.batch(drawn, rows, None)
            whole = pipeline.training_examples(examples, prepared.encoder, rows, seed, **options)
            return cls(whole, prepared, rows, placed, searches_ahead)
        # Positions are global, so any number of processes can continue where another stopped.
        own_rows = hosts.local_rows(prepared.sharding(rows), rows).tolist()
        options['finish'] = lambda drawn: prepared.training_batch(drawn, rows)
        if placed:
            options['finish'] = lambda drawn: (prepared.training_batch(drawn, rows), None)
        batches = pipeline.training_batches(examples, prepared.encoder, rows, seed, own_rows,
                                            **options)
        return cls(batches, prepared, rows, placed, searches_ahead)

    def take(self, params: Any) -> Made:
        """Returns the next batch on the devices, and the passages found for it outside the step.
        The caller must hand over its step before the next call.

        The current parameters `params` find the passages, unless the call before began the search.
        """
        if self.placed:
            return next(self.iterator)
        if not self.searches_ahead:
            return self.prepared.begin(next(self.iterator), self.rows, params)()
        # A run that starts or continues has no search under way.
        now = self._ahead or self._draw()
        made = now.made or self.prepared.begin(now.drawn, self.rows, params)
        batch = made()
        # On the devices this search comes before the step of the returned batch. Its passages are
        # read while that step runs.
        self._ahead = self._draw()
        self._ahead.made = self.prepared.begin(self._ahead.drawn, self.rows, params, ahead=True)
        return batch

    def state(self) -> dict[str, Any]:
        """Returns the position after the last batch taken, as JSON values."""
        return self.iterator.get_state() if self._ahead is None else self._ahead.position

    def restore(self, state: dict[str, Any]) -> None:
        """Moves to a position that `state` returned."""
        self._ahead = None
        self.iterator.set_state(state)

    def search_again(self) -> None:
        """Drops the search that was begun ahead. The parameters at the next `take` then find its
        passages, as they do in a run that continues from here.
        """
        # A frozen retriever finds the same passages.
        if self._ahead is not None and not _is_frozen(self.prepared.spec):
            self._ahead.made = None

    def _draw(self) -> _Ahead:
        position = self.iterator.get_state()
        return _Ahead(next(self.iterator), position, None)


def _is_frozen(spec: spec_lib.StepSpec) -> bool:
    """Returns whether query embeddings stay the same during the whole run."""
    return not spec.passages_scored
