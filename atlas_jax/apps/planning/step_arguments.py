"""Arguments of the planned steps as shapes with shardings. Nothing here allocates an array."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax import partitioning, types
from atlas_jax.apps.planning import workload as workload_lib
from atlas_jax.knowledge import index_with_store as knowledge_index
from atlas_jax.models import parameters
from atlas_jax.nn import layer_scan
from atlas_jax.searchers import code as code_lib
from atlas_jax.searchers import codes as codes_lib
from atlas_jax.steps import spec as spec_lib
from atlas_jax.training import state as state_lib
from atlas_jax.training import train_step

Workload = workload_lib.Workload
# Makes the shape of an array from its dtype and its last sizes.
Column = Callable[..., Any]


def columns(shape: tuple[int, ...], sharding: jax.sharding.Sharding) -> Column:
    """Returns a function (dtype, *sizes) that makes ShapeDtypeStructs [*shape, *sizes].

    They are typed as Any: jax traces and lowers with them where our types name arrays.
    """
    def column(dtype: Any, *sizes: int) -> Any:
        return jax.ShapeDtypeStruct((*shape, *sizes), dtype, sharding=sharding)
    return column


def token_table(column: Column, width: int) -> types.TokenTable:
    """Returns the shapes of a token table whose rows hold `width` tokens."""
    return types.TokenTable(tokens=column(jnp.uint16, width), title_lengths=column(jnp.int32),
                            lengths=column(jnp.int32))


def chip_bytes(tree: Any) -> float:
    """Returns the bytes of one chip's shards of a tree of shapes with shardings."""
    return float(sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) *
                     np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree)))


def train_arguments(workload: Workload, spec: spec_lib.StepSpec) -> tuple[Any, ...]:
    """Returns the train step's arguments: a TrainState, a Batch, and Knowledge or None.

    Retrieved follows where the host searches or reads the found passages.
    """
    state = state_lib.abstract(spec, train_step.optimizer_for(spec, workload.optimizer))
    return state, batch(workload, spec.mesh), knowledge(workload, spec), *_retrieved(workload, spec)


def answer_arguments(workload: Workload, spec: spec_lib.StepSpec) -> tuple[Any, ...]:
    """Returns the arguments of a step that answers, scores or searches: those of the train step,
    with parameters in place of the state.
    """
    params = parameters.abstract_param_items(spec.config, spec.mesh, passage_encoder=False)
    params = jax.tree.map(
        lambda leaf: columns(leaf.shape, leaf.sharding)(spec.step.param_type), params)
    # AtlasModel.device_params unstacks the layers on one CPU. A search before an update takes the
    # parameters of the training state instead.
    if workload.kind != 'train' and partitioning.is_one_cpu(spec.mesh):
        everywhere = partitioning.replicated(spec.mesh)
        params = jax.tree.map(lambda leaf: columns(leaf.shape, everywhere)(leaf.dtype),
                              layer_scan.unstack_layers(params))
    return (params, batch(workload, spec.mesh), knowledge(workload, spec),
            *_retrieved(workload, spec))


def _retrieved(workload: Workload, spec: spec_lib.StepSpec) -> tuple[types.Retrieved, ...]:
    """The argument for passages that the host found or read; () where the step needs none."""
    if spec.closed_book or not (spec.search.on_host or spec.tokens_on_host):
        return ()
    examples = workload.examples_a_step
    column = columns((examples, spec.candidates), partitioning.batch_sharding(spec.mesh, examples))

    def rows(needed: bool) -> types.TokenTable | None:
        return token_table(column, workload.table_tokens) if needed else None

    return (types.Retrieved(
        scores=column(jnp.float32), passage_ids=column(jnp.int32),
        reader_rows=rows(spec.tokens_on_host),
        retriever_rows=rows(spec.tokens_on_host and spec.needs_retriever_tokens)), )


