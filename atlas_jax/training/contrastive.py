"""The options of a retriever's contrastive training, and the static side of its step.

Source: Izacard et al. 2021, arXiv 2112.09118.
"""

import dataclasses

import jax
import numpy as np

from atlas_jax import errors
from atlas_jax.input.crops import CropConfig
from atlas_jax.models import contriever
from atlas_jax.options import check_options, option
from atlas_jax.steps import buckets
from atlas_jax.steps import spec as spec_lib

METHODS = ('moco', 'inbatch')
MOMENTUM_SCHEDULES = ('constant', 'cosine')


@dataclasses.dataclass(frozen=True)
class ContrastiveConfig(CropConfig):
    """How a retriever learns without a reader; the defaults are the paper's final model. CropConfig
    has the options of crops.

    Attributes:
      method: source of the negatives. moco: a queue of earlier batches' passages, embedded by a
        momentum encoder. inbatch: the batch's other passages, on all devices, and hard negatives.
      queue_size: number of passages in the queue; a multiple of the batch size.
      momentum: share of the momentum encoder that is kept in an update.
      momentum_schedule: constant, or cosine: from momentum up to 1 at the end of the schedule
        (OptimizerConfig.scheduler_steps).
      temperature: divides the inner products.
      label_smoothing: share of the target that is spread evenly over all passages.
      normalize_query, normalize_passage: divide embeddings by their L2 norm in the loss. With
        normalize_passage the trained retriever normalises too, because norms decide the ranking.
      hard_negatives: number of negatives that each question brings from its file; inbatch only.
        Missing ones become empty slots.
      chunks: number of parts of the batch that are encoded one after another, to save memory; the
        gradient is that of the whole batch (GradCache: Gao et al. 2021, arXiv 2101.06983).

    Raises ConfigError: an unknown name, or a number out of range.
    """

    method: str = option('moco', choices=METHODS)
    queue_size: int = option(131072, least=1)
    momentum: float = option(0.9995, least=0, below=1)
    momentum_schedule: str = option('constant', choices=MOMENTUM_SCHEDULES)
    temperature: float = option(0.05, above=0)
    label_smoothing: float = option(0.0, least=0, below=1)
    normalize_query: bool = False
    normalize_passage: bool = False
    hard_negatives: int = option(0, least=0)
    chunks: int = option(1, least=1)

    # A subclass of CropConfig, so that a run's record has all options in one place.
    def __post_init__(self):
        super().__post_init__()
        check_options(self)
        # The queue serves all questions; hard negatives belong to one.
        if self.moco and self.hard_negatives:
            raise errors.ConfigError(f'ContrastiveConfig.hard_negatives is {self.hard_negatives}; '
                                     'the negatives of method "moco" are those of its queue: '
                                     'choose "inbatch", or 0')

    @property
    def moco(self) -> bool:
        """True for the method with a momentum encoder and a queue."""
        return self.method == 'moco'


@dataclasses.dataclass(frozen=True)
class ContrastiveSpec(spec_lib.Layout):
    """The static side of the contrastive step.

    Attributes:
      config: configuration of the retriever.
      mesh: devices; one token stream each.
      contrastive: options of the training.
      batch_size: size of the whole batch.
      passages_each: number of passages of an example.
      queries, passages: capacities of a stream of one chunk's queries, and of its passages,
        smallest first; one of each per level.
      step: rematerialisation and dtypes.
      lower_for: see Layout.
    """

    config: contriever.ContrieverConfig
    mesh: jax.sharding.Mesh
    contrastive: ContrastiveConfig
    batch_size: int
    passages_each: int
    queries: tuple[buckets.Capacity, ...]
    passages: tuple[buckets.Capacity, ...]
    step: spec_lib.StepConfig = spec_lib.StepConfig()
    lower_for: str | None = None

    @property
    def trains(self) -> bool:
        """True: every step has a backward pass."""
        return True

    @property
    def retriever(self) -> contriever.Contriever:
        return self.contriever_of(self.config)


def make_contrastive_spec(config: contriever.ContrieverConfig, mesh: jax.sharding.Mesh,
              lengths: tuple[np.ndarray, np.ndarray], widths: tuple[int, int], batch_size: int,
              contrastive: ContrastiveConfig, step: spec_lib.StepConfig | None = None, *,
              passages_each: int = 1, lower_for: str | None = None) -> ContrastiveSpec:
    """Chooses the capacities for batches of `batch_size` examples.

    Args:
      config: configuration of the retriever.
      mesh: devices.
      lengths: samples [n] int of the token counts of queries and of passages.
      widths: largest token counts of a query and of a passage.
      batch_size: size of the whole batch.
      contrastive: options of the training.
      step: rematerialisation and dtypes.
      passages_each: number of passages of an example.
      lower_for: see Layout.

    Raises:
      ConfigError: the batch does not divide over devices and chunks, the queue is no multiple of
        the batch, or gradients are accumulated.
    """
    step = step or spec_lib.StepConfig()
    check(contrastive, step, batch_size, mesh.size)
    # Each chunk takes an equal part of every device's rows, so that no token moves.
    each = batch_size // mesh.size // contrastive.chunks
    streams = mesh.size * contrastive.chunks
    # Queries and passages share a level: the step is one switch.
    kinds = buckets.distinct({
        'queries': buckets.capacities(lengths[0], each, widths[0], streams),
        'passages': buckets.capacities(lengths[1], each * passages_each, widths[1], streams)})
    return ContrastiveSpec(config, mesh, contrastive, batch_size, passages_each, kinds['queries'],
                           kinds['passages'], step, lower_for)


def check(contrastive: ContrastiveConfig, step: spec_lib.StepConfig, batch_size: int,
          devices: int) -> None:
    """Raises ConfigError: see make_contrastive_spec; or the batch has no negatives."""
    # Micro-batches with their own losses would silently have fewer negatives.
    if step.accumulation_steps != 1:
        raise errors.ConfigError(f'StepConfig.accumulation_steps is {step.accumulation_steps}; a '
                                 'batch whose passages are one another\'s negatives is not cut: '
                                 'set ContrastiveConfig.chunks, which computes the same gradient '
                                 'in parts')
    if batch_size % (devices * contrastive.chunks):
        parts = f'{devices} devices' + (f' times {contrastive.chunks} chunks'
                                        if contrastive.chunks > 1 else '')
        raise errors.ConfigError(f'batch_size {batch_size} does not divide over {parts}; choose a '
                                 f'multiple of {devices * contrastive.chunks}')
    # Without negatives the loss is 0, and the run would silently learn nothing.
    if not contrastive.moco and batch_size == 1 and not contrastive.hard_negatives:
        raise errors.ConfigError('batch_size is 1, and with ContrastiveConfig.method "inbatch" '
                                 'the other passages of the batch are the negatives; choose 2 '
                                 'or more')
    # The devices divide the batch, so they divide the queue too.
    if contrastive.moco and contrastive.queue_size % batch_size:
        raise errors.ConfigError(f'ContrastiveConfig.queue_size {contrastive.queue_size} is not a '
                                 f'multiple of batch_size {batch_size}, so it would not divide '
                                 f'over the devices; choose a multiple of {batch_size}, such as '
                                 f'{-(-contrastive.queue_size // batch_size) * batch_size}')
