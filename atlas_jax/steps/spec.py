"""The static side of a step, fixed when it is traced: model, formats, numbers of passages, stream capacities, mesh."""

import abc
import dataclasses
import math
from collections.abc import Collection, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax import errors, partitioning, types
from atlas_jax.losses import attention_scores
from atlas_jax.models import atlas, contriever, t5
from atlas_jax.nn import flash_attention, layer_scan
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.steps import buckets
from atlas_jax.tokenizers.formats import Segment

# 'adist' is what the paper calls attention distillation: the family's evalnormssum.
# eval reads the scored passages again without dropout; std looks at the training forward.
ATTENTION_MODES = {f'{source}{name}': (source, statistic) for source in ('eval', 'std')
                   for name, statistic in attention_scores.STATISTICS.items()}
ATTENTION_MODES = {'adist': ATTENTION_MODES.pop('evalnormssum')} | ATTENTION_MODES
GOLD_SCORE_MODES = ('pdist', 'emdr', 'loop', 'file', *ATTENTION_MODES)
ALIASES = {'ppmean': 'pdist', 'evalnormssum': 'adist', 'evalnormsum': 'adist'}
GOLD_SCORES = ('shared', 'exact')
DTYPES = ('float32', 'bfloat16')
ATTENTION = ('auto', 'plain', 'flash')
# What remat 'auto' tries, by platform, the least computed again first. dots keeps the decoder's keys and values too, which are large.
REMAT_TRIED = {'tpu': ('encoder_dots', 'encoder_mlp', 'full'), 'gpu': ('full',)}
# joint trains one encoder of queries and passages; untied two; query_side leaves the index valid; frozen trains the reader alone.
RETRIEVER_TRAINING = ('joint', 'untied', 'query_side', 'frozen')

Network = TypeVar('Network', t5.T5Config, contriever.ContrieverConfig)


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """Settings of the distillation from reader to retriever (paper section 2.2).

    Attributes:
      gold_score_mode: where the teacher's scores come from.
        pdist (ppmean): the reader's likelihood of the target given each passage alone. loop: its loss with each passage left out. emdr: the
        likelihood of the target with the passage unknown. adist (evalnormssum, evalnormsum): cross attention times the length of the value.
        {eval,std}{scores,probs,norms}{sum,avg,first,nosep,woquery,top5,top10,top20}: other reductions of cross attention
        (losses/attention_scores.py). file: scores of another teacher, "gold_score" of each of an example's own passages (TrainData
        .use_file_passages). eval reads the scored passages without dropout; std takes it from the training forward, and scores
        the n_context passages that are read there.
      temperature_gold: divides the gold scores; in emdr the reader's logits.
      temperature_score: divides the retriever's scores.
      retriever_n_context: passages scored per example; the std modes score n_context.
      retriever_training: joint (one encoder of queries and passages is trained), untied (two, that of the passages starts as a copy of the
        other), query_side (the passages' stays as it is, and so the index's embeddings stay valid), or frozen.
      gold_scores: shared (passages that are read keep the encoder states of the training forward, dropout included) or exact (all are
        encoded again without dropout, as the original does). The same without dropout; pdist, emdr, loop and eval modes only.
      freeze_retriever_steps: the retriever is not updated in the first so many updates, nor does its loss count.

    Raises ConfigError for an unknown name, a temperature that is not positive, or a number of passages or steps that is too small.
    """

    gold_score_mode: str = 'pdist'
    temperature_gold: float = 0.01
    temperature_score: float = 0.01
    retriever_n_context: int = 5
    retriever_training: str = 'joint'
    gold_scores: str = 'shared'
    freeze_retriever_steps: int = 0

    def __post_init__(self):
        # Aliases end here, so that everything behind compares one name. The class is frozen, hence the detour.
        object.__setattr__(self, 'gold_score_mode', ALIASES.get(self.gold_score_mode, self.gold_score_mode))
        for name, valid in (('gold_score_mode', (*GOLD_SCORE_MODES, *ALIASES)), ('retriever_training', RETRIEVER_TRAINING),
                            ('gold_scores', GOLD_SCORES)):
            if getattr(self, name) not in valid:
                raise errors.ConfigError(f'DistillConfig.{name} is "{getattr(self, name)}"; choose one of {", ".join(valid)}')
        for name in ('temperature_gold', 'temperature_score'):
            # Written so that NaN is refused too; divided by infinity all scores are equal.
            if not 0 < getattr(self, name) < math.inf:
                raise errors.ConfigError(f'DistillConfig.{name} is {getattr(self, name)}; it must be finite and greater than 0')
        for name, least in (('retriever_n_context', 1), ('freeze_retriever_steps', 0)):
            if getattr(self, name) < least:
                raise errors.ConfigError(f'DistillConfig.{name} is {getattr(self, name)}; it must be at least {least}')

    @property
    def attention(self) -> attention_scores.Statistic | None:
        """The statistic of cross attention that the gold scores are, in the attention modes; None in the others."""
        return ATTENTION_MODES[self.gold_score_mode][1] if self.gold_score_mode in ATTENTION_MODES else None

    @property
    def from_file(self) -> bool:
        """True where the gold scores come with the examples, so that the reader judges nothing."""
        return self.gold_score_mode == 'file'

    @property
    def from_training_forward(self) -> bool:
        """True where the gold scores are the attention of the training forward itself (the std modes)."""
        return self.gold_score_mode in ATTENTION_MODES and ATTENTION_MODES[self.gold_score_mode][0] == 'std'


