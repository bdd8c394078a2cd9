"""The programs of each kind of step, with their arguments as shapes.

Training, answering, scoring, searching and index building make their steps with the same
functions, so a plan describes the program that runs.
"""

import collections
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax import errors, partitioning, types
from atlas_jax.apps.planning import pair_lengths, slices, step_arguments
from atlas_jax.apps.planning import workload as workload_lib
from atlas_jax.apps.planning.step_arguments import chip_bytes, columns
from atlas_jax.index import embed
from atlas_jax.models import atlas, parameters
from atlas_jax.searchers import codes_on_host
from atlas_jax.steps import answer as answer_step
from atlas_jax.steps import score as score_step
from atlas_jax.steps import search as search_step
from atlas_jax.steps import spec as spec_lib
from atlas_jax.tokenizers import formats
from atlas_jax.training import contrastive, contrastive_step, train_step
from atlas_jax.training import model_flops as model_flops_lib
from atlas_jax.training import state as state_lib

Workload = workload_lib.Workload
Params = Any  # a tree of shapes with shardings, nested as flax nests parameters
# This many passages are packed to learn which shapes of packs an index build runs, and how often.
_PACKED_SAMPLE = 20_000
# A token stands for this many characters of a format's literal text, because there is no tokenizer.
# English has about four.
_CHARACTERS_A_TOKEN = 3
_ANY_ID = 3  # token ids are compiled in as constants; their values change no cost


@dataclasses.dataclass(frozen=True)
class PlannedStep:
    """A jitted function and the arguments it is lowered with. Bytes are those of one chip.

    Attributes:
      run: the jitted function.
      arguments: positional arguments, trees of shapes with shardings.
      parameters: weights among the arguments.
      static: keyword arguments that are compiled in.
      optimizer: optimizer state among the arguments.
      index: the index and the passages' tokens among the arguments.
      gradients: a tree shaped like the trained parameters.
      keys_values_bytes: keys and values that the step computes once for all decoder layers.
      read_bytes: the least that is read from memory: the decoder's weights, keys and values for
        every token of an answer, or the index for a search.
      share: share of this shape among the calls of a run.
      items: examples or passages of a call, on all chips.
      copies: calls that the slice runs side by side.
      beside_bytes: memory in use during the call that is not among the arguments.
      codes: the index's codes on the devices, among the arguments or beside them.
      every_call: True for a program that runs before the last step in every call. False for the
        last step, and for its other shapes.
    """

    run: Any
    arguments: tuple[Any, ...]
    parameters: Params
    static: dict[str, Any] = dataclasses.field(default_factory=dict)
    optimizer: Any = ()
    index: types.Knowledge | None = None
    gradients: Params | None = None
    keys_values_bytes: float = 0.0
    read_bytes: float = 0.0
    share: float = 1.0
    items: float = 0.0
    copies: int = 1
    beside_bytes: float = 0.0
    codes: types.Codes | None = None
    every_call: bool = False

    def trace(self) -> jax.stages.Traced:
        """Returns the program, traced again."""
        return self.run.trace(*self.arguments, **self.static)

    @functools.cached_property
    def traced(self) -> jax.stages.Traced:
        """The program, traced once."""
        return self.trace()


@dataclasses.dataclass(frozen=True)
class StepKind:
    """One kind of step.

    Attributes:
      call, item: names of a call and of its items in the printed plan.
      programs: makes the programs of a call on a mesh, the one that needs the most memory last.
      model_flops: counts the FLOPs of an update on real tokens; None for a step without training.
    """

    call: str
    item: str
    programs: Callable[[Workload, jax.sharding.Mesh], list[PlannedStep]]
    model_flops: Callable[[Workload, jax.sharding.Mesh], float] | None = None


def steps_of(workload: Workload, mesh: jax.sharding.Mesh, hosts: int = 1) -> list[PlannedStep]:
    """Returns the programs of a run, the one that needs the most memory last.

    An index build has one program for each shape of pack. Two programs make up a host's search
    with re-ranking, and a step whose passages the host reads after a search in the graph. Codes
    that the host rescores take two programs before all others. Other steps have one.

    Args:
      workload: the run.
      mesh: the slice's devices; those of one host for an index build.
      hosts: hosts that build an index side by side.

    Raises:
      ConfigError: the batch does not divide over the mesh, or the search compiles nothing.
    """
    return [dataclasses.replace(step, copies=hosts, items=hosts * step.items)
            for step in KINDS[workload.kind].programs(workload, mesh)]


