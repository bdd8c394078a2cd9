"""The planned steps, with their arguments as shapes with shardings. Nothing here allocates an array.

Training, answering, scoring, searching and index building make their steps by the same functions, so a plan is of the program that runs.
"""

import collections
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax import errors, partitioning, types
from atlas_jax.index import embed
from atlas_jax.knowledge import index as knowledge_index
from atlas_jax.models import atlas, parameters
from atlas_jax.nn import layer_scan
from atlas_jax.planning import pair_lengths, slices
from atlas_jax.planning import workload as workload_lib
from atlas_jax.searchers import code as code_lib
from atlas_jax.searchers import codes as codes_lib
from atlas_jax.searchers import codes_on_host
from atlas_jax.steps import answer as answer_step
from atlas_jax.steps import score as score_step
from atlas_jax.steps import search as search_step
from atlas_jax.steps import spec as spec_lib
from atlas_jax.tokenizers import formats
from atlas_jax.training import contrastive, contrastive_state, contrastive_step, train_step
from atlas_jax.training import model_flops as model_flops_lib
from atlas_jax.training import state as state_lib

Workload = workload_lib.Workload
Params = Any  # a tree of shapes with shardings, nested as flax nests parameters
_PACKED_SAMPLE = 20_000  # passages that are packed to learn which shapes an index build runs, and how often
_CHARACTERS_A_TOKEN = 3  # of a format's literal text, without a tokenizer; English has about four
_ANY_ID = 3  # token ids are compiled in as constants; which ones makes no difference


