"""The options of a retriever's contrastive training, and the static side of its step (Izacard et al. 2021, arXiv 2112.09118)."""

import dataclasses
import math

import jax
import numpy as np

from atlas_jax import errors
from atlas_jax.input.crops import CropConfig
from atlas_jax.models import contriever
from atlas_jax.steps import buckets
from atlas_jax.steps import spec as spec_lib

METHODS = ('moco', 'inbatch')
MOMENTUM_SCHEDULES = ('constant', 'cosine')


@dataclasses.dataclass(frozen=True)
class ContrastiveConfig(CropConfig):
    """How a retriever learns without a reader; the defaults are those of the paper's final model. The crops' options are in CropConfig.

    Attributes:
      method: where negatives come from. moco: a queue of passages of earlier batches, as a momentum encoder embedded them. inbatch: the
        other passages of the batch, of all devices, and hard negatives.
      queue_size: passages in the queue; the batch and the devices divide it.
      momentum: how much of the momentum encoder stays in an update.
      momentum_schedule: constant, or cosine: from momentum up to 1 at the end of the schedule (OptimizerConfig.scheduler_steps).
      temperature: divides the inner products.
      label_smoothing: this share of the target is spread evenly over all passages.
      normalize_query, normalize_passage: divide embeddings by their L2 norm in the loss. With passages divided so, the trained retriever
        divides too, for their norms decide what is found.
      hard_negatives: negatives that each question brings from its file; inbatch only. Fewer are filled up with empty places.
      chunks: parts of the batch that are encoded one after another, so that one is in memory at a time; the gradient is that of the whole
        batch (GradCache: Gao et al. 2021, arXiv 2101.06983).

    Raises ConfigError as CropConfig, for an unknown name and for a number out of range.
    """

    method: str = 'moco'
    queue_size: int = 131072
    momentum: float = 0.9995
    momentum_schedule: str = 'constant'
    temperature: float = 0.05
    label_smoothing: float = 0.0
    normalize_query: bool = False
    normalize_passage: bool = False
    hard_negatives: int = 0
    chunks: int = 1

    # Crops are part of these options: a run's record then has all that decides what it learns in one place.
    def __post_init__(self):
        super().__post_init__()
        for name, valid in (('method', METHODS), ('momentum_schedule', MOMENTUM_SCHEDULES)):
            if getattr(self, name) not in valid:
                raise errors.ConfigError(f'ContrastiveConfig.{name} is "{getattr(self, name)}"; choose one of {", ".join(valid)}')
        for name, least in (('queue_size', 1), ('hard_negatives', 0), ('chunks', 1)):
            if getattr(self, name) < least:
                raise errors.ConfigError(f'ContrastiveConfig.{name} is {getattr(self, name)}; it must be at least {least}')
        for name in ('momentum', 'label_smoothing'):
            if not 0 <= getattr(self, name) < 1:
                raise errors.ConfigError(f'ContrastiveConfig.{name} is {getattr(self, name)}; it must be at least 0 and below 1')
        # Written so that NaN is refused too.
        if not 0 < self.temperature < math.inf:
            raise errors.ConfigError(f'ContrastiveConfig.temperature is {self.temperature}; it must be finite and greater than 0')
        # A queue holds passages of any question; hard negatives are of one.
        if self.moco and self.hard_negatives:
            raise errors.ConfigError(f'ContrastiveConfig.hard_negatives is {self.hard_negatives}; the negatives of method "moco" are those '
                                     'of its queue: choose "inbatch", or 0')

    @property
    def moco(self) -> bool:
        """True where there are a momentum encoder and a queue."""
        return self.method == 'moco'


@dataclasses.dataclass(frozen=True)
class ContrastiveSpec(spec_lib.Layout):
    """The static side of the contrastive step.

    Attributes:
      config: of the retriever.
      mesh: devices; one token stream each.
      contrastive: the options.
      batch_size: of a whole batch.
      passages_each: passages of an example.
      queries, passages: capacities of a stream of one chunk's queries, and of its passages, smallest first; one of each a level.
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


def make_spec(config: contriever.ContrieverConfig, mesh: jax.sharding.Mesh, lengths: tuple[np.ndarray, np.ndarray], widths: tuple[int, int],
              batch_size: int, contrastive: ContrastiveConfig, step: spec_lib.StepConfig | None = None, *, passages_each: int = 1,
              lower_for: str | None = None) -> ContrastiveSpec:
    """Chooses the capacities for batches of `batch_size` examples.

    Args:
      config: of the retriever.
      mesh: devices.
      lengths: samples [n] int of the tokens of queries and of passages.
      widths: the most tokens of a query and of a passage.
      batch_size: of a whole batch.
      contrastive: the options.
      step: rematerialisation and dtypes.
      passages_each: passages of an example.
      lower_for: see Layout.

    Raises:
      ConfigError: the batch does not divide over devices and chunks, or the queue not by the batch or over the devices; or gradients are
        to be accumulated.
    """
    step = step or spec_lib.StepConfig()
    check(contrastive, step, batch_size, mesh.size)
    # Each chunk takes an equal part of every device, so that no token moves.
    each = batch_size // mesh.size // contrastive.chunks
    streams = mesh.size * contrastive.chunks
    # Queries and passages share a level: the step is one switch.
    kinds = buckets.distinct({'queries': buckets.capacities(lengths[0], each, widths[0], streams),
                              'passages': buckets.capacities(lengths[1], each * passages_each, widths[1], streams)})
    return ContrastiveSpec(config, mesh, contrastive, batch_size, passages_each, kinds['queries'], kinds['passages'], step, lower_for)


def check(contrastive: ContrastiveConfig, step: spec_lib.StepConfig, batch_size: int, devices: int) -> None:
    """Raises ConfigError: the batch or the queue does not divide or has no negatives, or gradients are to be accumulated; see make_spec."""
    # Parts of a batch with losses of their own would have fewer negatives, and no word would say so.
    if step.accumulation_steps != 1:
        raise errors.ConfigError(f'StepConfig.accumulation_steps is {step.accumulation_steps}; a batch whose passages are one another\'s '
                                 'negatives is not cut: set ContrastiveConfig.chunks, which computes the same gradient in parts')
    if batch_size % (devices * contrastive.chunks):
        parts = f'{devices} devices' + (f' times {contrastive.chunks} chunks' if contrastive.chunks > 1 else '')
        raise errors.ConfigError(f'batch_size {batch_size} does not divide over {parts}; choose a multiple of '
                                 f'{devices * contrastive.chunks}')
    # Nothing to be told apart: the loss would be 0, and the run would teach nothing without a word.
    if not contrastive.moco and batch_size == 1 and not contrastive.hard_negatives:
        raise errors.ConfigError('batch_size is 1, and with ContrastiveConfig.method "inbatch" the other passages of the batch are the '
                                 'negatives; choose 2 or more')
    # The devices divide the batch, so they divide the queue too.
    if contrastive.moco and contrastive.queue_size % batch_size:
        raise errors.ConfigError(f'ContrastiveConfig.queue_size {contrastive.queue_size} is not a multiple of batch_size {batch_size}, so '
                                 f'it would not divide over the devices; choose a multiple of {batch_size}, such as '
                                 f'{-(-contrastive.queue_size // batch_size) * batch_size}')