def model_flops(workload: Workload, mesh: jax.sharding.Mesh) -> float:
    """Returns the FLOPs of an update that a run counts for its utilisation: on real tokens, without
    padding and recomputation. 0 for a step that does not train.
    """
    counted = KINDS[workload.kind].model_flops
    return 0.0 if counted is None else counted(workload, mesh)


def mesh_of(workload: Workload, slice_: slices.Slice) -> tuple[jax.sharding.Mesh, int]:
    """Returns the mesh that the step is compiled for, and how many such meshes the slice holds: one
    for each host of an index build, else one.
    """
    if workload.kind == 'index':
        # Every process embeds and writes its own shards of an index, and no pack spans two hosts.
        host = slice_.host
        return embed.encoder_mesh(slices.devices(host)), slice_.chips // host.chips
    return partitioning.make_mesh(slices.check_mesh(workload.mesh_shape, slice_),
                                  slices.devices(slice_)), 1


def stand_in_segments(config: atlas.AtlasConfig) -> atlas.Segments:
    """Returns the formats as segments without a tokenizer: one token for every three characters of
    their literal text.
    """
    def encode(text: str) -> list[int]:
        return [_ANY_ID] * sum(math.ceil(len(word) / _CHARACTERS_A_TOKEN) for word in text.split())

    end = (_ANY_ID, )
    return atlas.Segments(
        reader=formats.cut_format(config.inputs.encoder_format, encode, suffix_ids=end),
        closed_book=formats.cut_format(config.inputs.closed_book_format, encode, suffix_ids=end),
        retriever=formats.cut_format(config.passage_format, encode, prefix_ids=(_ANY_ID, ),
                                     suffix_ids=end, borders=formats.PUNCTUATION))


def make_planned_spec(workload: Workload, mesh: jax.sharding.Mesh) -> spec_lib.StepSpec:
    """Returns the static side of the step, made as training and answering make it.

    Raises ConfigError if the batch does not divide.
    """
    # Evaluation uses the dtypes of a StepConfig and ignores its memory layout.
    step = workload.step if workload.trains else dataclasses.replace(workload.step, remat='auto',
                                                                     accumulation_steps=1)
    return spec_lib.make_step_spec(workload.config, stand_in_segments(workload.config), mesh,
                                   workload_lib.token_lengths(workload), workload.batch_size,
                                   workload.distill if workload.trains else None, step,
                                   workload.search, workload.lower_for)


def passages_together(workload: Workload) -> frozenset[int]:
    """Returns how many passages an example has in each kind of stream of the step
    (StepSpec.passages_together). No mesh is needed.
    """
    nowhere: Any = partitioning.make_abstract_mesh((1, ) * len(partitioning.MESH_AXES))
    return spec_lib.StepSpec(workload.config, stand_in_segments(workload.config), nowhere, read=(),
                             distill=workload.distill if workload.trains else None,
                             search=workload.search).passages_together


# ---- joint training


def _train_programs(workload: Workload, mesh: jax.sharding.Mesh) -> list[PlannedStep]:
    spec = make_planned_spec(workload, mesh)
    arguments = step_arguments.train_arguments(workload, spec)
    state, index = arguments[0], arguments[2]
    # A plan compiles one rematerialisation at a time.
    one_remat = dataclasses.replace(spec,
                                    step=dataclasses.replace(spec.step, remat=spec.remat[0]))
    step = PlannedStep(train_step.make_train_step(one_remat, workload.optimizer), arguments,
                       (state.params, state.passage_encoder), optimizer=state.optimizer_state,
                       index=index, gradients=state.params, items=workload.examples_a_step)
    return _after_search(workload, spec, step)


