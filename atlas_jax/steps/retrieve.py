"""Retrieval in graph: embeds queries, searches the index, gathers the passages' tokens, assembles
reader inputs. All steps share it.
"""

from typing import cast

import jax
import jax.numpy as jnp

from atlas_jax import partitioning, types
from atlas_jax.nn import assembly, token_stream
from atlas_jax.searchers import exact, in_graph, scan
from atlas_jax.steps import buckets, given
from atlas_jax.steps import spec as spec_lib

Array = jax.Array


def embed_queries(params, batch: types.Batch, spec: spec_lib.StepSpec,
                  dropout_key: Array | None = None) -> Array:
    """Returns query embeddings [batch, dim] float32; no dropout without a key."""
    examples = batch.retriever_query_tokens.shape[0]
    # A batch may be smaller than the mesh: the remaining streams get an empty query.
    missing = -examples % spec.streams
    tokens = jnp.pad(batch.retriever_query_tokens, ((0, missing), (0, 0)))
    stream = _stream(tokens[:, None],
                     jnp.pad(batch.retriever_query_lengths, (0, missing))[:, None], spec)
    embeddings = embed(params, stream, spec, dropout_key)  # [streams, queries per stream, dim]
    return embeddings.reshape(-1, embeddings.shape[-1])[:examples]


def embed(params, stream: types.TokenStream, spec: spec_lib.Layout,
          dropout_key: Array | None = None) -> Array:
    """Returns embeddings [streams, passages, dim] float32 of every passage in the stream."""
    rngs = None if dropout_key is None else {'dropout': dropout_key}
    # Linen types apply as a union with (output, variables), which only mutable variables return.
    return cast(
        Array,
        spec.retriever.apply({'params': params}, stream, deterministic=dropout_key is None,
                             rngs=rngs))


def retrieve_and_assemble(params, batch: types.Batch, knowledge: types.Knowledge | None,
                          spec: spec_lib.StepSpec, retrieved: types.Retrieved | None = None,
                          passage_params=None) -> types.ReaderInputs:
    """Retrieves passages for the queries and returns the reader inputs; no gradient flows through.

    The inputs also have the passages that the loss embeds, as tokens, or as the index's embeddings
    if passages are not trained.

    Args:
      params: parameters of the (query) retriever.
      batch: the examples. Assembled passages that they bring are used as they are (steps/given.py).
      knowledge: index and tokens; None in a closed book, or if examples bring their own passages.
      spec: static side of the step; top_k passages are retrieved.
      retrieved: spec.candidates passages per example that a searcher of the host found; None
        searches in the graph.
      passage_params: parameters of the passage encoder, for re-ranking; None uses `params`.
    """
    passage_params = params if passage_params is None else passage_params
    if batch.passage_tokens is not None:
        inputs = given.inputs_of(
            batch, spec, retrieved, lambda: embed_queries(params, batch, spec),
            lambda tokens, lengths: _embed_now(passage_params, tokens, lengths, spec))
        if retrieved is None or not spec.keeps_passage_encoder:
            return inputs
        return _add_retriever_side(inputs, retrieved.passage_ids[:, :spec.passages_scored],
                                   types.required(knowledge), spec)
    if spec.closed_book:
        return _closed_book_inputs(batch, spec)
    knowledge = types.required(knowledge)
    retrieved = _find(params, batch, knowledge, spec, retrieved, passage_params)
    found = jnp.isfinite(retrieved.scores)  # [batch, top_k]
    ids = retrieved.passage_ids
    rows = _rows(retrieved.reader_rows, knowledge.reader_table, ids, spec)
    limit = spec.config.inputs.text_max_tokens
    tokens, lengths = assembly.assemble(types.required(spec.segments.reader),
                                        jnp.repeat(batch.reader_query_tokens, spec.top_k, axis=0),
                                        jnp.repeat(batch.reader_query_lengths, spec.top_k), rows,
                                        limit)
    # Length 0 marks an empty slot: streams skip it and masks hide it.
    lengths = jnp.where(found, lengths.reshape(ids.shape), 0)
    whole = _whole_lengths(
        batch, jax.tree.map(lambda column: column.reshape(*ids.shape, *column.shape[1:]), rows),
        spec)
    inputs = types.ReaderInputs(reader_tokens=tokens.reshape(*ids.shape, limit),
                                reader_lengths=lengths, retrieved=_bare(retrieved),
                                truncated_passages=jnp.sum(found & (whole > limit)))
    return _add_retriever_side(inputs, ids[:, :spec.passages_scored], knowledge, spec,
                               retrieved.retriever_rows)