@dataclasses.dataclass(frozen=True)
class Step:
    """A jitted function and the arguments it is lowered with.

    Attributes:
      run: the jitted function.
      arguments: positional arguments, trees of shapes with shardings.
      parameters: weights among the arguments.
      static: keyword arguments that are compiled in.
      optimizer: optimiser state among the arguments.
      index: the index and the passages' tokens among the arguments.
      gradients: a tree like the parameters that are trained.
      keys_values_bytes: bytes of a chip for keys and values that the step makes once for all layers.
      read_bytes: bytes that a chip reads from its memory at least: the decoder's weights, keys and values for every token of an answer,
        or the index for a search.
      share: calls of this shape among all calls of the run.
      items: examples or passages of a call, on all chips.
      copies: calls that the slice runs side by side.
      beside_bytes: bytes of a chip that lie there while it runs and are none of its arguments.
      codes: the index's codes on the devices, among the arguments or beside them.
      every_call: runs in every call, before the last step; else it is another shape of that one.
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
        """Returns the traced program."""
        return self.run.trace(*self.arguments, **self.static)


def steps_of(workload: Workload, mesh: jax.sharding.Mesh, hosts: int = 1) -> list[Step]:
    """Returns the programs of a run, the one that needs most memory last.

    An index build has one for each shape of pack. A host's search with re-ranking has two, and so has a step before which the host reads
    what a search in the graph has found. Codes that are rescored on the host are two before all others; other steps have one.

    Args:
      workload: the run.
      mesh: the slice's devices; those of one host for an index build.
      hosts: hosts that build an index side by side.

    Raises:
      ConfigError: the batch does not divide over the mesh, or the search compiles nothing.
    """
    if workload.kind == 'index':
        return _index_steps(workload, mesh, hosts)
    if workload.kind == 'contrastive':
        return [_contrastive_step(workload, mesh)]
    spec = make_spec(workload, mesh)
    if workload.kind == 'search':
        return _search_steps(workload, spec)
    if workload.kind == 'train':
        return _after_search(workload, spec, _train_step(workload, spec))
    run = score_step.make_score_step(spec) if workload.kind == 'score' else answer_step.make_answer_step(spec, workload.decoding)
    return _after_search(workload, spec, _reading_step(workload, spec, run))


def mesh_of(workload: Workload, slice_: slices.Slice) -> tuple[jax.sharding.Mesh, int]:
    """Returns the mesh that the step is compiled for, and how many of them the slice holds: every host builds an index alone."""
    if workload.kind == 'index':
        # Every process embeds and writes its own shards of an index, and no pack spans two hosts.
        host = slice_.host
        return embed.encoder_mesh(slices.devices(host)), slice_.chips // host.chips
    return partitioning.make_mesh(slices.check_mesh(workload.mesh_shape, slice_), slices.devices(slice_)), 1


def stand_in_segments(config: atlas.AtlasConfig) -> atlas.Segments:
    """Returns the formats as segments without a tokenizer, a token for every three characters of their literal text."""
    def encode(text: str) -> list[int]:
        return [_ANY_ID] * sum(math.ceil(len(word) / _CHARACTERS_A_TOKEN) for word in text.split())

    return atlas.Segments(
        reader=formats.cut_format(config.inputs.encoder_format, encode, suffix_ids=(_ANY_ID,)),
        closed_book=formats.cut_format(config.inputs.closed_book_format, encode, suffix_ids=(_ANY_ID,)),
        retriever=formats.cut_format(config.passage_format, encode, prefix_ids=(_ANY_ID,), suffix_ids=(_ANY_ID,),
                                     borders=formats.PUNCTUATION))


def model_flops(workload: Workload, mesh: jax.sharding.Mesh) -> float:
    """Returns the FLOPs of an update that a run counts for its utilisation: on real tokens, without padding and recomputation."""
    if workload.kind == 'contrastive':
        pairs, examples = _pair_lengths(workload), workload.batch_size

        def spread(lengths: np.ndarray, *shape: int) -> jax.Array:
            # Over all lengths evenly, since those of a store are sorted.
            return jnp.asarray(lengths[np.linspace(0, len(lengths) - 1, math.prod(shape)).astype(np.int64)].reshape(shape))

        of_queries, of_passages = spread(pairs.queries, examples), spread(pairs.passages, examples, pairs.passages_each)
        drawn = types.ContrastiveBatch(of_queries, of_queries, of_passages, of_passages, of_passages, of_passages, of_queries)
        return float(contrastive_step.flops_of(_contrastive_spec(workload, mesh), drawn))
    spec = make_spec(workload, mesh)
    lengths, examples, inputs = workload_lib.token_lengths(workload), workload.batch_size, workload.config.inputs
    queries = np.resize(lengths.reader_queries, examples)

    def inputs_of(passages: np.ndarray, limit: int, queries_too: bool) -> np.ndarray:
        # Spread over all lengths evenly, since they are sorted or drawn.
        drawn = passages[np.linspace(0, len(passages) - 1, examples * max(spec.top_k, 1)).astype(np.int64)].reshape(examples, -1)
        return np.minimum(drawn + (queries[:, None] if queries_too else 0), limit)

    read = inputs_of(lengths.reader_passages, inputs.text_max_tokens, True)
    if spec.closed_book:
        read = queries[:, None]
    embedded = inputs_of(lengths.retriever_passages, workload.config.retriever_max_tokens, False)[:, :spec.passages_scored]
    given = batch(workload, mesh)
    given = given.replace(decoder_loss_weights=jnp.ones((examples, inputs.target_max_tokens)), retriever_query_lengths=jnp.asarray(queries))
    assembled = types.ReaderInputs(reader_tokens=jnp.zeros(0), reader_lengths=jnp.asarray(read), retriever_lengths=jnp.asarray(embedded))
    return workload.step.accumulation_steps * float(model_flops_lib.of_step(spec, given, assembled))


def make_spec(workload: Workload, mesh: jax.sharding.Mesh) -> spec_lib.StepSpec:
    """Returns the static side of the step, made as training and answering make it. Raises ConfigError if the batch does not divide."""
    # Evaluation takes the dtypes of a StepConfig and nothing of its layout in memory.
    step = workload.step if workload.trains else dataclasses.replace(workload.step, remat='auto', accumulation_steps=1)
    return spec_lib.make_spec(workload.config, stand_in_segments(workload.config), mesh, workload_lib.token_lengths(workload),
                              workload.batch_size, workload.distill if workload.trains else None, step, workload.search, workload.lower_for)


def passages_together(workload: Workload) -> frozenset[int]:
    """Returns how many passages an example has in each kind of stream of the step (StepSpec.passages_together); no mesh is needed."""
    nowhere: Any = jax.sharding.AbstractMesh((1,) * len(partitioning.MESH_AXES), partitioning.MESH_AXES)
    return spec_lib.StepSpec(workload.config, stand_in_segments(workload.config), nowhere, read=(),
                             distill=workload.distill if workload.trains else None, search=workload.search).passages_together


def _train_step(workload: Workload, spec: spec_lib.StepSpec) -> Step:
    arguments = train_arguments(workload, spec)
    state, index = arguments[0], arguments[2]
    # One program: a plan tries them one by one.
    spec = dataclasses.replace(spec, step=dataclasses.replace(spec.step, remat=spec.remat[0]))
    return Step(train_step.make_train_step(spec, workload.optimizer), arguments, (state.params, state.passage_encoder),
                optimizer=state.optimizer_state, index=index, gradients=state.params, items=workload.examples_a_step)


def _contrastive_step(workload: Workload, mesh: jax.sharding.Mesh) -> Step:
    spec = _contrastive_spec(workload, mesh)
    spec = dataclasses.replace(spec, step=dataclasses.replace(spec.step, remat=spec.remat[0]))
    state = contrastive_state.abstract(spec, contrastive_step.optimizer_for(workload.optimizer))
    examples, spread = workload.batch_size, partitioning.batch_sharding(mesh, workload.batch_size)
    (query_width, passage_width), counts, each = _pair_lengths(workload).widths, (examples,), (examples, spec.passages_each)
    shapes = {'query_tokens': (examples, query_width), 'query_lengths': counts, 'passage_tokens': (*each, passage_width),
              'passage_lengths': each, 'identities': each, 'positives': (examples, 1), 'example_ids': counts}
    given = types.ContrastiveBatch(**{name: _array(shape, jnp.int32, spread) for name, shape in shapes.items()})
    return Step(contrastive_step.make_contrastive_step(spec, workload.optimizer), (state, given), (state.params, state.momentum_encoder),
                optimizer=(state.optimizer_state, state.queue), gradients=state.params, items=examples)


def _contrastive_spec(workload: Workload, mesh: jax.sharding.Mesh) -> contrastive.ContrastiveSpec:
    pairs = _pair_lengths(workload)
    return contrastive.make_spec(workload.config.retriever, mesh, (pairs.queries, pairs.passages), pairs.widths, workload.batch_size,
                                 workload.contrastive, workload.step, passages_each=pairs.passages_each, lower_for=workload.lower_for)


def _pair_lengths(workload: Workload) -> pair_lengths.PairLengths:
    return pair_lengths.of(workload, stand_in_segments(workload.config).retriever)


def _reading_step(workload: Workload, spec: spec_lib.StepSpec, run: Any) -> Step:
    arguments = answer_arguments(workload, spec)
    params, index = arguments[0], arguments[2]
    reader, capacity = spec.config.reader, spec.read[-1]
    size = jnp.dtype(spec.step.compute_dtype or reader.dtype).itemsize
    # One stream a chip: its passages' rows, each as wide as the longest. Keys and values are two arrays in every decoder layer.
    positions = workload.batch_size * spec.passages_read // spec.streams * capacity.longest
    keys_values = 2.0 * size * reader.num_decoder_layers * positions * reader.num_heads * reader.head_dim
    # max_length counts the start token, which is given and not decoded.
    decoded = (workload.decoding.max_length or workload.config.inputs.target_limit + 1) - 1 if workload.kind == 'answer' else 1
    weights = size * sum(leaf.size for leaf in jax.tree.leaves(params['reader']['decoder']))
    return Step(run, arguments, params, index=index, keys_values_bytes=keys_values, read_bytes=decoded * (weights + keys_values),
                items=workload.examples_a_step)


def _search_steps(workload: Workload, spec: spec_lib.StepSpec) -> list[Step]:
    """The search alone: in the graph, or on the host between the queries' embedding and the re-ranking of candidates."""
    params, queries, index, *found = answer_arguments(workload, spec)
    # The reader is left out of the arguments: the program does not use it, and the compiler would not count it.
    retriever, items = {'retriever': params['retriever']}, workload.examples_a_step
    if not spec.search.on_host and spec.tokens_on_host and spec.reranked:
        again = Step(search_step.search_step(spec), (retriever, queries, index, *found), retriever, index=index, items=items)
        return _after_search(workload, spec, again)
    if not spec.search.on_host:
        read = _embedding_bytes(index) if index is not None else 0.0
        return [Step(search_step.search_step(spec), (retriever, queries, index), retriever, index=index, read_bytes=read, items=items)]
    programs = []
    if _scans_before(spec):
        programs = [dataclasses.replace(step, items=items * (step.codes is not None)) for step in _scanning(workload, spec, retriever)]
    elif spec.search.searcher != 'bm25':
        programs.append(Step(search_step.query_embedder(spec), (params['retriever'], queries), retriever, items=items))
    if spec.reranked:
        # Both programs run once a batch, whose examples count once.
        programs = [dataclasses.replace(step, items=0.0) for step in programs]
        programs.append(Step(search_step.search_step(spec), (retriever, queries, index, *found), retriever, index=index, items=items))
    if not programs:
        raise errors.ConfigError('SearchConfig.searcher is "bm25": this search runs on the host alone and compiles nothing. Plan another '
                                 'searcher, or set rerank_candidates')
    return programs