@dataclasses.dataclass(frozen=True)
class StepConfig:
    """Options that trade memory against time and rounding.

    Attributes:
      accumulation_steps: micro-batches an update; the run's batch_size is that of one of them.
      average_accumulated: divide the gradients by accumulation_steps; the original sums without dividing, so the joint clip sees the sum.
      remat: what the backward pass computes again: none, dots (all but the products with weights), full (every layer); encoder_dots and
        encoder_mlp keep those products of the encoders, or those inside their MLPs alone, and compute the decoder's layers again. auto
        takes on a TPU the first of encoder_dots, encoder_mlp and full that compiles into its memory, on a GPU full, elsewhere none.
      attention: of the encoders: plain, flash (nn/flash_attention.py: on a TPU a kernel for passages of at most 512 tokens; on a GPU
        cuDNN's, for bfloat16 without dropout; elsewhere the TPU's interpreted, and so very slow), or auto: flash on a TPU or a GPU where
        it fits. In training the two drop other probabilities.
      compute_dtype: of activations and of the weights as layers see them; None keeps the models' own.
      param_dtype: of the stored weights. bfloat16 halves them and their gradients; updates are then rounded stochastically, or small
        ones would be lost. Moments are float32 either way.
    """

    accumulation_steps: int = 1
    average_accumulated: bool = False
    remat: str = 'auto'
    attention: str = 'auto'
    compute_dtype: str | None = None
    param_dtype: str = 'float32'

    def __post_init__(self):
        for name, valid in (('remat', ('auto', *layer_scan.REMAT)), ('attention', ATTENTION), ('compute_dtype', (None, *DTYPES)),
                            ('param_dtype', DTYPES)):
            if getattr(self, name) not in valid:
                choices = ', '.join(str(choice) for choice in valid)
                raise errors.ConfigError(f'StepConfig.{name} is "{getattr(self, name)}"; choose one of {choices}')
        if self.accumulation_steps < 1:
            raise errors.ConfigError(f'StepConfig.accumulation_steps is {self.accumulation_steps}; it must be at least 1')

    @property
    def param_type(self) -> jnp.dtype:
        """param_dtype as a dtype."""
        return jnp.dtype(self.param_dtype)


