"""The workload of a plan: the sizes of a run that its compiled step depends on, from a gin file's
arguments or given by hand.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from atlas_jax import decoding as decoding_lib
from atlas_jax import errors, types
from atlas_jax.model import ModelSource
from atlas_jax.models import atlas, contriever, t5
from atlas_jax.options import CheckedOptions, option
from atlas_jax.searchers import config as search_config
from atlas_jax.steps import spec as spec_lib
from atlas_jax.tasks import lm, mlm, multiple_choice, qa, section
from atlas_jax.training import contrastive as contrastive_lib
from atlas_jax.training import optimizer as optimizer_lib
from atlas_jax.training import refresh as refresh_lib

STEPS = ('train', 'answer', 'score', 'search', 'index', 'contrastive')
# The steps that can be planned from a gin file, by the step that its own command runs. Only a
# training run says how to train.
PLANNED = {
    'train': STEPS[:-1], 'answer': STEPS[1:-1], 'score': STEPS[1:-1], 'search': STEPS[1:-1],
    'index': ('index', ), 'contrastive': ('contrastive', )}
TRAINING = ('train', 'contrastive')
INDEX_DTYPES = ('float32', 'bfloat16', 'int8')
# This many passage lengths are kept from a store, or drawn from a mean and a deviation. Capacities
# are quantiles, and this many lengths fix them to within a token.
_SAMPLE = 20_000
_TOKEN_ID_BYTES = 2  # uint16
_TABLE_STEP = 128  # token tables are padded to multiples of this width, the lanes of a TPU
# Tasks whose examples are made from passages of the index.
_TASKS_ON_PASSAGES = (mlm.MLMTask, lm.LMTask, section.SectionTask)
# Options of a multiple-choice question, and the tokens of each: <extra_id_0>, a letter, the end.
CHOICES = (4, 3)


@dataclasses.dataclass(frozen=True)
class Workload(CheckedOptions):
    """The options of a training run, an evaluation or an index build that its program depends on.

    Attributes:
      model: sizes and formats.
      kind: the step: train; answer (retrieve and decode); score (multiple choice); search (retrieve
        alone); index (embed passages); contrastive (train a retriever without a reader, on crops or
        on questions with passages).
      batch_size: examples of a micro-batch, as in RunConfig.batch_size. Steps that do not train
        round it up to a multiple of the chips, as evaluation does.
      n_context: passages to read, or to find in a search; 0 is a closed book.
      index_rows: passages of the index, which lies on the devices.
      index_dtype: float32, bfloat16 or int8.
      code_bytes: bytes of a passage's code, for the searcher codes; a factor of four bytes is
        added.
      table_tokens: width of the passages' token tables, a multiple of 128.
      query_tokens: width of the queries.
      passage_tokens: (mean, standard deviation) of the passages' tokens, titles included; None puts
        every input at its limit.
      passage_lengths: token counts of a store's passages by the reader's and the retriever's
        tokenizer, in place of passage_tokens. Set by `of_store`, not by gin.
      mesh_shape: (data, fsdp, model); None puts every device on fsdp. Every host builds an index
        alone.
      dropout_rate: None keeps the models' own rates.
      optimizer: the optimizer of a training run.
      distill: how the reader teaches the retriever in a training run.
      step: memory layout and dtypes; steps that do not train use the dtypes only.
      search: options of the search.
      inputs: formats and token limits; None keeps the model's.
      decoding: options of generation.
      contrastive: crops, method and queue of a contrastive step.
      from_questions: True for a contrastive step on questions with whole passages, False on crops.
      refresh: refreshes of the index in a training run.
      excludes_own_passages: True if examples are made from passages of the index, which the search
        must not return for them.
      lower_for: platform that the step is lowered for, where CPU devices take its place. Set by
        gpu_plan.py, not by gin.

    Raises ConfigError for an unknown kind or dtype, and for a size that is too small.
    """

    model: atlas.AtlasConfig
    kind: str = option('train', choices=STEPS)
    batch_size: int = option(64, least=1)
    n_context: int = option(20, least=0)
    index_rows: int = option(33_000_000, least=1)
    index_dtype: str = option('bfloat16', choices=INDEX_DTYPES)
    code_bytes: int = option(96, least=1)
    table_tokens: int = option(256, least=1)
    query_tokens: int = option(64, least=2)
    passage_tokens: tuple[float, float] | None = None
    mesh_shape: tuple[int, int, int] | None = None
    dropout_rate: float | None = None
    optimizer: optimizer_lib.OptimizerConfig = optimizer_lib.OptimizerConfig()
    distill: spec_lib.DistillConfig = spec_lib.DistillConfig()
    step: spec_lib.StepConfig = spec_lib.StepConfig()
    search: search_config.SearchConfig = search_config.SearchConfig()
    inputs: atlas.InputConfig | None = None
    decoding: decoding_lib.DecodingConfig = decoding_lib.DecodingConfig()
    contrastive: contrastive_lib.ContrastiveConfig = contrastive_lib.ContrastiveConfig()
    from_questions: bool = False
    refresh: refresh_lib.RefreshConfig = refresh_lib.RefreshConfig()
    excludes_own_passages: bool = False
    passage_lengths: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    lower_for: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.table_tokens % _TABLE_STEP:
            raise errors.ConfigError(f'Workload.table_tokens is {self.table_tokens}; it must be a '
                                     f'multiple of {_TABLE_STEP}')
        if self.kind == 'search' and self.n_context == 0:
            raise errors.ConfigError('Workload.kind is "search" and n_context is 0; it must be at '
                                     'least 1 to find passages')

    @property
    def config(self) -> atlas.AtlasConfig:
        """The model as the run configures it."""
        changes: dict[str, Any] = {
            'n_context': self.n_context, 'inputs': self.inputs or self.model.inputs}
        if self.dropout_rate is not None:
            changes |= {
                name: dataclasses.replace(getattr(self.model, name), dropout_rate=self.dropout_rate)
                for name in ('reader', 'retriever')}
        return dataclasses.replace(self.model, **changes)

    @property
    def trains(self) -> bool:
        """True for a step that trains."""
        return self.kind in TRAINING

    @property
    def examples_a_step(self) -> int:
        """Examples of an update, or of a batch of questions."""
        return self.batch_size * (self.step.accumulation_steps if self.trains else 1)

    def in_whole_chips(self, chips: int) -> 'Workload':
        """Returns the workload with its batch of questions rounded up to a multiple of the chips,
        as evaluation does. A training batch stays as it is.
        """
        size = self.batch_size if self.trains else math.ceil(self.batch_size / chips) * chips
        return dataclasses.replace(self, batch_size=size)

    def at_limit(self) -> 'Workload':
        """Returns the workload with every passage at its limit."""
        return dataclasses.replace(self, passage_tokens=None, passage_lengths=None)


def of_training(model: atlas.AtlasConfig, run: dict[str, Any]) -> Workload:
    """Returns the workload of train.train's arguments.

    Raises:
      ConfigError: the run reads the examples' own passages, or a size is out of range.
    """
    data, source, options = run['data'], run['model'], run['run']
    _refuse_file_passages(data.use_file_passages)
    given = {
        name: run[name]
        for name in ('optimizer', 'distill', 'step', 'search', 'refresh')
        if run.get(name) is not None}
    inputs = _inputs(model, source)
    return Workload(model, batch_size=options.batch_size, mesh_shape=options.mesh_shape,
                    dropout_rate=options.dropout_rate, query_tokens=inputs.query_limit,
                    inputs=inputs, n_context=data.n_context,
                    excludes_own_passages=isinstance(source.task, _TASKS_ON_PASSAGES), **given)


def of_contrastive(retriever: contriever.ContrieverConfig, run: dict[str, Any]) -> Workload:
    """Returns the workload of train.train_retriever's arguments.

    Raises ConfigError: a size is out of range.
    """
    # The step has no reader, so any sizes do.
    reader = t5.T5Config(vocab_size=2, emb_dim=1, num_heads=1, head_dim=1, mlp_dim=1,
                         num_encoder_layers=1, num_decoder_layers=1)
    model = atlas.AtlasConfig(reader, retriever, n_context=0)
    # Omitted options have their defaults, as in a run.
    options, given = run['run'], {
        name: run[name]
        for name in ('optimizer', 'contrastive', 'step')
        if run.get(name) is not None}
    inputs = run['model'].inputs or model.inputs
    return Workload(model, 'contrastive', options.batch_size, n_context=0,
                    mesh_shape=options.mesh_shape, dropout_rate=options.dropout_rate, inputs=inputs,
                    query_tokens=inputs.query_limit,
                    from_questions=bool(run['data'].questions_file), **given)


def of_evaluation(model: atlas.AtlasConfig, run: dict[str, Any]) -> Workload:
    """Returns the workload of evaluate.evaluate's arguments; `model` replaces the configuration in
    the model's folder.

    Raises:
      ConfigError: the run reads the examples' own passages, or a size is out of range.
    """
    options, source = run['options'], run['model']
    inputs = _inputs(model, source)
    _refuse_file_passages(options.use_file_passages)
    closed_book = run['data'].index_dir is None
    n_context = 0 if closed_book else max(
        model.n_context if options.n_context is None else options.n_context, 1)
    kind = 'score' if isinstance(source.task, multiple_choice.MultipleChoiceTask) else 'answer'
    # A closed book has nothing to retrieve, and evaluation refuses retrieve_only; the answer step
    # is planned instead.
    if options.retrieve_only and not closed_book:
        kind = 'search'
    return Workload(model, kind=kind, batch_size=options.batch_size, n_context=n_context,
                    query_tokens=inputs.query_limit, inputs=inputs, step=options.step,
                    search=search_config.as_search_config(options.search),
                    decoding=options.decoding or decoding_lib.DecodingConfig(),
                    excludes_own_passages=isinstance(source.task, _TASKS_ON_PASSAGES))


def of_index_build(model: atlas.AtlasConfig, run: dict[str, Any]) -> Workload:
    """Returns the workload of api.build_index's arguments.

    Raises ConfigError for a dtype that an index cannot have.
    """
    return Workload(model, kind='index', inputs=run['model'].inputs or model.inputs,
                    index_dtype=run.get('dtype', 'float32'))


def of_store(workload: Workload, reader_lengths: np.ndarray,
             retriever_lengths: np.ndarray) -> Workload:
    """Returns the workload with the number, lengths and table width of a store's passages.

    Args:
      workload: the run.
      reader_lengths, retriever_lengths: [rows] int, tokens of each passage by the two tokenizers.
    """
    longest = max(
        int(np.max(lengths, initial=1)) for lengths in (reader_lengths, retriever_lengths))
    width = math.ceil(
        min(longest, workload.config.inputs.text_max_tokens) / _TABLE_STEP) * _TABLE_STEP
    return dataclasses.replace(
        workload, index_rows=max(len(reader_lengths), 1), table_tokens=width,
        passage_lengths=(_quantiles(reader_lengths), _quantiles(retriever_lengths)))


def _inputs(model: atlas.AtlasConfig, source: ModelSource) -> atlas.InputConfig:
    """Returns formats and limits; limits that are not set are the task's."""
    # The task of the model's folder is unknown here; most answer questions.
    task = source.task or qa.QATask()
    return (source.inputs or model.inputs).for_task(task.query_max_tokens, task.target_max_tokens)