def _train_flops(workload: Workload, mesh: jax.sharding.Mesh) -> float:
    spec = make_planned_spec(workload, mesh)
    lengths, examples = workload_lib.token_lengths(workload), workload.batch_size
    config = workload.config
    queries = np.resize(lengths.reader_queries, examples)

    def passages(known: np.ndarray) -> np.ndarray:
        return _spread(known, examples, max(spec.top_k, 1))

    read = queries[:, None] if spec.closed_book else np.minimum(
        passages(lengths.reader_passages) + queries[:, None], config.inputs.text_max_tokens)
    embedded = np.minimum(passages(lengths.retriever_passages),
                          config.retriever_max_tokens)[:, :spec.passages_scored]
    given = step_arguments.batch(workload, mesh).replace(
        decoder_loss_weights=jnp.ones((examples, config.inputs.target_max_tokens)),
        retriever_query_lengths=jnp.asarray(queries))
    assembled = types.ReaderInputs(reader_tokens=jnp.zeros(0), reader_lengths=jnp.asarray(read),
                                   retriever_lengths=jnp.asarray(embedded))
    return workload.step.accumulation_steps * float(model_flops_lib.of_step(spec, given, assembled))


def _spread(lengths: np.ndarray, *shape: int) -> np.ndarray:
    """Returns lengths [*shape], taken at even distances: known lengths may be sorted."""
    places = np.linspace(0, len(lengths) - 1, math.prod(shape)).astype(np.int64)
    return lengths[places].reshape(shape)


# ---- training a retriever alone


def _contrastive_programs(workload: Workload, mesh: jax.sharding.Mesh) -> list[PlannedStep]:
    spec = _contrastive_spec(workload, mesh)
    spec = dataclasses.replace(spec, step=dataclasses.replace(spec.step, remat=spec.remat[0]))
    state = state_lib.abstract_contrastive(spec, contrastive_step.optimizer_for(workload.optimizer))
    examples, (query_width, passage_width) = workload.batch_size, _pair_lengths(workload).widths
    column = columns((examples, ), partitioning.batch_sharding(mesh, examples))
    each = spec.passages_each
    sizes: dict[str, tuple[int, ...]] = {
        'query_tokens': (query_width, ), 'query_lengths': (),
        'passage_tokens': (each, passage_width), 'passage_lengths': (each, ),
        'identities': (each, ), 'positives': (1, ), 'example_ids': ()}
    given = types.ContrastiveBatch(
        **{name: column(jnp.int32, *size) for name, size in sizes.items()})
    return [PlannedStep(contrastive_step.make_contrastive_step(spec, workload.optimizer),
                        (state, given), (state.params, state.momentum_encoder),
                        optimizer=(state.optimizer_state, state.queue), gradients=state.params,
                        items=examples)]


def _contrastive_flops(workload: Workload, mesh: jax.sharding.Mesh) -> float:
    pairs, examples = _pair_lengths(workload), workload.batch_size
    queries = jnp.asarray(_spread(pairs.queries, examples))
    passages = jnp.asarray(_spread(pairs.passages, examples, pairs.passages_each))
    drawn = types.ContrastiveBatch(queries, queries, passages, passages, passages, passages,
                                   queries)
    return float(contrastive_step.flops_of(_contrastive_spec(workload, mesh), drawn))


def _contrastive_spec(workload: Workload, mesh: jax.sharding.Mesh) -> contrastive.ContrastiveSpec:
    pairs = _pair_lengths(workload)
    return contrastive.make_contrastive_spec(
        workload.config.retriever, mesh, (pairs.queries, pairs.passages), pairs.widths,
        workload.batch_size, workload.contrastive, workload.step,
        passages_each=pairs.passages_each, lower_for=workload.lower_for)


def _pair_lengths(workload: Workload) -> pair_lengths.PairLengths:
    return pair_lengths.pair_lengths(workload, stand_in_segments(workload.config).retriever)


# ---- answering and scoring