def _after_search(workload: Workload, spec: spec_lib.StepSpec, step: Step) -> list[Step]:
    """The step, and before it the search where that is a program of its own: each lies beside what the other alone needs."""
    if _scans_before(spec):
        scanning = _scanning(workload, spec, (step.parameters, step.optimizer, step.index))
        codes = scanning[-1].codes
        return [*scanning, dataclasses.replace(step, codes=codes, beside_bytes=chip_bytes(codes))]
    if not spec.tokens_on_host or spec.search.on_host:
        return [step]
    params, queries, index, *_ = answer_arguments(workload, spec)
    # The query encoder alone, as in a search; the step's weights and moments are there too.
    retriever = {'retriever': params['retriever']}
    held = chip_bytes((step.parameters, step.optimizer)) - chip_bytes(retriever)
    search = Step(search_step.search_step(search_step.alone(spec)), (retriever, queries, index), retriever, index=index,
                  read_bytes=_embedding_bytes(index) if index is not None else 0.0, beside_bytes=held, every_call=True)
    # The compiler leaves out arguments that a program does not use, and with them the index, which is there all the same.
    beside = 0.0 if spec.keeps_passage_encoder else chip_bytes(index)
    return [search, dataclasses.replace(step, beside_bytes=beside)]


def _scans_before(spec: spec_lib.StepSpec) -> bool:
    """Returns whether codes are scanned by a program of its own, between the queries' embedding and the host's scores."""
    return not spec.closed_book and spec.search.on_host and spec.search.scans_codes and spec.search.rescore == 'host'


