"""The compiled steps themselves, and their arguments as shapes with shardings. Nothing here allocates an array.

Each is made by the function that its caller makes it by: train_step.make_train_step, answer_step.make_answer_step,
score_step.make_score_step, embed.embed_pack.
"""

import collections
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax import partitioning, types
from atlas_jax.index import embed
from atlas_jax.models import atlas, parameters
from atlas_jax.planning import slices
from atlas_jax.planning import workload as workload_lib
from atlas_jax.steps import answer as answer_step
from atlas_jax.steps import score as score_step
from atlas_jax.steps import spec as spec_lib
from atlas_jax.tokenizers import formats
from atlas_jax.training import state as state_lib
from atlas_jax.training import train_step

Workload = workload_lib.Workload
_PACKED_SAMPLE = 20_000  # passages that are packed to learn which shapes an index build runs, and how often


@dataclasses.dataclass(frozen=True)
class Step:
    """A jitted function and what it is called with.

    Attributes:
      run: the jitted function.
      arguments, static: what it is lowered with.
      parameters, optimizer, index, gradients: trees of shapes with shardings; what a chip holds of them.
      keys_values_bytes: of a chip, where the step makes them once for all layers.
      read_bytes: what a chip reads while it decodes, at least: the decoder's weights and the keys and values at every step.
      share: of the calls that are of this shape.
      items: examples or passages of a call, on all chips.
      copies: how many of it the slice runs side by side.
    """

    run: Any
    arguments: tuple[Any, ...]
    parameters: Any
    static: dict[str, Any] = dataclasses.field(default_factory=dict)
    optimizer: Any = ()
    index: Any = ()
    gradients: Any = ()
    keys_values_bytes: float = 0.0
    read_bytes: float = 0.0
    share: float = 1.0
    items: float = 0.0
    copies: int = 1

    def trace(self):
        """The traced program."""
        return self.run.trace(*self.arguments, **self.static)


def steps_of(workload: Workload, mesh: jax.sharding.Mesh, hosts: int = 1) -> list[Step]:
    """The step's shapes, the one that needs most memory last; more than one in an index build only, where a mesh is that of one host."""
    if workload.kind == 'index':
        return _index_steps(workload, mesh, hosts)
    return [{'train': _train_step, 'answer': _answer_step, 'score': _score_step}[workload.kind](workload, mesh)]


def mesh_of(workload: Workload, slice_: slices.Slice) -> tuple[jax.sharding.Mesh, int]:
    """The mesh that the step is compiled for, and how many of them the slice holds: an index is built by every host alone."""
    if workload.kind == 'index':
        host = slices.parse(slices.SMALLEST_FIRST[0])
        return embed.encoder_mesh(slices.devices(host)), slice_.chips // host.chips
    return partitioning.make_mesh(slices.check_mesh(workload.mesh_shape, slice_), slices.devices(slice_)), 1


def stand_in_segments(inputs: atlas.InputConfig) -> atlas.Segments:
    """The formats as segments without a tokenizer: about a token every three characters of their literal text."""
    def encode(text: str) -> list[int]:
        return [3] * sum(math.ceil(len(word) / 3) for word in text.split())

    return atlas.Segments(
        reader=formats.cut_format(inputs.encoder_format, encode, suffix_ids=(1,)),
        closed_book=formats.cut_format(inputs.closed_book_format, encode, suffix_ids=(1,)),
        retriever=formats.cut_format(inputs.retriever_format, encode, prefix_ids=(2,), suffix_ids=(3,)))


def make_spec(workload: Workload, mesh: jax.sharding.Mesh) -> spec_lib.StepSpec:
    """The static side of the step, by the function that training and answering call. Raises ConfigError where the batch does not divide."""
    step = workload.step if workload.trains else dataclasses.replace(workload.step, remat='none', accumulation_steps=1)
    return spec_lib.make_spec(workload.config, stand_in_segments(workload.config.inputs), mesh, workload_lib.token_lengths(workload),
                              workload.batch_size, workload.distill if workload.trains else None, step, workload.search)


def _train_step(workload: Workload, mesh: jax.sharding.Mesh) -> Step:
    spec = make_spec(workload, mesh)
    state, _, knowledge, *_ = arguments = train_arguments(workload, spec)
    return Step(train_step.make_train_step(spec, workload.optimizer), arguments, (state.params, state.passage_encoder),
                optimizer=state.optimizer_state, index=knowledge, gradients=state.params, items=workload.examples_a_step)


def _answer_step(workload: Workload, mesh: jax.sharding.Mesh) -> Step:
    spec = make_spec(workload, mesh)
    return _reading_step(workload, spec, answer_step.make_answer_step(spec, workload.decoding))


def _score_step(workload: Workload, mesh: jax.sharding.Mesh) -> Step:
    spec = make_spec(workload, mesh)
    return _reading_step(workload, spec, score_step.make_score_step(spec))


def _reading_step(workload: Workload, spec: spec_lib.StepSpec, run: Any) -> Step:
    params, _, knowledge, *_ = arguments = answer_arguments(workload, spec)
    reader, capacity = spec.config.reader, spec.read[-1]
    size = jnp.dtype(spec.step.compute_dtype or reader.dtype).itemsize
    # One stream a chip: its passages' rows, each as wide as the longest.
    positions = workload.batch_size // spec.streams * spec.passages_read * capacity.longest
    keys_values = 2.0 * size * reader.num_decoder_layers * positions * reader.num_heads * reader.head_dim
    decoded = (workload.decoding.max_length or workload.config.inputs.target_max_tokens + 1) - 1 if workload.kind == 'answer' else 1
    weights = size * sum(leaf.size for leaf in jax.tree.leaves(params['reader']['decoder']))
    return Step(run, arguments, params, index=knowledge, keys_values_bytes=keys_values, read_bytes=decoded * (weights + keys_values),
                items=workload.examples_a_step)


