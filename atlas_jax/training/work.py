"""The work of a training run, as its loop sees it (train.py); and that of reader and retriever together."""

import dataclasses
from typing import Any, Protocol

import jax

from atlas_jax import types
from atlas_jax.checkpoints.run_folder import RunCheckpoints
from atlas_jax.steps import prepare
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training import batches as batches_lib
from atlas_jax.training import refresh as refresh_lib
from atlas_jax.training import state as state_lib
from atlas_jax.training import train_step
from atlas_jax.training.optimizer import OptimizerConfig

State = Any  # a tree with `step` and `params`


@dataclasses.dataclass(frozen=True)
class Dispatched:
    """A step that was handed to the devices, and whose metrics were not read yet.

    step         its number, from 1
    metrics      scalars
    example_ids  [batch] int32
    known        what the host knew when it handed the step over
    """

    step: int
    metrics: dict[str, jax.Array]
    example_ids: types.Array
    known: dict[str, float]


# A protocol, since the loop is above both kinds of training and needs to know neither.
class Work(Protocol):
    """The steps of a run, their state, and what a checkpoint has of them."""

    program: str  # name of the jitted step

    @property
    def layout(self) -> spec_lib.Layout:
        """Mesh and dtypes of the steps."""
        ...

    def created(self) -> State:
        """Returns the state before the first step."""
        ...

    def restored(self, checkpoints: RunCheckpoints) -> State:
        """Returns the state of the newest checkpoint, and goes to its position in the examples. Raises ModelFolderError: damaged."""
        ...

    def dispatch(self, state: State, step: int) -> tuple[State, Dispatched]:
        """Hands a step to the devices, and what follows it; waits for neither."""
        ...

    def items(self, state: State) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns the state as the items of a checkpoint: (params, optimizer)."""
        ...

    def position(self) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Returns the position in the examples, as JSON values, and the arrays of an index that is refreshed. Called once a checkpoint."""
        ...


@dataclasses.dataclass
class AtlasWork:
    """Joint training of reader and retriever.

    Attributes:
      prepared: of the examples.
      batches: made of them.
      optimizer: its configuration.
      step: the compiled one.
      params: given weights, to begin with.
      refresher: of the index; None where it stays.
    """

    prepared: prepare.Prepared
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

    def created(self) -> state_lib.TrainState:
        """See Work."""
        spec = self.prepared.spec
        # The passage encoder goes beside them: the spec decides whether it is trained, kept, or not there.
        params = {name: self.params[name] for name in ('reader', 'retriever')}
        return state_lib.create(params, spec, train_step.optimizer_for(spec, self.optimizer), self.params.get('passage_encoder'))

    def restored(self, checkpoints: RunCheckpoints) -> state_lib.TrainState:
        """See Work."""
        spec = self.prepared.spec
        # Shapes with shardings: each process reads its own shards only, whatever mesh they were written from.
        abstract = state_lib.abstract(spec, train_step.optimizer_for(spec, self.optimizer))
        params, moments, position = checkpoints.restore(*state_lib.to_items(abstract))
        self.batches.restore(position['examples'])
        if self.refresher is not None:
            self.prepared.knowledge = refresh_lib.restored(self.prepared,
                                                           lambda shapes: checkpoints.restore_index({'index': shapes})['index'])
            self.refresher.restore(position['refresh'])
        return state_lib.from_items(params, moments, spec.trains_passage_encoder)

    def dispatch(self, state: state_lib.TrainState, step: int) -> tuple[state_lib.TrainState, Dispatched]:
        """See Work: a step, and the refresh after it."""
        batch, retrieved = self.batches.take(state.params)
        state, metrics = self.step(state, batch, self.prepared.knowledge, retrieved)
        known = {'queries_cut': self.prepared.encoder.queries_cut}
        if self.refresher is not None:
            known |= self.refresher.ages(step - 1)
            # Parameters that are not finite may reach the index here: it is saved after the step's loss was read, and else never used.
            self.prepared.knowledge = self.refresher.after_update(types.required(self.prepared.knowledge), state.params, step)
        return state, Dispatched(step, metrics, batch.example_ids, known)

    def items(self, state: state_lib.TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
        """See Work."""
        return state_lib.to_items(state)

    def position(self) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """See Work."""
        # Position first, then the searches that were begun ahead: they belong behind it.
        examples = {'examples': self.batches.state()}
        self.batches.search_again()
        if self.refresher is None:
            return examples, None
        return examples | {'refresh': self.refresher.state()}, {'index': refresh_lib.numbers_of(self.prepared.knowledge)}