def _scanning(workload: Workload, spec: spec_lib.StepSpec, held: Any) -> list[Step]:
    """The queries' embedding and the scan of codes, beside what is `held` on the devices: any tree of shapes, as jax's own are."""
    params, queries, *_ = answer_arguments(workload, spec)
    retriever = params['retriever']
    codes = _codes(workload, spec.mesh)
    asked = _array((workload.examples_a_step, spec.config.retriever.embedding_dim), jnp.float32, partitioning.replicated(spec.mesh))
    static = {'candidates': max(spec.search.rescore_candidates, spec.candidates), 'mesh': spec.mesh, 'metric': spec.search.metric}
    scanned = chip_bytes((codes.words, codes.factors))
    return [Step(search_step.query_embedder(spec), (retriever, queries), {'retriever': retriever}, every_call=True,
                 beside_bytes=chip_bytes(held) - chip_bytes(retriever) + chip_bytes(codes)),
            Step(codes_on_host.find, (codes, asked), {'retriever': retriever}, static, read_bytes=scanned, codes=codes, every_call=True,
                 beside_bytes=chip_bytes(held))]


def _codes(workload: Workload, mesh: jax.sharding.Mesh) -> types.Codes:
    """The shapes of an index's codes."""
    rows, bits = knowledge_index.padded_rows(workload.index_rows, mesh, room=not workload.trains), 8 * workload.code_bytes
    # Half of the bits are a component's first, half of the others its second: about as many as real embeddings get.
    planes: list[int] = []
    left = bits
    while left and len(planes) < code_lib.MOST_BITS - 1:
        planes.append(-(-left // 2))
        left -= planes[-1]
    planes += [left] if left else []
    groups = codes_lib.device_groups(rows, mesh) * mesh.size
    words, factors, turn = (jax.sharding.NamedSharding(mesh, spec) for spec in codes_lib.layout(mesh))
    return types.Codes(_array((groups, bits), jnp.uint32, words), _array((codes_lib.BLOCK, 2 * groups), jnp.float32, factors),
                       _array((workload.config.retriever.embedding_dim, planes[0]), jnp.float32, turn), tuple(planes), rows)


def chip_bytes(tree: Any) -> float:
    """Returns the bytes of a chip's shards of a tree of shapes with shardings."""
    return float(sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree)))