class Layout(abc.ABC):
    """The part of a compiled step's static side that every step has: where and how it runs.

    Attributes:
      mesh: devices; one token stream each.
      step: rematerialisation and dtypes.
      lower_for: platform that the step is lowered for, where the mesh's devices only stand in for it and run nothing; None is the mesh's.
    """

    # No dataclass, whose fields would come before those of the classes made from it.
    mesh: jax.sharding.Mesh
    step: StepConfig
    lower_for: str | None

    @property
    def streams(self) -> int:
        return self.mesh.size

    @property
    @abc.abstractmethod
    def trains(self) -> bool:
        """True where the step has a backward pass."""

    @property
    @abc.abstractmethod
    def retriever(self) -> contriever.Contriever:
        """The encoder of queries and passages."""

    @property
    def remat(self) -> tuple[str, ...]:
        """Names of layer_scan.REMAT, for what the backward pass computes again; the first one whose step fits is wanted."""
        if self.step.remat != 'auto':
            return (self.step.remat,)
        return REMAT_TRIED.get(self.platform, ('none',)) if self.trains else ('none',)

    @property
    def platform(self) -> str:
        """The platform that the step runs on, as jax names it."""
        if isinstance(self.mesh, jax.sharding.AbstractMesh):  # shapes alone, that no device runs
            return self.lower_for or jax.default_backend()
        return self.lower_for or self.mesh.devices.flat[0].platform

    @property
    def flash(self) -> bool:
        """True where encoders attend by the kernel, if it fits."""
        # Elsewhere the kernel is interpreted: for tests, not for use.
        return self.step.attention == 'flash' or (self.step.attention == 'auto' and self.platform in ('gpu', 'tpu'))

    def contriever_of(self, config: contriever.ContrieverConfig) -> contriever.Contriever:
        """Returns the retriever's encoder as the step computes it."""
        return contriever.Contriever(self._computing(config), self.remat[0], self._unroll, self.flash)

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
      segments: config's formats cut into token segments.
      mesh: devices; one token stream each.
      read: capacities of the stream of passages that are read, smallest first.
      scored: capacities of the stream of passages that are encoded for gold scores alone (`encoded_for_gold`); () if there are none.
      embedded: capacities of the stream of passages that a retriever embeds; () unless retriever_training is joint or untied.
      distill: None in an answer step.
      step: accumulation, rematerialisation and dtypes.
      search: how passages are found.
      reranked: capacities of the stream of candidates that are embedded anew to re-rank them; () where none are.
      lower_for: platform that the step is lowered for, where the mesh's devices only stand in for it and run nothing; None is the mesh's.
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
        """The distillation of a step that trains; an answer step has none."""
        return types.required(self.distill)

    @property
    def trains(self) -> bool:
        """True where the step has a backward pass: a step that answers has none."""
        return self.distill is not None

    @property
    def closed_book(self) -> bool:
        return self.config.n_context == 0

    @property
    def passages_read(self) -> int:
        """Reader inputs an example has: n_context, or the one without a passage of a closed book."""
        return max(self.config.n_context, 1)

    @property
    def passages_scored(self) -> int:
        """Passages an example has in the distillation loss; 0 where the retriever is not trained."""
        if self.distill is None or self.closed_book or self.distillation.retriever_training == 'frozen':
            return 0
        return self.passages_read if self.distillation.from_training_forward else self.distill.retriever_n_context

    @property
    def encoded_for_gold(self) -> slice:
        """The passages of an example that are encoded for gold scores alone; the others' states come from the training forward."""
        scored = self.passages_scored
        # The attention of the training forward needs no other pass.
        if not scored or self.distillation.from_training_forward or self.distillation.from_file:
            return slice(0, 0)
        return slice(0 if self.distillation.gold_scores == 'exact' else min(self.passages_read, scored), scored)

    @property
    def embeds_passages(self) -> bool:
        """True where the step embeds the scored passages; else their embeddings come from the index."""
        return self.passages_scored > 0 and self.distillation.retriever_training != 'query_side'

    @property
    def keeps_passage_encoder(self) -> bool:
        """True where the encoder that made the index stays, as it is, beside the trained query encoder."""
        return self.passages_scored > 0 and self.distillation.retriever_training == 'query_side'

    @property
    def trains_passage_encoder(self) -> bool:
        """True where passages have a trained encoder of their own, `params['passage_encoder']`."""
        return self.passages_scored > 0 and self.distillation.retriever_training == 'untied'

    @property
    def top_k(self) -> int:
        return 0 if self.closed_book else max(self.passages_read, self.passages_scored)

    @property
    def candidates(self) -> int:
        """Passages an example gets from the search: more than top_k where they are re-ranked."""
        # More are searched for than are read where the best are chosen afterwards.
        return max(self.top_k, self.search.rerank_candidates)

    @property
    def passages_together(self) -> frozenset[int]:
        """How many passages an example has in each kind of stream that the step may have."""
        only_for_gold = self.encoded_for_gold.stop - self.encoded_for_gold.start
        return frozenset({self.passages_read, only_for_gold, self.passages_scored, self.candidates})

    @property
    def needs_retriever_tokens(self) -> bool:
        """True where the step embeds passages, so that it needs them in the retriever's tokens."""
        return bool(self.embedded or self.reranked)

    @property
    def tokens_on_host(self) -> bool:
        """True where the host reads the passages' tokens, after they were found."""
        return self.search.tokens == 'host' and not self.closed_book

    @property
    def needs_embeddings(self) -> bool:
        """True where the step reads the index's embeddings: to search them, or as the retriever's side of the loss."""
        return not self.closed_book and (not self.search.on_host or self.keeps_passage_encoder)

    @property
    def reader(self) -> t5.T5:
        return t5.T5(self._computing(self.config.reader), self.remat[0], self._unroll, self.flash)

    @property
    def retriever(self) -> contriever.Contriever:
        return self.contriever_of(self.config.retriever)