def find(params, batch: types.Batch, knowledge: types.Knowledge, spec: spec_lib.StepSpec,
         retrieved: types.Retrieved | None = None, passage_params=None) -> types.Retrieved:
    """Returns the top_k passages of every example, searched for or given, and re-ranked if the spec
    says so: scores [batch, top_k] float32 and ids [batch, top_k] int32, best first.
    """
    return _bare(_find(params, batch, knowledge, spec, retrieved, passage_params))


def _find(params, batch: types.Batch, knowledge: types.Knowledge, spec: spec_lib.StepSpec,
          retrieved: types.Retrieved | None, passage_params) -> types.Retrieved:
    """Returns the passages like `find`, with their tokens if the host has read them."""
    # The host has searched.
    if retrieved is not None and not spec.reranked:
        return retrieved
    # Without dropout; the loss embeds the queries again, with dropout.
    queries = jax.lax.stop_gradient(embed_queries(params, batch, spec))
    if retrieved is None:
        retrieved = in_graph.search(types.required(knowledge.index), queries, spec.candidates,
                                    spec.mesh, spec.search, scanned=knowledge.scanned,
                                    codes=knowledge.codes, excluded=batch.excluded_passage_ids)
    passage_params = params if passage_params is None else passage_params
    return _rerank(passage_params, queries, retrieved, knowledge,
                   spec) if spec.reranked else retrieved


def _rerank(passage_params, queries: Array, retrieved: types.Retrieved, knowledge: types.Knowledge,
            spec: spec_lib.StepSpec) -> types.Retrieved:
    """Returns the best top_k of the candidates by fresh embeddings of the passage encoder."""
    rows = _rows(retrieved.retriever_rows, knowledge.retriever_table, retrieved.passage_ids, spec)
    # [batch, candidates, width], [batch, candidates]
    tokens, lengths = retriever_inputs(rows, retrieved.passage_ids.shape, spec)
    embeddings = _embed_now(passage_params, tokens,
                            jnp.where(jnp.isfinite(retrieved.scores), lengths, 0), spec)
    score = exact.score(spec.search.metric)

    # Each query has its own candidates, so each scores a small index of its own.
    def of_one(embeddings: Array, query: Array) -> Array:
        return score(
            types.IndexArrays(embeddings=embeddings, valid=jnp.ones(len(embeddings), bool)),
            query[None])[:, 0]

    scores = jax.vmap(of_one)(embeddings, exact.prepare_queries(queries, spec.search.metric))
    scores = jnp.where(jnp.isfinite(retrieved.scores), scores, -jnp.inf)
    best = scan.best(scores, retrieved.passage_ids, spec.top_k)
    # [batch, top_k], places among the candidates. Empty slots have id 0 too, but come last.
    places = jnp.argmax(best.passage_ids[:, :, None] == retrieved.passage_ids[:, None, :], axis=-1)
    return best.replace(reader_rows=_at(retrieved.reader_rows, places),
                        retriever_rows=_at(retrieved.retriever_rows, places))


def _at(rows: types.TokenTable | None, places: Array) -> types.TokenTable | None:
    """Returns the rows at places [batch, top_k] of [batch, candidates, ...]."""
    return jax.tree.map(lambda column: jax.vmap(lambda of_one, at: of_one[at])(column, places),
                        rows)


def _embed_now(params, tokens: Array, lengths: Array, spec: spec_lib.StepSpec) -> Array:
    """Embeds passages [batch, n, width] at the smallest capacity of `spec.reranked` that fits;
    returns [batch, n, dim] float32.
    """
    def embed_at(capacity: buckets.Capacity):
        return lambda: embed(
            params, pack(tokens, lengths, spec, capacity.stream_tokens, capacity.longest), spec)

    # Candidates are many and mostly shorter than their limit, so levels pay off as in reading.
    level = buckets.level([(lengths.reshape(spec.streams, -1), spec.reranked)])
    embeddings = jax.lax.switch(level, [embed_at(capacity) for capacity in spec.reranked])
    return embeddings.reshape(*lengths.shape, -1)  # [streams, passages, dim] -> [batch, n, dim]


def _add_retriever_side(inputs: types.ReaderInputs, ids: Array, knowledge: types.Knowledge,
                        spec: spec_lib.StepSpec,
                        given_rows: types.TokenTable | None = None) -> types.ReaderInputs:
    if not spec.passages_scored:
        return inputs
    if spec.distillation.retriever_training == 'query_side':
        # The passage encoder is fixed, so the index has its embeddings.
        rows = jax.tree.map(lambda column: jnp.take(column, ids.reshape(-1), axis=0),
                            types.required(knowledge.index))
        scales = 1 if rows.scales is None else rows.scales[:, None]
        embeddings = rows.embeddings.astype(jnp.float32) * scales
        return inputs.replace(passage_embeddings=embeddings.reshape(*ids.shape, -1))
    scored = jax.tree.map(lambda column: column[:, :spec.passages_scored], given_rows)
    tokens, lengths = retriever_inputs(_rows(scored, knowledge.retriever_table, ids, spec),
                                       ids.shape, spec)
    return inputs.replace(retriever_tokens=tokens, retriever_lengths=lengths)


