"""Contrastive training as the loop sees it (train.py): the retriever, its examples, its batches and
its step.
"""

import dataclasses
from typing import Any

from atlas_jax import errors, partitioning, types
from atlas_jax.checkpoints.run_folder import RunCheckpoints
from atlas_jax.input import pipeline
from atlas_jax.model import RetrieverModel
from atlas_jax.runtime import hosts
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training import contrastive as contrastive_lib
from atlas_jax.training import contrastive_data, contrastive_step, run_record
from atlas_jax.training import state as state_lib
from atlas_jax.training.optimizer import OptimizerConfig


@dataclasses.dataclass
class ContrastiveWork:
    """Training of a retriever alone; see work.Work.

    Attributes:
      model: the retriever, configured for the run.
      pairs: training examples.
      spec: static side of the step.
      optimizer: configuration of the optimiser.
      seed: seeds shuffling, crops, dropout, and the queue's first rows.
      batches: batches of these examples, on the devices.
    """

    model: RetrieverModel
    pairs: pipeline.Pairs
    spec: contrastive_lib.ContrastiveSpec
    optimizer: OptimizerConfig
    seed: int
    batches: pipeline.ResumableIterator
    program: str = contrastive_step.contrastive_step.__name__

    def __post_init__(self) -> None:
        # Compiled with the seed: dropout keys are folded from it and the step's number.
        self.step = contrastive_step.make_contrastive_step(self.spec, self.optimizer, self.seed)

    @property
    def layout(self) -> contrastive_lib.ContrastiveSpec:
        """See Work."""
        return self.spec

    def record(self) -> dict[str, Any]:
        """Returns all settings that affect the run's results, by name (run_record.py)."""
        return run_record.settings(self.model.description(), self.pairs.digest,
                                   (self.optimizer, self.spec.contrastive, self.spec.step),
                                   seed=self.seed, batch_size=self.spec.batch_size)

    def created(self) -> state_lib.ContrastiveState:
        """See Work."""
        return state_lib.create_contrastive(self.model.params, self.spec,
                                        contrastive_step.optimizer_for(self.optimizer), self.seed)

    def restored(self, checkpoints: RunCheckpoints) -> state_lib.ContrastiveState:
        """See Work; restores queue and momentum encoder too."""
        # Shapes with shardings: each process reads its own rows of the queue, whatever mesh they
        # were written from.
        abstract = state_lib.abstract_contrastive(self.spec,
                                              contrastive_step.optimizer_for(self.optimizer))
        params, moments, position = checkpoints.restore(*state_lib.contrastive_items(abstract))
        self.batches.set_state(position['examples'])
        return state_lib.contrastive_from_items(params, moments)

    def take(self, _: state_lib.ContrastiveState) -> tuple[types.ContrastiveBatch]:
        """See Work."""
        return (next(self.batches),)

    def after_step(self, _: state_lib.ContrastiveState, step: int) -> dict[str, float]:
        """See Work: nothing follows a step."""
        return {}

    def items(self,
              state: state_lib.ContrastiveState) -> tuple[dict[str, Any], dict[str, Any]]:
        """See Work."""
        return state_lib.contrastive_items(state)

    def position(self) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """See Work."""
        return {'examples': self.batches.get_state()}, None


def prepare_contrastive_run(model: RetrieverModel, data: contrastive_data.RetrieverData,
                            contrastive: contrastive_lib.ContrastiveConfig,
                            optimizer: OptimizerConfig, step: spec_lib.StepConfig, batch_size: int,
                            seed: int = 0, ahead: int = 0,
                            mesh_shape: tuple[int, int, int] | None = None,
                            dropout_rate: float | None = None) -> ContrastiveWork:
    """Reads the examples, and configures retriever and step. The arguments are those of
    train.train_retriever and its RunConfig.

    Raises:
      ConfigError: the batch or the queue does not divide, or the batch is larger than the data.
        UserError: see contrastive_data.pairs_of.
    """
    mesh = partitioning.make_mesh(mesh_shape)
    # Bad options are refused before files are read.
    contrastive_lib.check(contrastive, step, batch_size, mesh.size)
    retriever = model.config.retriever
    if dropout_rate is not None:
        retriever = dataclasses.replace(retriever, dropout_rate=dropout_rate)
    # The trained retriever must rank as it was trained to. Only the passages' norms affect the
    # ranking.
    trained = dataclasses.replace(retriever, normalize=retriever.normalize
                                  or contrastive.normalize_passage)
    model = dataclasses.replace(model, config=dataclasses.replace(model.config, retriever=trained))
    pairs = contrastive_data.pairs_of(data, model, contrastive)
    # A batch larger than the data holds passages twice: each would be its copy's negative.
    if batch_size > len(pairs):
        raise errors.ConfigError(f'batch_size is {batch_size}, and there are {len(pairs)} '
                                 f'examples; lower it to {len(pairs)} or less')
    # So would a queue larger than the data, from the second epoch on.
    if contrastive.moco and contrastive.queue_size > len(pairs):
        raise errors.ConfigError(f'ContrastiveConfig.queue_size is {contrastive.queue_size}, and '
                                 f'there are {len(pairs)} examples: every query would find its '
                                 'own passage among its negatives; '
                                 f'{_smaller(len(pairs), batch_size)}')
    spec = contrastive_lib.make_contrastive_spec(retriever, mesh, pairs.sampled_lengths(),
                                                 pairs.widths, batch_size, contrastive, step,
                                                 passages_each=pairs.passages_each)
    # Placed on the devices by the thread that makes them, while a step runs. Positions are global,
    # so any number of processes can continue where another number stopped.
    sharding = partitioning.batch_sharding(mesh, batch_size)
    batches = pipeline.contrastive_batches(
        pairs, batch_size, seed, hosts.local_rows(sharding, batch_size).tolist(), ahead=ahead,
        finish=lambda drawn: hosts.from_local(drawn, sharding, batch_size))
    return ContrastiveWork(model, pairs, spec, optimizer, seed, batches)


def _smaller(examples: int, batch_size: int) -> str:
    """Returns the advice for a queue that is larger than the data."""
    # With half of the examples, few queries meet their own passage of the epoch before.
    fits = examples // 2 // batch_size * batch_size
    return f'lower it to {fits} or so' if fits else (
        'lower batch_size, or choose ContrastiveConfig.method "inbatch"')
