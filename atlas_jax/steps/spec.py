"""The static side of a step, which is fixed when the step is traced: model, formats, numbers of
passages, stream capacities, mesh.
"""

import abc
import dataclasses
from collections.abc import Collection, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax import errors, partitioning, types
from atlas_jax.losses import attention_scores
from atlas_jax.models import atlas, contriever, t5
from atlas_jax.nn import flash_attention, layer_scan
from atlas_jax.options import CheckedOptions, option
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.steps import buckets
from atlas_jax.tokenizers.formats import Segment

# adist is the paper's attention distillation: evalnormssum in this family. eval modes read the
# scored passages again without dropout; std modes use the training forward.
ATTENTION_MODES = {f'{source}{name}': (source, statistic) for source in ('eval', 'std')
                   for name, statistic in attention_scores.STATISTICS.items()}
ATTENTION_MODES = {'adist': ATTENTION_MODES.pop('evalnormssum')} | ATTENTION_MODES
GOLD_SCORE_MODES = ('pdist', 'emdr', 'loop', 'file', *ATTENTION_MODES)
ALIASES = {'ppmean': 'pdist', 'evalnormssum': 'adist', 'evalnormsum': 'adist'}
GOLD_SCORES = ('shared', 'exact')
DTYPES = ('float32', 'bfloat16')
ATTENTION = ('auto', 'plain', 'flash')
# What remat "auto" tries, by platform, starting with the least recomputation. dots would also keep
# the decoder's keys and values, which are large.
REMAT_TRIED = {'tpu': ('encoder_dots', 'encoder_mlp', 'full'), 'gpu': ('full',)}
RETRIEVER_TRAINING = ('joint', 'untied', 'query_side', 'frozen')

Network = TypeVar('Network', t5.T5Config, contriever.ContrieverConfig)


@dataclasses.dataclass(frozen=True)
class DistillConfig(CheckedOptions):
    """Settings of the distillation from reader to retriever (paper section 2.2).

    Attributes:
      gold_score_mode: source of the gold scores (the teacher's).
        pdist (ppmean): the reader's likelihood of the target given each passage alone.
        loop: the reader's loss with each passage left out.
        emdr: the likelihood of the target with the passage as a latent variable.
        adist (evalnormssum, evalnormsum): cross attention times the norm of the value.
        {eval,std}{scores,probs,norms}{sum,avg,first,nosep,woquery,top5,top10,top20}: other
        reductions of cross attention (losses/attention_scores.py). eval modes read the scored
        passages without dropout; std modes use the training forward and score its n_context
        passages.
        file: "gold_score" of each of an example's own passages, from another teacher
        (TrainData.use_file_passages).
      temperature_gold: divides the gold scores; in emdr the reader's logits.
      temperature_score: divides the retriever's scores.
      retriever_n_context: number of passages scored per example; std modes score n_context.
      retriever_training: joint (trains one encoder of queries and passages), untied (trains two;
        the passages' starts as a copy of the queries'), query_side (trains the queries' encoder
        only, so the index stays valid), or frozen (trains the reader only).
      gold_scores: shared (passages that are read keep the encoder states of the training forward,
        dropout included) or exact (all are encoded again without dropout, as in the original).
        Both are equal without dropout. For pdist, emdr, loop and eval modes.
      freeze_retriever_steps: number of first updates without updates to the retriever; its loss
        does not count either.

    Raises ConfigError: an unknown name, or a number out of range.
    """

    gold_score_mode: str = option('pdist', choices=(*GOLD_SCORE_MODES, *ALIASES))
    # Divided by infinity, all scores would be equal.
    temperature_gold: float = option(0.01, above=0)
    temperature_score: float = option(0.01, above=0)
    retriever_n_context: int = option(5, least=1)
    retriever_training: str = option('joint', choices=RETRIEVER_TRAINING)
    gold_scores: str = option('shared', choices=GOLD_SCORES)
    freeze_retriever_steps: int = option(0, least=0)

    def __post_init__(self):
        super().__post_init__()
        # Aliases end here, so that other code compares one name. A frozen class cannot assign.
        object.__setattr__(self, 'gold_score_mode',
                           ALIASES.get(self.gold_score_mode, self.gold_score_mode))

    @property
    def attention(self) -> attention_scores.Statistic | None:
        """The statistic of cross attention in the attention modes; None in the others."""
        return ATTENTION_MODES.get(self.gold_score_mode, ('', None))[1]

    @property
    def from_file(self) -> bool:
        """True if the gold scores come with the examples."""
        return self.gold_score_mode == 'file'

    @property
    def from_training_forward(self) -> bool:
        """True if the gold scores are the attention of the training forward (the std modes)."""
        return ATTENTION_MODES.get(self.gold_score_mode, ('', None))[0] == 'std'


