"""What is planned: a training run's sizes, and its arguments as shapes with shardings. Nothing here allocates an array."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax import errors, partitioning, types
from atlas_jax.models import atlas
from atlas_jax.searchers.config import SearchConfig
from atlas_jax.tokenizers import formats
from atlas_jax.training import optimizer as optimizer_lib
from atlas_jax.training import spec as spec_lib
from atlas_jax.training import state as state_lib
from atlas_jax.training import step_config, train_step

INDEX_DTYPES = ('float32', 'bfloat16', 'int8')
_SAMPLE = 20_000  # passage lengths drawn from a mean and a deviation


@dataclasses.dataclass(frozen=True)
class Workload:
    """A training run as far as its program depends on it.

    Attributes:
      model: sizes and formats.
      batch_size: examples of a micro-batch, as RunConfig.batch_size.
      n_context: passages read; 0 is a closed book.
      index_rows: passages of the index, which lies on the devices.
      index_dtype: float32, bfloat16 or int8.
      table_tokens: width of the passages' token tables, a multiple of 128.
      query_tokens: width of the queries.
      passage_tokens: (mean, standard deviation) of the passages' tokens, titles included; None: every input is at its limit.
      passage_lengths: token counts of a store's passages in place of that, [rows] int; not for gin.
      mesh_shape: (data, fsdp, model); None puts every device on fsdp.
      dropout_rate: None keeps the models' own.
      optimizer, distill, step, search, inputs: as in training; inputs None keeps the model's.
    """

    model: atlas.AtlasConfig
    batch_size: int = 64
    n_context: int = 20
    index_rows: int = 33_000_000
    index_dtype: str = 'bfloat16'
    table_tokens: int = 256
    query_tokens: int = 64
    passage_tokens: tuple[float, float] | None = None
    mesh_shape: tuple[int, int, int] | None = None
    dropout_rate: float | None = None
    optimizer: optimizer_lib.OptimizerConfig = optimizer_lib.OptimizerConfig()
    distill: spec_lib.DistillConfig = spec_lib.DistillConfig()
    step: step_config.StepConfig = step_config.StepConfig()
    search: SearchConfig = SearchConfig()
    inputs: atlas.InputConfig | None = None
    passage_lengths: tuple[int, ...] | None = None

    def __post_init__(self):
        if self.index_dtype not in INDEX_DTYPES:
            raise errors.ConfigError(f'Workload.index_dtype is "{self.index_dtype}"; choose one of {", ".join(INDEX_DTYPES)}')
        for name, least in (('batch_size', 1), ('n_context', 0), ('index_rows', 1), ('query_tokens', 2)):
            if getattr(self, name) < least:
                raise errors.ConfigError(f'Workload.{name} is {getattr(self, name)}; it must be at least {least}')
        if self.table_tokens < 1 or self.table_tokens % 128:
            raise errors.ConfigError(f'Workload.table_tokens is {self.table_tokens}; it must be a multiple of 128')

    @property
    def config(self) -> atlas.AtlasConfig:
        """The model as the run configures it."""
        changes: dict[str, Any] = {'n_context': self.n_context, 'inputs': self.inputs or self.model.inputs}
        if self.dropout_rate is not None:
            changes |= {name: dataclasses.replace(getattr(self.model, name), dropout_rate=self.dropout_rate)
                        for name in ('reader', 'retriever')}
        return dataclasses.replace(self.model, **changes)

    @property
    def examples_an_update(self) -> int:
        return self.batch_size * self.step.accumulation_steps


def of_training(model: atlas.AtlasConfig, run: dict[str, Any], **index: Any) -> Workload:
    """The workload of train.train's arguments; `index` are fields of Workload that say what the index is."""
    given = {name: run[name] for name in ('optimizer', 'distill', 'step', 'search', 'inputs', 'n_context') if run.get(name) is not None}
    if given.get('n_context') == 0:
        index = {}
    inputs = given.get('inputs', model.inputs)
    options = run['run']
    return Workload(model, batch_size=options.batch_size, mesh_shape=options.mesh_shape, dropout_rate=options.dropout_rate,
                    query_tokens=inputs.query_max_tokens, **given, **index)