def _reading_programs(workload: Workload, mesh: jax.sharding.Mesh) -> list[PlannedStep]:
    spec = make_planned_spec(workload, mesh)
    run = score_step.make_score_step(spec) if workload.kind == 'score' else (
        answer_step.make_answer_step(spec, workload.decoding))
    arguments = step_arguments.answer_arguments(workload, spec)
    params, index = arguments[0], arguments[2]
    reader, capacity = spec.config.reader, spec.read[-1]
    size = jnp.dtype(spec.step.compute_dtype or reader.dtype).itemsize
    # Every chip holds one stream, whose rows are as wide as the longest passage. Each decoder layer
    # has two arrays, keys and values.
    positions = workload.batch_size * spec.passages_read // spec.streams * capacity.longest
    keys_values = (2.0 * size * reader.num_decoder_layers * positions * reader.num_heads *
                   reader.head_dim)
    # max_length counts the start token, which is given and not decoded.
    decoded = (workload.decoding.max_length
               or workload.config.inputs.target_limit + 1) - 1 if workload.kind == 'answer' else 1
    weights = size * sum(leaf.size for leaf in jax.tree.leaves(params['reader']['decoder']))
    step = PlannedStep(run, arguments, params, index=index, keys_values_bytes=keys_values,
                       read_bytes=decoded * (weights + keys_values), items=workload.examples_a_step)
    return _after_search(workload, spec, step)


# ---- searching, alone or before another step


def _search_programs(workload: Workload, mesh: jax.sharding.Mesh) -> list[PlannedStep]:
    """The search alone: in the graph, or on the host between the queries' embedding and the
    re-ranking of candidates.
    """
    spec = make_planned_spec(workload, mesh)
    search, retriever = _graph_search(workload, spec)
    if not spec.search.on_host:
        reads_tokens = spec.tokens_on_host and spec.reranked
        return _after_search(workload, spec, search) if reads_tokens else [search]
    programs = []
    if _scans_before(spec):
        programs = _scanning(workload, spec, retriever)
    elif spec.search.searcher != 'bm25':
        programs = [_query_embedding(workload, spec, retriever)]
    if spec.reranked:
        programs.append(search)
    if not programs:
        raise errors.ConfigError('SearchConfig.searcher is "bm25": this search runs on the host '
                                 'alone and compiles nothing. Plan another searcher, or set '
                                 'rerank_candidates')
    # All programs run once a batch, so its examples count in one of them.
    return [*(dataclasses.replace(each, items=0.0) for each in programs[:-1]),
            dataclasses.replace(programs[-1], items=workload.examples_a_step)]


def _graph_search(workload: Workload, spec: spec_lib.StepSpec,
                  alone: bool = False) -> tuple[PlannedStep, Params]:
    """Returns the search program and the retriever's parameters; `alone` leaves out re-ranking of
    passages that the host has read.
    """
    params, queries, index, *found = step_arguments.answer_arguments(workload, spec)
    # The program does not use the reader, and the compiler would not count it.
    retriever = {'retriever': params['retriever']}
    again = spec.reranked and (spec.search.on_host or spec.tokens_on_host) and not alone
    return PlannedStep(
        search_step.search_step(search_step.alone(spec) if alone else spec),
        (retriever, queries, index, *(found if again else ())), retriever, index=index,
        read_bytes=0.0 if again else step_arguments.scanned_bytes(index),
        items=workload.examples_a_step), retriever


def _query_embedding(workload: Workload, spec: spec_lib.StepSpec, retriever: Params) -> PlannedStep:
    queries = step_arguments.batch(workload, spec.mesh)
    return PlannedStep(search_step.query_embedder(spec), (retriever['retriever'], queries),
                       retriever)


def _after_search(workload: Workload, spec: spec_lib.StepSpec,
                  step: PlannedStep) -> list[PlannedStep]:
    """Returns the step and the search programs that run before it. Each program has the arguments
    of the others beside it.
    """
    if _scans_before(spec):
        scanning = _scanning(workload, spec, (step.parameters, step.optimizer, step.index))
        codes = scanning[-1].codes
        return [*scanning, dataclasses.replace(step, codes=codes, beside_bytes=chip_bytes(codes))]
    if not spec.tokens_on_host or spec.search.on_host:
        return [step]
    search, retriever = _graph_search(workload, spec, alone=True)
    # The search takes the query encoder alone; the step's other weights and moments lie beside it.
    held = chip_bytes((step.parameters, step.optimizer)) - chip_bytes(retriever)
    # The compiler leaves out arguments that a program does not use, here the index. It stays in
    # memory all the same.
    beside = 0.0 if spec.keeps_passage_encoder else chip_bytes(search.index)
    return [dataclasses.replace(search, items=0.0, beside_bytes=held, every_call=True),
            dataclasses.replace(step, beside_bytes=beside)]