def make_spec(config: atlas.AtlasConfig, segments: atlas.Segments, mesh: jax.sharding.Mesh, lengths: types.TokenLengths, batch_size: int,
              distill: DistillConfig | None = None, step: StepConfig | None = None,
              search: SearchConfig | None = None, lower_for: str | None = None) -> StepSpec:
    """Chooses the capacities for (micro-)batches of `batch_size` examples.

    Raises:
      ConfigError: neither the batch nor its passages divide over the devices (`divides`), or StepConfig.attention is "flash" and the
        kernel does not fit.
    """
    bare = StepSpec(config, segments, mesh, read=(), distill=distill, step=step or StepConfig(),
                    search=search or SearchConfig(), lower_for=lower_for)
    only_for_gold = bare.encoded_for_gold.stop - bare.encoded_for_gold.start
    _check_batch(bare, batch_size)

    def in_a_stream(passages: int) -> int:
        return batch_size * passages // mesh.size

    format_ = types.required(segments.closed_book if bare.closed_book else segments.reader)
    reader_inputs, reader_limit = _input_lengths(format_, lengths, config.inputs.text_max_tokens)
    retriever_inputs, retriever_limit = embedded_lengths(segments.retriever, lengths, config.retriever_max_tokens)
    kinds = {'read': buckets.capacities(reader_inputs, in_a_stream(bare.passages_read), reader_limit, bare.streams)}
    # A step that trains is compiled once for days. One that answers is compiled while somebody waits, so any other one should serve.
    if distill is None:
        kinds['read'] = buckets.shared(kinds['read'], in_a_stream(bare.passages_read), config.inputs.text_max_tokens)
    # Passages that are read share the training forward's states; only the others need a stream.
    if only_for_gold:
        kinds['scored'] = buckets.capacities(reader_inputs, in_a_stream(only_for_gold), reader_limit, bare.streams)
    if bare.embeds_passages:
        kinds['embedded'] = buckets.capacities(retriever_inputs, in_a_stream(bare.passages_scored), retriever_limit, bare.streams)
    if distill is not None and bare._unroll > 1:
        # Two levels below the last take 1 % more off a step than one; of unrolled layers each costs 10 s of compilation (size small, CPU).
        kinds = {name: sizes[1:] for name, sizes in kinds.items()}
    # A level is a branch of one switch, so all kinds of streams have equally many.
    kinds = buckets.distinct(kinds)
    # The last level is the one that must fit the kernel.
    _check_attention(bare, kinds['read'][-1].longest)
    reranked: tuple[buckets.Capacity, ...] = ()
    if bare.search.rerank_candidates and not bare.closed_book:
        candidates = buckets.capacities(retriever_inputs, in_a_stream(bare.candidates), retriever_limit, bare.streams)
        if distill is None:
            candidates = buckets.shared(candidates, in_a_stream(bare.candidates), config.retriever_max_tokens)
        reranked = buckets.distinct({'reranked': candidates})['reranked']
    return dataclasses.replace(bare, read=kinds['read'], scored=kinds.get('scored', ()), embedded=kinds.get('embedded', ()),
                               reranked=reranked)