@dataclasses.dataclass(frozen=True)
class StepConfig(CheckedOptions):
    """Options that trade memory against time and rounding.

    Attributes:
      accumulation_steps: number of micro-batches per update; the run's batch_size is the size of
        one.
      average_accumulated: divides the gradients by accumulation_steps. The original sums them, so
        the joint clip sees the sum.
      remat: recomputation in the backward pass: none, dots (everything except products with
        weights), full (every layer). encoder_dots and encoder_mlp keep those products of the
        encoders, or of their MLPs only, and recompute the decoder's layers. auto is, on a TPU, the
        first of encoder_dots, encoder_mlp and full that fits its memory; on a GPU full; elsewhere
        none.
      attention: attention of the encoders: plain; flash (nn/flash_attention.py: on a TPU a kernel
        for passages of at most 512 tokens; on a GPU cuDNN's, for bfloat16 without dropout;
        elsewhere the TPU's, interpreted and very slow); or auto: flash on a TPU or a GPU if it
        fits. The two draw different dropout.
      compute_dtype: type of activations, and of the weights inside the layers; None keeps the
        models' own.
      param_dtype: type of the stored weights. bfloat16 halves weights and gradients; updates are
        then rounded stochastically, so that small ones are not lost. Moments are always float32.
    """

    accumulation_steps: int = option(1, least=1)
    average_accumulated: bool = False
    remat: str = option('auto', choices=('auto', *layer_scan.REMAT))
    attention: str = option('auto', choices=ATTENTION)
    compute_dtype: str | None = option(None, choices=(None, *DTYPES))
    param_dtype: str = option('float32', choices=DTYPES)

    @property
    def param_type(self) -> jnp.dtype:
        """param_dtype as a dtype."""
        return jnp.dtype(self.param_dtype)


class Layout(abc.ABC):
    """The part of the static side that every step has: where and how it runs.

    Attributes:
      mesh: devices; one token stream each.
      step: rematerialisation and dtypes.
      lower_for: platform to lower the step for, if the mesh's devices are stand-ins that run
        nothing; None is the mesh's platform.
    """

    # Not a dataclass: its fields would come before those of its subclasses.
    mesh: jax.sharding.Mesh
    step: StepConfig
    lower_for: str | None

    @property
    def streams(self) -> int:
        return self.mesh.size

    @property
    @abc.abstractmethod
    def trains(self) -> bool:
        """True if the step has a backward pass."""

    @property
    @abc.abstractmethod
    def retriever(self) -> contriever.Contriever:
        """The encoder of queries and passages."""

    @property
    def remat(self) -> tuple[str, ...]:
        """Names of layer_scan.REMAT to try, in order, until the step fits the memory."""
        if self.step.remat != 'auto':
            return (self.step.remat,)
        return REMAT_TRIED.get(self.platform, ('none',)) if self.trains else ('none',)

    @property
    def platform(self) -> str:
        """The platform that the step runs on, as jax names it."""
        if isinstance(self.mesh, jax.sharding.AbstractMesh):  # shapes only, without devices
            return self.lower_for or jax.default_backend()
        return self.lower_for or self.mesh.devices.flat[0].platform

    @property
    def flash(self) -> bool:
        """True if encoders use the attention kernel, where it fits."""
        # On other platforms the kernel is interpreted, for tests only.
        return self.step.attention == 'flash' or (self.step.attention == 'auto'
                                                  and self.platform in ('gpu', 'tpu'))

    def contriever_of(self, config: contriever.ContrieverConfig) -> contriever.Contriever:
        """Returns the retriever's encoder with the step's dtypes and rematerialisation."""
        return contriever.Contriever(self._computing(config), self.remat[0], self._unroll,
                                     self.flash)

    @property
    def _unroll(self) -> int:
        return layer_scan.unroll_on(self.platform)

    def _computing(self, config: Network) -> Network:
        return dataclasses.replace(config, dtype=self.step.compute_dtype or config.dtype)


