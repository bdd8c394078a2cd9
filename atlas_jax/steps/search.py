"""Search alone: the step that finds passages and reads nothing, and the way of a searcher of the host."""

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


def query_embedder(spec: StepSpec) -> Callable[..., jax.Array]:
    """Returns the compiled step `(retriever's parameters, batch) -> query embeddings [batch, dim] float32`."""
    return compile_step(_embed_queries, spec)


def _embed_queries(spec: StepSpec, params: Any, batch: types.Batch) -> jax.Array:
    return retrieve.embed_queries(params, batch, spec)


def find_on_host(params: Any, batch: types.Batch, examples: Sequence[TaskExample], searcher: HostSearcher,
                 spec: StepSpec) -> types.Retrieved:
    """Embeds a batch's queries, searches on the host, and lays what was found out like the batch.

    Args:
      params: the (query) retriever's parameters; None where the searcher needs no embeddings.
      batch: the examples' tokens; its excluded passages are not given.
      examples: those of the batch, fewer where fillers end it. A searcher by words searches for the question, or the query of an
        example without one.
      searcher: the searcher of the host.
      spec: spec.candidates passages are found for each example.
    """
    texts = [example.question or example.query for example in examples]
    # Fillers search for nothing; their results are never read.
    texts += [''] * (batch.example_ids.shape[0] - len(texts))
    # BM25 reads the words alone: no compilation, no device.
    embeddings = hosts.to_host(query_embedder(spec)(params, batch)) if searcher.needs_embeddings else None
    excluded = None if batch.excluded_passage_ids is None else hosts.to_host(batch.excluded_passage_ids)
    found = searcher.search(HostQueries(texts, embeddings), spec.candidates, excluded)
    return found.on_devices(partitioning.batch_sharding(spec.mesh, len(texts)))