def _embedding_bytes(index: types.Knowledge) -> float:
    """Bytes of a chip's rows that a search scans: codes or the int8 copy where there is one, else the index's embeddings."""
    if index.codes is not None:
        return chip_bytes((index.codes.words, index.codes.factors))
    arrays = index.index if index.scanned is None else index.scanned.rows
    if arrays is None:
        return 0.0
    rows, dim = arrays.embeddings.sharding.shard_shape(arrays.embeddings.shape)
    return float(rows * dim * arrays.embeddings.dtype.itemsize)


def train_arguments(workload: Workload, spec: spec_lib.StepSpec) -> tuple[Any, ...]:
    """Returns the train step's arguments as shapes with shardings.

    They are a TrainState, a Batch, Knowledge or None, and Retrieved where the host searches or reads what was found.
    """
    state = state_lib.abstract(spec, train_step.optimizer_for(spec, workload.optimizer))
    return state, batch(workload, spec.mesh), knowledge(workload, spec), *_found(workload, spec)


def answer_arguments(workload: Workload, spec: spec_lib.StepSpec) -> tuple[Any, ...]:
    """Returns the arguments of a step that answers, scores or searches: those of training with parameters in place of the state."""
    params = parameters.abstract_param_items(spec.config, spec.mesh, passage_encoder=False)
    params = jax.tree.map(lambda leaf: _array(leaf.shape, spec.step.param_type, leaf.sharding), params)
    # As AtlasModel.device_params gives them; a search before an update takes those of its state.
    if workload.kind != 'train' and partitioning.is_one_cpu(spec.mesh):
        everywhere = partitioning.replicated(spec.mesh)
        params = jax.tree.map(lambda leaf: _array(leaf.shape, leaf.dtype, everywhere), layer_scan.unstack_layers(params))
    return params, batch(workload, spec.mesh), knowledge(workload, spec), *_found(workload, spec)


def _found(workload: Workload, spec: spec_lib.StepSpec) -> tuple[types.Retrieved, ...]:
    """The argument that holds what a searcher of the host has found, or what the host has read, where there is one."""
    if spec.closed_book or not (spec.search.on_host or spec.tokens_on_host):
        return ()
    shape, spread = (workload.examples_a_step, spec.candidates), partitioning.batch_sharding(spec.mesh, workload.examples_a_step)

    def rows() -> types.TokenTable:
        counts = _array(shape, jnp.int32, spread)
        return types.TokenTable(tokens=_array((*shape, workload.table_tokens), jnp.uint16, spread), title_lengths=counts, lengths=counts)

    return (types.Retrieved(scores=_array(shape, jnp.float32, spread), passage_ids=_array(shape, jnp.int32, spread),
                            reader_rows=rows() if spec.tokens_on_host else None,
                            retriever_rows=rows() if spec.tokens_on_host and spec.needs_retriever_tokens else None),)