@dataclasses.dataclass(frozen=True)
class StepSpec(Layout):
    """The static side of train and answer steps.

    Attributes:
      config: sizes, formats and n_context.
      segments: config's formats, cut into token segments.
      mesh: devices; one token stream each.
      read: capacities of the stream of passages that are read, smallest first.
      scored: capacities of the stream of passages that are encoded only for gold scores
        (`encoded_for_gold`); () without such passages.
      embedded: capacities of the stream of passages that the loss embeds; () unless
        retriever_training is joint or untied.
      distill: the distillation; None in an answer step.
      step: accumulation, rematerialisation and dtypes.
      search: how passages are found.
      reranked: capacities of the stream of candidates that re-ranking embeds; () without
        re-ranking.
      lower_for: see Layout.
    """

    config: atlas.AtlasConfig
    segments: atlas.Segments
    mesh: jax.sharding.Mesh
    read: tuple[buckets.Capacity, ...]
    scored: tuple[buckets.Capacity, ...] = ()
    embedded: tuple[buckets.Capacity, ...] = ()
    distill: DistillConfig | None = None
    step: StepConfig = StepConfig()
    search: SearchConfig = SearchConfig()
    reranked: tuple[buckets.Capacity, ...] = ()
    lower_for: str | None = None

    @property
    def distillation(self) -> DistillConfig:
        """The distillation of a train step."""
        return types.required(self.distill)

    @property
    def trains(self) -> bool:
        """True if the step has a backward pass."""
        return self.distill is not None

    @property
    def closed_book(self) -> bool:
        return self.config.n_context == 0

    @property
    def passages_read(self) -> int:
        """Number of reader inputs per example: n_context, or 1 (without a passage) in a closed
        book.
        """
        return max(self.config.n_context, 1)

    @property
    def passages_scored(self) -> int:
        """Number of passages per example in the distillation loss; 0 if the retriever is not
        trained.
        """
        distill = self.distill
        if distill is None or self.closed_book or distill.retriever_training == 'frozen':
            return 0
        return self.passages_read if distill.from_training_forward else distill.retriever_n_context

    @property
    def encoded_for_gold(self) -> slice:
        """The passages of an example that are encoded only for gold scores; the others' states come
        from the training forward.
        """
        scored = self.passages_scored
        if not scored or self.distillation.from_training_forward or self.distillation.from_file:
            return slice(0, 0)
        exact = self.distillation.gold_scores == 'exact'
        return slice(0 if exact else min(self.passages_read, scored), scored)

    @property
    def embeds_passages(self) -> bool:
        """True if the step embeds the scored passages; else the index has their embeddings."""
        return self.passages_scored > 0 and self.distillation.retriever_training != 'query_side'

    @property
    def keeps_passage_encoder(self) -> bool:
        """True if the encoder that made the index is kept, unchanged, beside the trained query
        encoder.
        """
        return self.passages_scored > 0 and self.distillation.retriever_training == 'query_side'

    @property
    def trains_passage_encoder(self) -> bool:
        """True if passages have a trained encoder of their own, `params['passage_encoder']`."""
        return self.passages_scored > 0 and self.distillation.retriever_training == 'untied'

    @property
    def top_k(self) -> int:
        return 0 if self.closed_book else max(self.passages_read, self.passages_scored)

    @property
    def candidates(self) -> int:
        """Number of passages per example that the search returns: more than top_k for re-ranking.
        """
        return max(self.top_k, self.search.rerank_candidates)

    @property
    def passages_together(self) -> frozenset[int]:
        """Numbers of passages per example in the kinds of streams that the step may have."""
        only_for_gold = self.encoded_for_gold.stop - self.encoded_for_gold.start
        return frozenset({self.passages_read, only_for_gold, self.passages_scored, self.candidates})

    @property
    def needs_retriever_tokens(self) -> bool:
        """True if the step embeds passages, and so needs their retriever tokens."""
        return bool(self.embedded or self.reranked)

    @property
    def tokens_on_host(self) -> bool:
        """True if the host reads the tokens of the passages found."""
        return self.search.tokens == 'host' and not self.closed_book

    @property
    def needs_embeddings(self) -> bool:
        """True if the step reads the index's embeddings, to search them or for the loss."""
        return not self.closed_book and (not self.search.on_host or self.keeps_passage_encoder)

    @property
    def reader(self) -> t5.T5:
        return t5.T5(self._computing(self.config.reader), self.remat[0], self._unroll, self.flash)

    @property
    def retriever(self) -> contriever.Contriever:
        return self.contriever_of(self.config.retriever)