def _refuse_file_passages(use_file_passages: bool) -> None:
    if use_file_passages:
        raise errors.ConfigError('use_file_passages is set: a step that reads the examples\' own '
                                 'passages is not planned. Plan it with an index of as many '
                                 'passages')


def _quantiles(lengths: np.ndarray) -> tuple[int, ...]:
    """Returns the sorted lengths, or _SAMPLE quantiles from the shortest to the longest, which give
    the same capacities.
    """
    # The workload is hashed and compared: 33 million lengths would be too many.
    ordered = np.sort(np.asarray(lengths, np.int64))
    places = np.linspace(0, len(ordered) - 1, min(len(ordered), _SAMPLE)).round().astype(np.int64)
    return tuple(ordered[places].tolist())


def host_bytes(workload: Workload) -> dict[str, float]:
    """Returns the bytes that each host keeps of the passages' tokens, by name; {} where the tokens
    lie on the devices.

    The ids of all passages follow each other on the disk, without padding. They are read from the
    system's cache while it has room.
    """
    if workload.search.tokens == 'device' or workload.n_context == 0 or workload.kind == 'index':
        return {}
    lengths = token_lengths(workload)
    # Each passage has its length, its title's length, and the place of its first token.
    sides = [lengths.reader_passages, lengths.retriever_passages]
    return {
        'token ids on its disk': workload.index_rows * _TOKEN_ID_BYTES *
        sum(float(np.mean(side)) for side in sides),
        'their places in its memory': workload.index_rows * len(sides) * (4 + 4 + 8.0)}


def token_lengths(workload: Workload) -> types.TokenLengths:
    """Returns the lengths that capacities are chosen from: a store's, a normal distribution's, or
    all limits.
    """
    inputs, queries = workload.config.inputs, np.full(1, workload.query_tokens)
    if workload.passage_lengths is not None:
        by_reader, by_retriever = workload.passage_lengths
        return types.TokenLengths(np.asarray(by_reader), np.asarray(by_retriever), queries)
    if workload.passage_tokens is not None:
        mean, deviation = workload.passage_tokens
        passages = np.clip(
            np.random.default_rng(0).normal(mean, deviation, _SAMPLE), 1,
            inputs.text_max_tokens).astype(np.int64)
        # Questions are about half as long as their limit.
        queries = np.full(1, min(workload.query_tokens, inputs.query_limit) // 2)
    else:
        passages = np.full(1, inputs.text_max_tokens)
    return types.TokenLengths(passages, passages, queries)