def _scans_before(spec: spec_lib.StepSpec) -> bool:
    """Tells if a program of its own scans codes, between the queries' embedding and the host's
    scores.
    """
    return (not spec.closed_book and spec.search.on_host and spec.search.scans_codes and
            spec.search.rescore == 'host')


def _scanning(workload: Workload, spec: spec_lib.StepSpec, held: Any) -> list[PlannedStep]:
    """The queries' embedding and the scan of codes, beside the tree of shapes that is `held` on the
    devices.
    """
    params = step_arguments.answer_arguments(workload, spec)[0]
    retriever = {'retriever': params['retriever']}
    codes = step_arguments.codes(workload, spec.mesh)
    queries = columns((workload.examples_a_step, ), partitioning.replicated(spec.mesh))(
        jnp.float32, spec.config.retriever.embedding_dim)
    static = {
        'candidates': max(spec.search.rescore_candidates, spec.candidates), 'mesh': spec.mesh,
        'metric': spec.search.metric}
    embedding = _query_embedding(workload, spec, retriever)
    beside = chip_bytes(held) - chip_bytes(retriever) + chip_bytes(codes)
    return [
        dataclasses.replace(embedding, every_call=True, beside_bytes=beside),
        PlannedStep(codes_on_host.find, (codes, queries), retriever, static,
                    read_bytes=chip_bytes((codes.words, codes.factors)), codes=codes,
                    every_call=True, beside_bytes=chip_bytes(held))]


# ---- building an index


def _index_programs(workload: Workload, mesh: jax.sharding.Mesh) -> list[PlannedStep]:
    """The shapes of packs that passages of these lengths come in, narrowest first."""
    config = workload.config
    limit = config.retriever_max_tokens
    lengths, _ = spec_lib.embedded_lengths(stand_in_segments(config).retriever,
                                           workload_lib.token_lengths(workload), limit)
    # A small sample is repeated: with few passages, packs that are not full would weigh too much.
    lengths = np.resize(lengths.astype(np.int64), _PACKED_SAMPLE)
    stream_tokens = embed.default_tokens_per_batch('tpu', limit)
    # passages of each pack, by shape
    packs: dict[tuple[int, int], list[int]] = collections.defaultdict(list)
    for pack in embed.pack_passages(lengths, mesh.size, stream_tokens, limit):
        packs[pack.longest, pack.members.shape[1]].append(int((pack.members >= 0).sum()))
    calls = sum(len(counts) for counts in packs.values())
    # The widest pack needs the most memory and comes last.
    return [dataclasses.replace(index_step(workload, mesh, longest, capacity),
                                share=len(counts) / calls, items=float(np.mean(counts)))
            for (longest, capacity), counts in sorted(packs.items())]


def index_step(workload: Workload, mesh: jax.sharding.Mesh, longest: int,
               capacity: int) -> PlannedStep:
    """Returns the embedding of one pack: `capacity` passages of at most `longest` tokens on each
    chip of a host.
    """
    limit = workload.config.retriever_max_tokens
    everywhere = partitioning.replicated(mesh)
    params = jax.tree.map(
        lambda leaf: columns(leaf.shape, everywhere)(leaf.dtype),
        partitioning.unboxed_shapes(parameters.abstract_params(workload.config))['retriever'])
    column = columns((mesh.size, capacity), partitioning.sharding(mesh, 'streams'))
    table = step_arguments.token_table(column, workload.table_tokens)
    static = {
        # The embedder drops the dropout rate too: models that differ in it share a program.
        'config': dataclasses.replace(workload.config.retriever, dropout_rate=0.0),
        'segments': stand_in_segments(workload.config).retriever,
        'stream_tokens': embed.default_tokens_per_batch('tpu', limit), 'longest': longest,
        'mesh': mesh}
    return PlannedStep(embed.embed_pack, (params, table, column(jnp.bool_)), params, static=static)


KINDS = {
    'train': StepKind('update', 'examples', _train_programs, _train_flops),
    'contrastive': StepKind('update', 'examples', _contrastive_programs, _contrastive_flops),
    'answer': StepKind('batch', 'questions', _reading_programs),
    'score': StepKind('batch', 'orders of a question', _reading_programs),
    'search': StepKind('batch', 'questions', _search_programs),
    'index': StepKind('pack', 'passages', _index_programs)}
