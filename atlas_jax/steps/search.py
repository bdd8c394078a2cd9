"""Search alone: the step that finds passages and reads nothing, and the way of a searcher of the host."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from atlas_jax import partitioning, types
from atlas_jax.runtime import hosts
from atlas_jax.searchers.host_searcher import HostQueries, HostSearcher
from atlas_jax.steps import retrieve
from atlas_jax.steps.compile import compile_step
from atlas_jax.steps.spec import StepSpec
from atlas_jax.tasks.task import TaskExample

Params = dict[str, Any]


def search_step(spec: StepSpec) -> Callable[..., types.Retrieved]:
    """Returns the compiled step `(params, batch, knowledge, retrieved=None) -> Retrieved`, spec.top_k passages an example.

    Batches that bring their passages get these with their scores. `retrieved` is what a searcher of the host has found, to be re-ranked.
    """
    # Through the door: without a mesh the attention kernel does not compile on more than one TPU chip.
    return compile_step(_search, spec)


def _search(spec: StepSpec, params: Params, batch: types.Batch, knowledge: types.Knowledge | None,
            retrieved: types.Retrieved | None = None) -> types.Retrieved | None:
    # Tied models have one encoder for both; `find` then takes the retriever's.
    retriever, passage_encoder = params['retriever'], params.get('passage_encoder')
    if batch.passage_tokens is None:
        return retrieve.find(retriever, batch, types.required(knowledge), spec, retrieved, passage_encoder)
    # Given passages are scored, not searched: assembly knows how, and what it assembles is dropped by the compiler.
    return retrieve.retrieve_and_assemble(retriever, batch, knowledge, spec, passage_params=passage_encoder).retrieved


def alone(spec: StepSpec) -> StepSpec:
    """Returns the spec of the search that is a program of its own before the step of `spec`: spec.candidates passages, not re-ranked."""
    return dataclasses.replace(spec, read=(), scored=(), embedded=(), reranked=())


def query_embedder(spec: StepSpec) -> Callable[..., jax.Array]:
    """Returns the compiled step `(retriever's parameters, batch) -> query embeddings [batch, dim] float32`."""
    return compile_step(_embed_queries, spec)


def _embed_queries(spec: StepSpec, params: Any, batch: types.Batch) -> jax.Array:
    return retrieve.embed_queries(params, batch, spec)


def find_on_host(embeddings: jax.Array | None, batch: types.Batch, examples: Sequence[TaskExample], searcher: HostSearcher,
                 spec: StepSpec) -> types.Retrieved:
    """Searches on the host for a batch, and lays what was found out like it.

    Args:
      embeddings: of `query_embedder`, [batch, dim]; None where the searcher needs none: BM25 reads the words alone.
      batch: the examples' tokens; its excluded passages are not given.
      examples: those of the batch, fewer where fillers end it. A searcher by words searches for the question, or the query of an
        example without one.
      searcher: the searcher of the host.
      spec: spec.candidates passages are found for each example.
    """
    texts = [example.question or example.query for example in examples]
    # Fillers search for nothing; their results are never read.
    texts += [''] * (batch.example_ids.shape[0] - len(texts))
    queries = HostQueries(texts, None if embeddings is None else hosts.to_host(embeddings))
    excluded = None if batch.excluded_passage_ids is None else hosts.to_host(batch.excluded_passage_ids)
    found = searcher.search(queries, spec.candidates, excluded)
    return found.on_devices(partitioning.batch_sharding(spec.mesh, len(texts)))
