"""In graph: embed queries, search the index, gather the passages' tokens, assemble reader inputs. Train and answer steps share it."""

import jax
import jax.numpy as jnp

from atlas_jax import partitioning, types
from atlas_jax.nn import assembly, token_stream
from atlas_jax.searchers import exact
from atlas_jax.training import spec as spec_lib

Array = jax.Array


def embed_queries(params, batch: types.Batch, spec: spec_lib.StepSpec, dropout_key: Array | None = None) -> Array:
    """Query embeddings [batch, dim] float32; without a key, without dropout."""
    stream = _stream(batch.retriever_query_tokens[:, None], batch.retriever_query_lengths[:, None], spec)
    embeddings = embed(params, stream, spec, dropout_key)  # [streams, batch / streams, dim]
    return embeddings.reshape(-1, embeddings.shape[-1])


def embed(params, stream: types.TokenStream, spec: spec_lib.StepSpec, dropout_key: Array | None = None) -> Array:
    """Embeddings [streams, passages, dim] float32 of every passage in the stream."""
    rngs = None if dropout_key is None else {'dropout': dropout_key}
    return spec.retriever.apply({'params': params}, stream, deterministic=dropout_key is None, rngs=rngs)


def retrieve_and_assemble(params, batch: types.Batch, knowledge: types.Knowledge | None, spec: spec_lib.StepSpec) -> types.ReaderInputs:
    """Everything from the queries to the reader inputs; no gradient flows through it.

    Args:
      params: the (query) retriever's parameters.
      batch: the examples.
      knowledge: index and tokens; None in a closed book.
      spec: top_k passages are retrieved; those to embed are given as tokens, or their index embeddings where passages stay fixed.
    """
    if spec.closed_book:
        return _closed_book_inputs(batch, spec)
    queries = jax.lax.stop_gradient(embed_queries(params, batch, spec))
    retrieved = exact.search(knowledge.index, queries, spec.top_k, spec.mesh)
    found = jnp.isfinite(retrieved.scores)  # [batch, top_k]
    ids = retrieved.passage_ids
    rows = _take_rows(knowledge.reader_table, ids.reshape(-1), spec)
    limit = spec.config.inputs.text_max_tokens
    tokens, lengths = assembly.assemble(
        spec.segments.reader, jnp.repeat(batch.reader_query_tokens, spec.top_k, axis=0),
        jnp.repeat(batch.reader_query_lengths, spec.top_k), rows, limit)
    lengths = jnp.where(found, lengths.reshape(ids.shape), 0)
    whole = _whole_lengths(batch, jax.tree.map(lambda column: column.reshape(*ids.shape, *column.shape[1:]), rows), spec)
    inputs = types.ReaderInputs(reader_tokens=tokens.reshape(*ids.shape, limit), reader_lengths=lengths, retrieved=retrieved,
                                truncated_passages=jnp.sum(found & (whole > limit)))
    return _add_retriever_side(inputs, ids[:, :spec.passages_scored], knowledge, spec)


def _add_retriever_side(inputs: types.ReaderInputs, ids: Array, knowledge: types.Knowledge, spec: spec_lib.StepSpec) -> types.ReaderInputs:
    if not spec.passages_scored:
        return inputs
    if spec.distill.retriever_training == 'query_side':
        embeddings = jnp.take(knowledge.index.embeddings, ids.reshape(-1), axis=0).astype(jnp.float32)
        return inputs.replace(passage_embeddings=embeddings.reshape(*ids.shape, -1))
    rows = _take_rows(knowledge.retriever_table, ids.reshape(-1), spec)
    no_query = jnp.zeros((ids.size, 1), jnp.int32)
    tokens, lengths = assembly.assemble(spec.segments.retriever, no_query, jnp.zeros((ids.size,), jnp.int32), rows,
                                        spec.config.retriever_max_tokens)
    return inputs.replace(retriever_tokens=tokens.reshape(*ids.shape, -1), retriever_lengths=lengths.reshape(ids.shape))


def _whole_lengths(batch: types.Batch, rows: types.TokenTable, spec: spec_lib.StepSpec) -> Array:
    """Tokens that the reader inputs would have without a limit, [batch, top_k]; of the fields that the format names."""
    by_kind = {'query': batch.reader_query_lengths[:, None], 'title': rows.title_lengths, 'text': rows.lengths - rows.title_lengths}
    segments = spec.segments.reader
    return sum(by_kind[segment.kind] if segment.kind in by_kind else len(segment.ids) for segment in segments)


def _closed_book_inputs(batch: types.Batch, spec: spec_lib.StepSpec) -> types.ReaderInputs:
    size = batch.reader_query_tokens.shape[0]
    nothing = types.TokenTable(tokens=jnp.zeros((size, 1), jnp.int32), title_lengths=jnp.zeros((size,), jnp.int32),
                               lengths=jnp.zeros((size,), jnp.int32))
    tokens, lengths = assembly.assemble(spec.segments.closed_book, batch.reader_query_tokens, batch.reader_query_lengths, nothing,
                                        spec.config.inputs.text_max_tokens)
    return types.ReaderInputs(reader_tokens=tokens[:, None], reader_lengths=lengths[:, None])


def _take_rows(table: types.TokenTable, ids: Array, spec: spec_lib.StepSpec) -> types.TokenTable:
    """The table's rows `ids` [n], laid out over the devices like the batch."""
    rows = jax.tree.map(lambda column: jnp.take(column, ids, axis=0).astype(jnp.int32), table)
    return jax.tree.map(lambda column: partitioning.constrain(column, spec.mesh, 'batch'), rows)


def _stream(tokens: Array, lengths: Array, spec: spec_lib.StepSpec) -> types.TokenStream:
    """Short inputs as streams with room for every token: no levels needed."""
    width = tokens.shape[-1]
    per_stream = tokens.shape[0] * tokens.shape[1] // spec.streams
    return pack(tokens, lengths, spec, per_stream * width, width)


def pack(tokens: Array, lengths: Array, spec: spec_lib.StepSpec, stream_tokens: int, longest: int) -> types.TokenStream:
    """Passages of each example [batch, n, width] as one stream a device, whole examples in each."""
    width = tokens.shape[-1]
    tokens = partitioning.constrain(tokens.reshape(spec.streams, -1, width), spec.mesh, 'streams')
    return token_stream.pack(tokens, lengths.reshape(spec.streams, -1), stream_tokens, longest)
