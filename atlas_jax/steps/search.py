"""The search steps: they find passages, or embed queries, without reading."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from atlas_jax import types
from atlas_jax.steps import retrieve
from atlas_jax.steps.compile import compile_step
from atlas_jax.steps.spec import StepSpec

Params = dict[str, Any]


def search_step(spec: StepSpec) -> Callable[..., types.Retrieved]:
    """Returns the compiled step `(params, batch, knowledge, retrieved=None) -> Retrieved` with
    spec.top_k passages per example.

    Batches that bring their passages get these with their scores. `retrieved` are passages that a
    searcher of the host found, to be re-ranked.
    """
    return compile_step(_search, spec)


def _search(spec: StepSpec, params: Params, batch: types.Batch, knowledge: types.Knowledge | None,
            retrieved: types.Retrieved | None = None) -> types.Retrieved | None:
    # Models with one encoder have no passage encoder; `find` then uses the retriever.
    retriever, passage_encoder = params['retriever'], params.get('passage_encoder')
    if batch.passage_tokens is None:
        return retrieve.find(retriever, batch, types.required(knowledge), spec, retrieved,
                             passage_encoder)
    # Given passages are scored while they are assembled; the compiler drops the unused inputs.
    return retrieve.retrieve_and_assemble(retriever, batch, knowledge, spec,
                                          passage_params=passage_encoder).retrieved


def alone(spec: StepSpec) -> StepSpec:
    """Returns the spec of a search program that runs before the step of `spec`: spec.candidates
    passages, not re-ranked.
    """
    return dataclasses.replace(spec, read=(), scored=(), embedded=(), reranked=())


def query_embedder(spec: StepSpec) -> Callable[..., jax.Array]:
    """Returns the compiled step `(retriever's parameters, batch) -> query embeddings [batch, dim]
    float32`.
    """
    return compile_step(_embed_queries, spec)


def _embed_queries(spec: StepSpec, params: Any, batch: types.Batch) -> jax.Array:
    return retrieve.embed_queries(params, batch, spec)