def stand_in_segments(inputs: atlas.InputConfig) -> atlas.Segments:
    """The formats as segments without a tokenizer: about a token every three characters of their literal text."""
    def encode(text: str) -> list[int]:
        return [3] * sum(math.ceil(len(word) / 3) for word in text.split())

    return atlas.Segments(
        reader=formats.cut_format(inputs.encoder_format, encode, suffix_ids=(1,)),
        closed_book=formats.cut_format(inputs.closed_book_format, encode, suffix_ids=(1,)),
        retriever=formats.cut_format(inputs.retriever_format, encode, prefix_ids=(2,), suffix_ids=(3,)))


def token_lengths(workload: Workload) -> spec_lib.TokenLengths:
    """What the capacities are chosen from: the store's lengths, a normal distribution, or everything at its limit."""
    inputs, queries = workload.config.inputs, np.full(1, workload.query_tokens)
    if workload.passage_lengths is not None:
        passages = np.asarray(workload.passage_lengths)
    elif workload.passage_tokens is not None:
        mean, deviation = workload.passage_tokens
        passages = np.clip(np.random.default_rng(0).normal(mean, deviation, _SAMPLE), 1, inputs.text_max_tokens).astype(np.int64)
        queries = np.full(1, min(workload.query_tokens, inputs.query_max_tokens) // 2)
    else:
        passages = np.full(1, inputs.text_max_tokens)
    return spec_lib.TokenLengths(passages, passages, queries)


def make_spec(workload: Workload, mesh: jax.sharding.Mesh) -> spec_lib.StepSpec:
    """The static side of the step, by the function that training calls. Raises ConfigError where the batch does not divide."""
    return spec_lib.make_spec(workload.config, stand_in_segments(workload.config.inputs), mesh, token_lengths(workload),
                              workload.batch_size, workload.distill, workload.step, workload.search)


def train_program(workload: Workload, mesh: jax.sharding.Mesh) -> tuple[Callable, tuple[Any, ...], spec_lib.StepSpec]:
    """The train step itself (train_step.make_train_step's function), its arguments as shapes with shardings, and its spec."""
    spec = make_spec(workload, mesh)
    return train_step.make_train_step(spec, workload.optimizer), arguments(workload, spec), spec


def arguments(workload: Workload, spec: spec_lib.StepSpec) -> tuple[Any, ...]:
    """The train step's arguments as shapes with shardings: (state, batch, knowledge)."""
    state = state_lib.abstract(spec, train_step.optimizer_for(spec, workload.optimizer))
    return state, batch(workload, spec.mesh), knowledge(workload, spec)


def batch(workload: Workload, mesh: jax.sharding.Mesh) -> types.Batch:
    """Shapes of a batch, micro-batches one after another."""
    examples, inputs = workload.examples_an_update, workload.config.inputs
    query, target = (examples, workload.query_tokens), (examples, inputs.target_max_tokens)
    fields = {'retriever_query_tokens': query, 'retriever_query_lengths': query[:1], 'reader_query_tokens': query,
              'reader_query_lengths': query[:1], 'decoder_target_tokens': target, 'decoder_loss_weights': target, 'example_ids': query[:1]}
    spread = train_step.batch_sharding(mesh)
    return types.Batch(**{name: jax.ShapeDtypeStruct(shape, jnp.float32 if name == 'decoder_loss_weights' else jnp.int32, sharding=spread)
                          for name, shape in fields.items()})


def knowledge(workload: Workload, spec: spec_lib.StepSpec) -> types.Knowledge | None:
    """Shapes of the index and of the token tables that the step needs; None in a closed book."""
    if spec.closed_book:
        return None
    mesh = spec.mesh
    rows = -(-workload.index_rows // mesh.size) * mesh.size

    def column(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=partitioning.sharding(mesh, 'passages', *(None,) * len(shape)))

    def table() -> types.TokenTable:
        return types.TokenTable(tokens=column(jnp.uint16, workload.table_tokens), title_lengths=column(jnp.int32),
                                lengths=column(jnp.int32))

    def arrays(dtype: str) -> types.IndexArrays:
        return types.IndexArrays(embeddings=column(jnp.dtype(dtype), spec.config.retriever.emb_dim), valid=column(jnp.bool_),
                                 scales=column(jnp.float32) if dtype == 'int8' else None)

    scans_copy = spec.search.scans_int8 and workload.index_dtype != 'int8'
    return types.Knowledge(index=arrays(workload.index_dtype), reader_table=table(),
                           retriever_table=table() if spec.needs_retriever_tokens else None,
                           scanned=arrays('int8') if scans_copy else None)
