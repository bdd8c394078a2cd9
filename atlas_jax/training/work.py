"""The part of a training run that its loop works with (train.py), and that of joint training."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

from atlas_jax import types
from atlas_jax.answering.prepared_examples import PreparedExamples
from atlas_jax.checkpoints.run_folder import RunCheckpoints
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training import batches as batches_lib
from atlas_jax.training import refresh as refresh_lib
from atlas_jax.training import state as state_lib
from atlas_jax.training import train_step
from atlas_jax.training.optimizer import OptimizerConfig

State = Any  # a tree with `step` and `params`


# A protocol: the loop drives both kinds of training and needs to know neither.
class Work(Protocol):
    """The steps of a run, their state, and what a checkpoint holds of them."""

    program: str  # name of the jitted step

    @property
    def step(self) -> Callable[..., tuple[State, dict[str, Any]]]:
        """The compiled step, `(state, *take(state)) -> (state, metrics)`."""
        ...

    @property
    def layout(self) -> spec_lib.Layout:
        """Mesh and dtypes of the steps."""
        ...

    def created(self) -> State:
        """Returns the state before the first step."""
        ...

    def restored(self, checkpoints: RunCheckpoints) -> State:
        """Returns the state of the newest checkpoint, and moves the examples to its position.

        Raises ModelFolderError: damaged.
        """
        ...

    def take(self, state: State) -> tuple[Any, ...]:
        """Returns the next step's arguments after the state; the batch comes first."""
        ...

    def after_step(self, state: State, step: int) -> dict[str, float]:
        """Does what follows a step, without waiting for it; returns metrics that the host knows."""
        ...

    def items(self, state: State) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns the state as the items of a checkpoint: (params, optimizer)."""
        ...

    def position(self) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Returns the position in the examples, as JSON values, and the arrays of a refreshed
        index. Called once per checkpoint.
        """
        ...


@dataclasses.dataclass
class AtlasWork:
    """Joint training of reader and retriever; see Work.

    Attributes:
      prepared: the training examples, prepared for the step.
      batches: batches of these examples.
      optimizer: configuration of the optimiser.
      step: the compiled step.
      params: parameters to start from.
      refresher: refreshes the index; None where the index stays.
    """

    prepared: PreparedExamples
    batches: batches_lib.TrainBatches
    optimizer: OptimizerConfig
    step: train_step.TrainStep
    params: dict[str, Any]
    refresher: refresh_lib.Refresher | None = None
    program: str = train_step.train_step.__name__

    @property
    def layout(self) -> spec_lib.StepSpec:
        """See Work."""
        return self.prepared.spec

    @property
    def saved_params(self) -> dict[str, Any]:
        """Parameters with the names that the run's checkpoints have."""
        if self.layout.keeps_passage_encoder or self.layout.trains_passage_encoder:
            return self.params | {'passage_encoder': self.params['retriever']}
        return self.params

    def created(self) -> state_lib.TrainState:
        """See Work."""
        spec = self.prepared.spec
        # The spec decides whether the passage encoder is trained, kept or absent.
        params = {name: self.params[name] for name in ('reader', 'retriever')}
        return state_lib.create(params, spec, train_step.optimizer_for(spec, self.optimizer),
                                self.params.get('passage_encoder'))

    def restored(self, checkpoints: RunCheckpoints) -> state_lib.TrainState:
        """See Work."""
        spec = self.prepared.spec
        # Shapes with shardings: each process reads its own shards only, whatever mesh they were
        # written from.
        abstract = state_lib.abstract(spec, train_step.optimizer_for(spec, self.optimizer))
        params, moments, position = checkpoints.restore(*state_lib.to_items(abstract))
        self.batches.restore(position['examples'])
        if self.refresher is not None:
            self.prepared.knowledge = refresh_lib.restored(
                self.prepared, lambda shapes: checkpoints.restore_index({'index': shapes})['index'])
            self.refresher.restore(position['refresh'])
        return state_lib.from_items(params, moments, spec.trains_passage_encoder)

    def take(self, state: state_lib.TrainState) -> tuple[Any, ...]:
        """See Work: the batch, the knowledge, and the passages that the host found."""
        batch, retrieved = self.batches.take(state.params)
        return batch, self.prepared.knowledge, retrieved

    def after_step(self, state: state_lib.TrainState, step: int) -> dict[str, float]:
        """See Work: refreshes the index."""
        known = {'queries_cut': self.prepared.encoder.queries_cut}
        if self.refresher is None:
            return known
        known |= self.refresher.ages(step - 1)
        # Infinite parameters may reach the index here. It is saved only after the step's loss was
        # read, and not used otherwise.
        self.prepared.knowledge = self.refresher.after_update(
            types.required(self.prepared.knowledge), state.params, step)
        return known

    def items(self, state: state_lib.TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
        """See Work."""
        return state_lib.to_items(state)

    def position(self) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """See Work."""
        # The position first: searches that were begun ahead belong after it.
        examples = {'examples': self.batches.state()}
        self.batches.search_again()
        if self.refresher is None:
            return examples, None
        return examples | {'refresh': self.refresher.state()}, {
            'index': refresh_lib.numbers_of(self.prepared.knowledge)}