def make_step_spec(config: atlas.AtlasConfig, segments: atlas.Segments, mesh: jax.sharding.Mesh,
              lengths: types.TokenLengths, batch_size: int, distill: DistillConfig | None = None,
              step: StepConfig | None = None, search: SearchConfig | None = None,
              lower_for: str | None = None) -> StepSpec:
    """Chooses the capacities for (micro-)batches of `batch_size` examples.

    Raises:
      ConfigError: neither the batch nor its passages divide over the devices (`divides`), or
        StepConfig.attention is "flash" and the kernel does not fit.
    """
    bare = StepSpec(config, segments, mesh, read=(), distill=distill, step=step or StepConfig(),
                    search=search or SearchConfig(), lower_for=lower_for)
    only_for_gold = bare.encoded_for_gold.stop - bare.encoded_for_gold.start
    _check_batch(bare, batch_size)

    def in_a_stream(passages: int) -> int:
        return batch_size * passages // mesh.size

    format_ = types.required(segments.closed_book if bare.closed_book else segments.reader)
    reader_inputs, reader_limit = _input_lengths(format_, lengths, config.inputs.text_max_tokens)
    retriever_inputs, retriever_limit = embedded_lengths(segments.retriever, lengths,
                                                         config.retriever_max_tokens)
    kinds = {
        'read': buckets.capacities(reader_inputs, in_a_stream(bare.passages_read), reader_limit,
                                   bare.streams)}
    # A train step compiles once for days. An answer step compiles while a user waits, so few fixed
    # sizes are shared.
    if distill is None:
        kinds['read'] = buckets.shared(kinds['read'], in_a_stream(bare.passages_read),
                                       config.inputs.text_max_tokens)
    if only_for_gold:
        kinds['scored'] = buckets.capacities(reader_inputs, in_a_stream(only_for_gold),
                                             reader_limit, bare.streams)
    if bare.embeds_passages:
        kinds['embedded'] = buckets.capacities(retriever_inputs, in_a_stream(bare.passages_scored),
                                               retriever_limit, bare.streams)
    if distill is not None and bare._unroll > 1:
        # A second level below the last saves 1 % of a step; with unrolled layers each level costs
        # 10 s of compilation (size small, CPU).
        kinds = {name: sizes[1:] for name, sizes in kinds.items()}
    # A level is a branch of one switch, so all kinds of streams have the same number of levels.
    kinds = buckets.distinct(kinds)
    # The last level is the largest, so it must fit the kernel.
    _check_attention(bare, kinds['read'][-1].longest)
    reranked: tuple[buckets.Capacity, ...] = ()
    if bare.search.rerank_candidates and not bare.closed_book:
        candidates = buckets.capacities(retriever_inputs, in_a_stream(bare.candidates),
                                        retriever_limit, bare.streams)
        if distill is None:
            candidates = buckets.shared(candidates, in_a_stream(bare.candidates),
                                        config.retriever_max_tokens)
        reranked = buckets.distinct({'reranked': candidates})['reranked']
    return dataclasses.replace(bare, read=kinds['read'], scored=kinds.get('scored', ()),
                               embedded=kinds.get('embedded', ()), reranked=reranked)