def train_arguments(workload: Workload, spec: spec_lib.StepSpec) -> tuple[Any, ...]:
    """The train step's arguments as shapes with shardings: (state, batch, knowledge), and what the host has found where it searches."""
    state = state_lib.abstract(spec, train_step.optimizer_for(spec, workload.optimizer))
    return state, batch(workload, spec.mesh), knowledge(workload, spec), *_found(workload, spec)


def answer_arguments(workload: Workload, spec: spec_lib.StepSpec) -> tuple[Any, ...]:
    """The arguments of an answer or score step likewise, with params in place of the state."""
    params = parameters.abstract_param_items(spec.config, spec.mesh, passage_encoder=False)
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, spec.step.param_type, sharding=leaf.sharding), params)
    return params, batch(workload, spec.mesh), knowledge(workload, spec), *_found(workload, spec)


def _found(workload: Workload, spec: spec_lib.StepSpec) -> tuple[types.Retrieved, ...]:
    if spec.closed_book or not spec.search.on_host:
        return ()
    shape, spread = (workload.examples_a_step, spec.candidates), partitioning.sharding(spec.mesh, 'batch')
    return (types.Retrieved(scores=jax.ShapeDtypeStruct(shape, jnp.float32, sharding=spread),
                            passage_ids=jax.ShapeDtypeStruct(shape, jnp.int32, sharding=spread)),)


def batch(workload: Workload, mesh: jax.sharding.Mesh) -> types.Batch:
    """Shapes of a batch, micro-batches one after another."""
    examples, inputs = workload.examples_a_step, workload.config.inputs
    query, target = (examples, workload.query_tokens), (examples, inputs.target_max_tokens)
    shapes = {'retriever_query_tokens': query, 'retriever_query_lengths': query[:1], 'reader_query_tokens': query,
              'reader_query_lengths': query[:1], 'decoder_target_tokens': target, 'decoder_loss_weights': target, 'example_ids': query[:1]}
    if workload.kind == 'score':
        shapes |= dict.fromkeys(('choice_tokens', 'choice_weights'), (examples, *workload_lib.CHOICES))
    if workload.excludes_own_passages:
        shapes['excluded_passage_ids'] = (examples, 1)
    spread = partitioning.sharding(mesh, 'batch')
    return types.Batch(**{name: jax.ShapeDtypeStruct(shape, jnp.float32 if name.endswith('_weights') else jnp.int32, sharding=spread)
                          for name, shape in shapes.items()})


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
    return types.Knowledge(index=arrays(workload.index_dtype) if spec.needs_embeddings else None, reader_table=table(),
                           retriever_table=table() if spec.needs_retriever_tokens else None,
                           # As wide as the index: what the principal components save is known of real embeddings only.
                           scanned=types.ScannedRows(arrays('int8')) if scans_copy else None)


def _index_steps(workload: Workload, mesh: jax.sharding.Mesh, hosts: int) -> list[Step]:
    """The shapes of packs that passages of these lengths come in, by how wide they are."""
    limit, segments = workload.config.retriever_max_tokens, stand_in_segments(workload.config.inputs).retriever
    lengths, _ = spec_lib.embedded_lengths(segments, workload_lib.token_lengths(workload), limit)
    lengths = np.resize(lengths.astype(np.int64), _PACKED_SAMPLE)
    stream_tokens = embed.default_tokens_per_batch('tpu', limit)
    packs: dict[tuple[int, int], list[int]] = collections.defaultdict(list)  # passages of each pack, by shape
    for pack in embed.pack_passages(lengths, mesh.size, stream_tokens, limit):
        packs[pack.longest, pack.members.shape[1]].append(int((pack.members >= 0).sum()))
    calls = sum(len(counts) for counts in packs.values())
    return [dataclasses.replace(index_step(workload, mesh, longest, capacity), share=len(counts) / calls, copies=hosts,
                                items=hosts * float(np.mean(counts))) for (longest, capacity), counts in sorted(packs.items())]


def index_step(workload: Workload, mesh: jax.sharding.Mesh, longest: int, capacity: int) -> Step:
    """The embedding of one pack, `capacity` passages of at most `longest` tokens on each chip of a host."""
    config = dataclasses.replace(workload.config.retriever, dropout_rate=0.0)
    limit, spread = workload.config.retriever_max_tokens, partitioning.sharding(mesh, 'streams')

    def column(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((mesh.size, capacity, *shape), dtype, sharding=spread)

    everywhere = partitioning.replicated(mesh)
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere),
                          partitioning.unboxed_shapes(parameters.abstract_params(workload.config))['retriever'])
    table = types.TokenTable(tokens=column(jnp.uint16, workload.table_tokens), title_lengths=column(jnp.int32), lengths=column(jnp.int32))
    static = {'config': config, 'segments': stand_in_segments(workload.config.inputs).retriever,
              'stream_tokens': embed.default_tokens_per_batch('tpu', limit), 'longest': longest, 'mesh': mesh}
    return Step(embed.embed_pack, (params, table, column(jnp.bool_)), params, static=static)