def divides(config: atlas.AtlasConfig, mesh_shape: Sequence[int], batch_size: int, passages: Collection[int]) -> bool:
    """Returns whether a batch divides over a mesh.

    A batch that is smaller than the mesh does where its passages divide over all devices and its examples over data and fsdp; `model`
    then has to split the decoder's layers, or each of its devices would compute them whole.

    Args:
      config: of the models.
      mesh_shape: (data, fsdp, model).
      batch_size: examples of a (micro-)batch.
      passages: numbers of passages of an example that are read or embedded together.
    """
    data, fsdp, model = mesh_shape
    devices, reader = data * fsdp * model, config.reader
    if batch_size % devices == 0:
        return True
    return (batch_size % (data * fsdp) == 0 and all(batch_size * count % devices == 0 for count in passages)
            and reader.num_heads % model == 0 and reader.mlp_dim % model == 0)


def _check_batch(spec: StepSpec, batch_size: int) -> None:
    shape = tuple(spec.mesh.shape[axis] for axis in partitioning.MESH_AXES)
    if divides(spec.config, shape, batch_size, spec.passages_together):
        return
    counts = ', '.join(str(count) for count in sorted(spec.passages_together) if count)
    more = '' if shape[2] == 1 or batch_size % (shape[0] * shape[1]) else (
        f'; its passages ({counts} an example) do not either, or the decoder\'s {spec.config.reader.num_heads} heads or its MLP of '
        f'{spec.config.reader.mlp_dim} do not over the {shape[2]} of the mesh axis model')
    raise errors.ConfigError(f'batch_size {batch_size} does not divide over {spec.mesh.size} devices{more}; choose a multiple of '
                             f'{spec.mesh.size}')


def _check_attention(spec: StepSpec, longest: int) -> None:
    reader = spec.reader.config
    # An answer step drops nothing.
    dropout_rate = 0.0 if spec.distill is None else reader.dropout_rate
    if spec.step.attention != 'flash' or flash_attention.fits(longest, reader.num_heads, reader.head_dim, reader.dtype, dropout_rate,
                                                              spec.platform):
        return
    if spec.platform == 'gpu':
        raise errors.ConfigError(f'StepConfig.attention is "flash", but cuDNN takes bfloat16 without dropout and heads of at most 128: the '
                                 f'reader has {reader.dtype}, dropout {dropout_rate} and {reader.head_dim}; set compute_dtype and '
                                 'dropout_rate, or choose "auto"')
    raise errors.ConfigError(f'StepConfig.attention is "flash", but the kernel does not hold reader inputs of {longest} tokens with '
                             f'{reader.num_heads} heads of {reader.head_dim}; lower text_max_tokens (512 at most), or choose "auto"')


def _literal_tokens(segments: tuple[Segment, ...]) -> int:
    return sum(len(segment.ids) for segment in segments)


def _input_lengths(segments: tuple[Segment, ...], lengths: types.TokenLengths, limit: int) -> tuple[np.ndarray, int]:
    """Returns a sample [n] int of reader input lengths and their bound: passages and queries of all lengths, paired evenly."""
    reads_passage = any(segment.kind in ('title', 'text') for segment in segments)
    passages = np.sort(np.asarray(lengths.reader_passages)) if reads_passage else np.zeros(1, np.int64)
    queries = np.asarray(lengths.reader_queries)
    if len(queries) == 0 or len(passages) == 0:
        return np.zeros(0), limit
    # Fixed: capacities decide what is compiled, and must be the same in every process and every run.
    generator = np.random.default_rng(0)
    pairs = max(len(passages), len(queries))
    sample = np.resize(passages, pairs) + generator.permutation(np.resize(queries, pairs)) + _literal_tokens(segments)
    greatest = int(passages.max() + queries.max()) + _literal_tokens(segments)
    return np.minimum(sample, limit), min(limit, greatest)


def embedded_lengths(segments: tuple[Segment, ...], lengths: types.TokenLengths, limit: int) -> tuple[np.ndarray, int]:
    """Returns token counts [rows] int of the passages as the retriever sees them, and their bound."""
    sample = np.asarray(lengths.retriever_passages) + _literal_tokens(segments)
    if len(sample) == 0:
        return np.zeros(0), limit
    return np.minimum(sample, limit), min(limit, int(sample.max()))