def divides(config: atlas.AtlasConfig, mesh_shape: Sequence[int], batch_size: int,
            passages: Collection[int]) -> bool:
    """Returns whether a batch divides over a mesh.

    A batch smaller than the mesh divides if its passages divide over all devices and its examples
    over data and fsdp. The axis `model` must then divide the decoder's heads and MLP: otherwise
    each of its devices would compute the decoder whole.

    Args:
      config: sizes of the models.
      mesh_shape: (data, fsdp, model).
      batch_size: number of examples in a (micro-)batch.
      passages: numbers of passages per example that are read or embedded together.
    """
    data, fsdp, model = mesh_shape
    devices, reader = data * fsdp * model, config.reader
    if batch_size % devices == 0:
        return True
    return (batch_size % (data * fsdp) == 0
            and all(batch_size * count % devices == 0 for count in passages)
            and reader.num_heads % model == 0 and reader.mlp_dim % model == 0)


def _check_batch(spec: StepSpec, batch_size: int) -> None:
    shape = tuple(spec.mesh.shape[axis] for axis in partitioning.MESH_AXES)
    if divides(spec.config, shape, batch_size, spec.passages_together):
        return
    counts = ', '.join(str(count) for count in sorted(spec.passages_together) if count)
    more = '' if shape[2] == 1 or batch_size % (shape[0] * shape[1]) else (
        f'; its passages ({counts} an example) do not either, or the decoder\'s '
        f'{spec.config.reader.num_heads} heads or its MLP of '
        f'{spec.config.reader.mlp_dim} do not over the {shape[2]} of the mesh axis model')
    raise errors.ConfigError(f'batch_size {batch_size} does not divide over {spec.mesh.size} '
                             f'devices{more}; choose a multiple of {spec.mesh.size}')


def _check_attention(spec: StepSpec, longest: int) -> None:
    reader = spec.reader.config
    dropout_rate = 0.0 if spec.distill is None else reader.dropout_rate
    if spec.step.attention != 'flash' or flash_attention.fits(
            longest, reader.num_heads, reader.head_dim, reader.dtype, dropout_rate, spec.platform):
        return
    if spec.platform == 'gpu':
        raise errors.ConfigError('StepConfig.attention is "flash", but cuDNN takes bfloat16 '
                                 'without dropout and heads of at most 128: the reader has '
                                 f'{reader.dtype}, dropout {dropout_rate} and {reader.head_dim}; '
                                 'set compute_dtype and dropout_rate, or choose "auto"')
    raise errors.ConfigError('StepConfig.attention is "flash", but the kernel does not hold '
                             f'reader inputs of {longest} tokens with {reader.num_heads} heads '
                             f'of {reader.head_dim}; lower text_max_tokens (512 at most), or '
                             'choose "auto"')


def _literal_tokens(segments: tuple[Segment, ...]) -> int:
    return sum(len(segment.ids) for segment in segments)


def _input_lengths(segments: tuple[Segment, ...], lengths: types.TokenLengths,
                   limit: int) -> tuple[np.ndarray, int]:
    """Returns a sample [n] int of reader input lengths, passages paired with random queries, and
    their bound.
    """
    reads_passage = any(segment.kind in ('title', 'text') for segment in segments)
    passages = np.zeros(1, np.int64)
    if reads_passage:
        passages = np.sort(np.asarray(lengths.reader_passages))
    queries = np.asarray(lengths.reader_queries)
    if len(queries) == 0 or len(passages) == 0:
        return np.zeros(0), limit
    # A fixed seed: capacities are part of the program, and must be the same in every process and
    # every run.
    generator = np.random.default_rng(0)
    pairs = max(len(passages), len(queries))
    sample = np.resize(passages, pairs) + generator.permutation(np.resize(
        queries, pairs)) + _literal_tokens(segments)
    greatest = int(passages.max() + queries.max()) + _literal_tokens(segments)
    return np.minimum(sample, limit), min(limit, greatest)


def embedded_lengths(segments: tuple[Segment, ...], lengths: types.TokenLengths,
                     limit: int) -> tuple[np.ndarray, int]:
    """Returns token counts [rows] int of the retriever's passage inputs, and their bound."""
    sample = np.asarray(lengths.retriever_passages) + _literal_tokens(segments)
    if len(sample) == 0:
        return np.zeros(0), limit
    return np.minimum(sample, limit), min(limit, int(sample.max()))
