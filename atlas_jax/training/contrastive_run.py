"""A run of contrastive training before its loop: the retriever, its examples, the step's static side, batches on the devices."""

import dataclasses
from typing import Any

import jax

from atlas_jax import errors, partitioning, types
from atlas_jax.checkpoints.run_folder import RunCheckpoints
from atlas_jax.input import pipeline
from atlas_jax.model import RetrieverModel
from atlas_jax.runtime import hosts
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training import contrastive as contrastive_lib
from atlas_jax.training import contrastive_data, contrastive_state, contrastive_step, run_record
from atlas_jax.training.optimizer import OptimizerConfig
from atlas_jax.training.work import Dispatched


class Batches:
    """The training pipeline, its batches placed on the devices while a step runs."""

    def __init__(self, pairs: pipeline.Pairs, mesh: jax.sharding.Mesh, batch_size: int, seed: int, ahead: int):
        """Makes the pipeline; `ahead` batches are made before they are asked for."""
        # Placed by the thread that makes them, while a step runs.
        sharding = partitioning.batch_sharding(mesh, batch_size)
        # Positions are global, so any number of processes can go on where another number stopped.
        rows = hosts.local_rows(sharding, batch_size).tolist()
        self._iterator = pipeline.contrastive_batches(pairs, batch_size, seed, rows, ahead=ahead,
                                                      finish=lambda drawn: hosts.from_local(drawn, sharding, batch_size))

    def __next__(self) -> types.ContrastiveBatch:
        return next(self._iterator)

    def state(self) -> dict[str, Any]:
        """Returns the position behind the batch that was taken last, as JSON values."""
        return self._iterator.get_state()

    def restore(self, state: dict[str, Any]) -> None:
        """Goes to a position of `state`."""
        self._iterator.set_state(state)


@dataclasses.dataclass
class ContrastiveWork:
    """Training of a retriever alone; see work.Work.

    Attributes:
      model: the retriever, configured for the run.
      pairs: its examples.
      spec: the static side of the step.
      optimizer: its configuration.
      seed: of order, crops, dropout, and the queue's first rows.
      batches: made of the examples.
    """

    model: RetrieverModel
    pairs: pipeline.Pairs
    spec: contrastive_lib.ContrastiveSpec
    optimizer: OptimizerConfig
    seed: int
    batches: Batches
    program: str = contrastive_step.contrastive_step.__name__

    def __post_init__(self) -> None:
        # The seed is part of the program: dropout keys are folded from it and from the step's number.
        self._step = contrastive_step.make_contrastive_step(self.spec, self.optimizer, self.seed)

    @property
    def layout(self) -> contrastive_lib.ContrastiveSpec:
        """See Work."""
        return self.spec

    def record(self) -> dict[str, Any]:
        """Returns all that decides what the run computes, by name (run_record.py)."""
        return run_record.settings(self.model.description(), self.pairs.digest, (self.optimizer, self.spec.contrastive, self.spec.step),
                                   seed=self.seed, batch_size=self.spec.batch_size)

    def created(self) -> contrastive_state.ContrastiveState:
        """See Work."""
        return contrastive_state.create(self.model.params, self.spec, contrastive_step.optimizer_for(self.optimizer), self.seed)

    def restored(self, checkpoints: RunCheckpoints) -> contrastive_state.ContrastiveState:
        """See Work: queue and momentum encoder too."""
        # Shapes with shardings: each process reads its own rows of the queue, whatever mesh they were written from.
        abstract = contrastive_state.abstract(self.spec, contrastive_step.optimizer_for(self.optimizer))
        params, moments, position = checkpoints.restore(*contrastive_state.to_items(abstract))
        self.batches.restore(position['examples'])
        return contrastive_state.from_items(params, moments)

    def dispatch(self, state: contrastive_state.ContrastiveState, step: int) -> tuple[contrastive_state.ContrastiveState, Dispatched]:
        """See Work."""
        batch = next(self.batches)
        state, metrics = self._step(state, batch)
        return state, Dispatched(step, metrics, batch.example_ids, {})

    def items(self, state: contrastive_state.ContrastiveState) -> tuple[dict[str, Any], dict[str, Any]]:
        """See Work."""
        return contrastive_state.to_items(state)

    def position(self) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """See Work."""
        return {'examples': self.batches.state()}, None


def prepare(model: RetrieverModel, data: contrastive_data.RetrieverData, contrastive: contrastive_lib.ContrastiveConfig,
            optimizer: OptimizerConfig, step: spec_lib.StepConfig, batch_size: int, seed: int = 0, ahead: int = 0,
            mesh_shape: tuple[int, int, int] | None = None, dropout_rate: float | None = None) -> ContrastiveWork:
    """Reads the examples, and configures retriever and step; the arguments are those of train.train_retriever and its RunConfig.

    Raises:
      ConfigError: the batch or the queue does not divide, or the batch is larger than the data. UserError: see contrastive_data.pairs_of.
    """
    mesh = partitioning.make_mesh(mesh_shape)
    # Of the options alone, so that they are refused before files are read.
    contrastive_lib.check(contrastive, step, batch_size, mesh.size)
    retriever = model.config.retriever
    if dropout_rate is not None:
        retriever = dataclasses.replace(retriever, dropout_rate=dropout_rate)
    # Whoever uses the retriever must rank as it was trained to. A query's norm ranks nothing; in the loss each side has its own option.
    trained = dataclasses.replace(retriever, normalize=retriever.normalize or contrastive.normalize_passage)
    model = dataclasses.replace(model, config=dataclasses.replace(model.config, retriever=trained))
    pairs = contrastive_data.pairs_of(data, model, contrastive)
    # Of a batch that meets itself every passage would be a negative of its double.
    if batch_size > len(pairs):
        raise errors.ConfigError(f'batch_size is {batch_size}, and there are {len(pairs)} examples; lower it to {len(pairs)} or less')
    # So would the queue be from the second epoch on.
    if contrastive.moco and contrastive.queue_size > len(pairs):
        raise errors.ConfigError(f'ContrastiveConfig.queue_size is {contrastive.queue_size}, and there are {len(pairs)} examples: every '
                                 f'query would find its own passage among its negatives; {_smaller(len(pairs), batch_size)}')
    spec = contrastive_lib.make_spec(retriever, mesh, pairs.sampled_lengths(), pairs.widths, batch_size, contrastive, step,
                                     passages_each=pairs.passages_each)
    return ContrastiveWork(model, pairs, spec, optimizer, seed, Batches(pairs, mesh, batch_size, seed, ahead))


def _smaller(examples: int, batch_size: int) -> str:
    """Returns what to do about a queue of more than all examples."""
    # Half of them: of those few queries meet their own passage of the epoch before.
    fits = examples // 2 // batch_size * batch_size
    return f'lower it to {fits} or so' if fits else 'lower batch_size, or choose ContrastiveConfig.method "inbatch"'