def batch(workload: Workload, mesh: jax.sharding.Mesh) -> types.Batch:
    """Returns the shapes of a batch. Micro-batches follow each other."""
    examples, inputs = workload.examples_a_step, workload.config.inputs
    query, target = (workload.query_tokens, ), (inputs.target_limit, )
    sizes: dict[str, tuple[int, ...]] = {
        'retriever_query_tokens': query, 'retriever_query_lengths': (),
        'reader_query_tokens': query, 'reader_query_lengths': (), 'decoder_target_tokens': target,
        'decoder_loss_weights': target, 'example_ids': ()}
    if workload.kind == 'score':
        sizes |= dict.fromkeys(('choice_tokens', 'choice_weights'), workload_lib.CHOICES)
    if workload.excludes_own_passages:
        sizes['excluded_passage_ids'] = (1, )
    column = columns((examples, ), partitioning.batch_sharding(mesh, examples))
    return types.Batch(**{
        name: column(jnp.float32 if name.endswith('_weights') else jnp.int32, *size)
        for name, size in sizes.items()})


def knowledge(workload: Workload, spec: spec_lib.StepSpec) -> types.Knowledge | None:
    """Returns the shapes of the index and of the token tables that the step needs; None for a
    closed book.
    """
    if spec.closed_book:
        return None
    mesh = spec.mesh
    rows = knowledge_index.padded_rows(workload.index_rows, mesh, room=not workload.trains)
    column = columns((rows, ), partitioning.sharding(mesh, 'passages'))

    def table(needed: bool) -> types.TokenTable | None:
        return token_table(column, workload.table_tokens) if needed else None

    def arrays(dtype: str) -> types.IndexArrays:
        return types.IndexArrays(
            embeddings=column(jnp.dtype(dtype), spec.config.retriever.embedding_dim),
            valid=column(jnp.bool_), scales=column(jnp.float32) if dtype == 'int8' else None)

    scans_copy = spec.search.scans_int8 and workload.index_dtype != 'int8'
    codes_in_graph = spec.search.scans_codes and not spec.search.on_host
    return types.Knowledge(
        index=arrays(workload.index_dtype) if spec.needs_embeddings else None,
        reader_table=table(not spec.tokens_on_host),
        retriever_table=table(not spec.tokens_on_host and spec.needs_retriever_tokens),
        # As wide as the index: only real embeddings show how many principal components a scan
        # needs.
        scanned=types.ScannedRows(arrays('int8')) if scans_copy else None,
        codes=codes(workload, mesh) if codes_in_graph else None)


def codes(workload: Workload, mesh: jax.sharding.Mesh) -> types.Codes:
    """Returns the shapes of an index's codes."""
    rows = knowledge_index.padded_rows(workload.index_rows, mesh, room=not workload.trains)
    bits = left = 8 * workload.code_bytes
    # Half of the bits are first bits of a component, half of the rest second bits, and so on. Real
    # embeddings get about as many.
    planes: list[int] = []
    while left and len(planes) < code_lib.MOST_BITS - 1:
        planes.append(-(-left // 2))
        left -= planes[-1]
    planes += [left] if left else []
    groups = codes_lib.device_groups(rows, mesh) * mesh.size
    words, factors, turn = (jax.sharding.NamedSharding(mesh, spec)
                            for spec in codes_lib.layout(mesh))
    return types.Codes(
        columns((groups, bits), words)(jnp.uint32),
        columns((codes_lib.BLOCK, 2 * groups), factors)(jnp.float32),
        columns((workload.config.retriever.embedding_dim, planes[0]), turn)(jnp.float32),
        tuple(planes), rows)


def scanned_bytes(index: types.Knowledge | None) -> float:
    """Returns the bytes of the rows that a chip scans in a search: codes, else the int8 copy, else
    the index's embeddings.
    """
    if index is None:
        return 0.0
    if index.codes is not None:
        return chip_bytes((index.codes.words, index.codes.factors))
    arrays = index.index if index.scanned is None else index.scanned.rows
    return 0.0 if arrays is None else chip_bytes(arrays.embeddings)