def _array(shape: tuple[int, ...], dtype: Any, sharding: jax.sharding.Sharding) -> Any:
    """A ShapeDtypeStruct. The fields of batches and indexes are typed as arrays; jax traces and lowers with this in their place."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def batch(workload: Workload, mesh: jax.sharding.Mesh) -> types.Batch:
    """Returns the shapes of a batch, micro-batches one after another."""
    examples, inputs = workload.examples_a_step, workload.config.inputs
    query, target = (examples, workload.query_tokens), (examples, inputs.target_limit)
    shapes = {'retriever_query_tokens': query, 'retriever_query_lengths': query[:1], 'reader_query_tokens': query,
              'reader_query_lengths': query[:1], 'decoder_target_tokens': target, 'decoder_loss_weights': target, 'example_ids': query[:1]}
    if workload.kind == 'score':
        shapes |= dict.fromkeys(('choice_tokens', 'choice_weights'), (examples, *workload_lib.CHOICES))
    if workload.excludes_own_passages:
        shapes['excluded_passage_ids'] = (examples, 1)
    spread = partitioning.batch_sharding(mesh, examples)
    return types.Batch(**{name: _array(shape, jnp.float32 if name.endswith('_weights') else jnp.int32, spread)
                          for name, shape in shapes.items()})


def knowledge(workload: Workload, spec: spec_lib.StepSpec) -> types.Knowledge | None:
    """Returns the shapes of the index and of the token tables that the step needs; None in a closed book."""
    if spec.closed_book:
        return None
    mesh = spec.mesh
    rows = knowledge_index.padded_rows(workload.index_rows, mesh, room=not workload.trains)

    def column(dtype: Any, *shape: int) -> Any:
        return _array((rows, *shape), dtype, partitioning.sharding(mesh, 'passages', *(None,) * len(shape)))

    def table() -> types.TokenTable:
        return types.TokenTable(tokens=column(jnp.uint16, workload.table_tokens), title_lengths=column(jnp.int32),
                                lengths=column(jnp.int32))

    def arrays(dtype: str) -> types.IndexArrays:
        return types.IndexArrays(embeddings=column(jnp.dtype(dtype), spec.config.retriever.embedding_dim), valid=column(jnp.bool_),
                                 scales=column(jnp.float32) if dtype == 'int8' else None)

    scans_copy = spec.search.scans_int8 and workload.index_dtype != 'int8'
    tables = not spec.tokens_on_host
    return types.Knowledge(index=arrays(workload.index_dtype) if spec.needs_embeddings else None, reader_table=table() if tables else None,
                           retriever_table=table() if tables and spec.needs_retriever_tokens else None,
                           # As wide as the index: how many principal components a scan needs shows on real embeddings only.
                           scanned=types.ScannedRows(arrays('int8')) if scans_copy else None,
                           codes=_codes(workload, mesh) if spec.search.scans_codes and not spec.search.on_host else None)


def _index_steps(workload: Workload, mesh: jax.sharding.Mesh, hosts: int) -> list[Step]:
    """The shapes of packs that passages of these lengths come in, narrowest first."""
    limit, segments = workload.config.retriever_max_tokens, stand_in_segments(workload.config).retriever
    lengths, _ = spec_lib.embedded_lengths(segments, workload_lib.token_lengths(workload), limit)
    # A smaller sample is repeated: with few passages, packs that are not full would weigh too much.
    lengths = np.resize(lengths.astype(np.int64), _PACKED_SAMPLE)
    stream_tokens = embed.default_tokens_per_batch('tpu', limit)
    packs: dict[tuple[int, int], list[int]] = collections.defaultdict(list)  # passages of each pack, by shape
    for pack in embed.pack_passages(lengths, mesh.size, stream_tokens, limit):
        packs[pack.longest, pack.members.shape[1]].append(int((pack.members >= 0).sum()))
    # Sorted by width, so that the widest pack, which needs most memory, comes last.
    calls = sum(len(counts) for counts in packs.values())
    return [dataclasses.replace(index_step(workload, mesh, longest, capacity), share=len(counts) / calls, copies=hosts,
                                items=hosts * float(np.mean(counts))) for (longest, capacity), counts in sorted(packs.items())]


def index_step(workload: Workload, mesh: jax.sharding.Mesh, longest: int, capacity: int) -> Step:
    """Returns the embedding of one pack, `capacity` passages of at most `longest` tokens on each chip of a host."""
    # As the embedder does, so that models that differ in dropout alone share a compiled program.
    config = dataclasses.replace(workload.config.retriever, dropout_rate=0.0)
    limit, spread = workload.config.retriever_max_tokens, partitioning.sharding(mesh, 'streams')

    def column(dtype: Any, *shape: int) -> Any:
        return _array((mesh.size, capacity, *shape), dtype, spread)

    everywhere = partitioning.replicated(mesh)
    params = jax.tree.map(lambda leaf: _array(leaf.shape, leaf.dtype, everywhere),
                          partitioning.unboxed_shapes(parameters.abstract_params(workload.config))['retriever'])
    table = types.TokenTable(tokens=column(jnp.uint16, workload.table_tokens), title_lengths=column(jnp.int32), lengths=column(jnp.int32))
    static = {'config': config, 'segments': stand_in_segments(workload.config).retriever,
              'stream_tokens': embed.default_tokens_per_batch('tpu', limit), 'longest': longest, 'mesh': mesh}
    return Step(embed.embed_pack, (params, table, column(jnp.bool_)), params, static=static)