def retriever_inputs(rows: types.TokenTable, shape: tuple[int, ...],
                     spec: spec_lib.StepSpec) -> tuple[Array, Array]:
    """Assembles the retriever's inputs from rows of its token table.

    Returns tokens [*shape, retriever_max_tokens] int32 and lengths [*shape] int32.
    """
    size = shape[0] * shape[1]
    tokens, lengths = assembly.assemble(spec.segments.retriever, jnp.zeros((size, 1), jnp.int32),
                                        jnp.zeros((size, ), jnp.int32), rows,
                                        spec.config.retriever_max_tokens)
    return tokens.reshape(*shape, -1), lengths.reshape(shape)


def _whole_lengths(batch: types.Batch, rows: types.TokenTable, spec: spec_lib.StepSpec) -> Array:
    """Returns the token counts [batch, top_k] that the reader inputs would have without a limit."""
    by_kind = {
        'query': batch.reader_query_lengths[:, None], 'title': rows.title_lengths,
        'text': rows.lengths - rows.title_lengths}
    whole = jnp.zeros_like(rows.lengths)
    for segment in types.required(spec.segments.reader):
        whole += by_kind[segment.kind] if segment.kind in by_kind else len(segment.ids)
    return whole


def _closed_book_inputs(batch: types.Batch, spec: spec_lib.StepSpec) -> types.ReaderInputs:
    size = batch.reader_query_tokens.shape[0]
    # The assembly expects rows of a table; a closed-book format does not use them.
    nothing = types.TokenTable(tokens=jnp.zeros((size, 1), jnp.int32), title_lengths=jnp.zeros(
        (size, ), jnp.int32), lengths=jnp.zeros((size, ), jnp.int32))
    tokens, lengths = assembly.assemble(types.required(spec.segments.closed_book),
                                        batch.reader_query_tokens, batch.reader_query_lengths,
                                        nothing, spec.config.inputs.text_max_tokens)
    return types.ReaderInputs(reader_tokens=tokens[:, None], reader_lengths=lengths[:, None])


def _bare(retrieved: types.Retrieved) -> types.Retrieved:
    """Returns scores and ids only: no step returns the tokens."""
    return retrieved.replace(reader_rows=None, retriever_rows=None)


def _rows(given_rows: types.TokenTable | None, table: types.TokenTable | None, ids: Array,
          spec: spec_lib.StepSpec) -> types.TokenTable:
    """Returns the passages `ids` [batch, n] int32 as rows [batch * n, ...], laid out over the
    devices like the streams.

    The rows are those that the host has read, [batch, n, ...], else the table's.
    """
    if given_rows is None:
        rows = jax.tree.map(lambda column: jnp.take(column, ids.reshape(-1), axis=0),
                            types.required(table))
    else:
        rows = jax.tree.map(lambda column: column.reshape(-1, *column.shape[2:]), given_rows)
    rows = jax.tree.map(lambda column: column.astype(jnp.int32), rows)
    # Rows of the index are anywhere. Their copies go to their stream's device, so that no token
    # moves later.
    return jax.tree.map(lambda column: partitioning.constrain(column, spec.mesh, 'streams'), rows)


def _stream(tokens: Array, lengths: Array, spec: spec_lib.StepSpec) -> types.TokenStream:
    """Packs short inputs [batch, n, width] into streams of full capacity, without levels."""
    width = tokens.shape[-1]
    per_stream = tokens.shape[0] * tokens.shape[1] // spec.streams
    return pack(tokens, lengths, spec, per_stream * width, width)


def pack(tokens: Array, lengths: Array, spec: spec_lib.StepSpec, stream_tokens: int,
         longest: int) -> types.TokenStream:
    """Packs the passages of all examples [batch, n, width], in order, into one stream per device.

    A stream has whole examples, or a part of one example if the mesh is larger than the batch.
    """
    width = tokens.shape[-1]
    # [batch, n, width] to [streams, passages, width]: the streams of one example share their place
    # on data and fsdp.
    tokens = partitioning.constrain(tokens.reshape(spec.streams, -1, width), spec.mesh, 'streams')
    return token_stream.pack(tokens, lengths.reshape(spec.streams, -1), stream_tokens, longest)
