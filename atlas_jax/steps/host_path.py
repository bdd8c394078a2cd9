"""The way of a searcher of the host: embed queries (compiled), search (host), and give the step what was found."""

import functools
from collections.abc import Callable, Sequence

import jax

from atlas_jax import types
from atlas_jax.runtime import hosts
from atlas_jax.searchers import protocol
from atlas_jax.steps import retrieve
from atlas_jax.steps import spec as spec_lib
from atlas_jax.tasks.task import TaskExample
from atlas_jax.training import train_step


@functools.lru_cache(maxsize=8)
def query_embedder(spec: spec_lib.StepSpec) -> Callable[..., jax.Array]:
    """The jitted function (retriever's parameters, batch) -> query embeddings [batch, dim] float32."""
    return jax.jit(lambda params, batch: retrieve.embed_queries(params, batch, spec))


def texts(examples: Sequence[TaskExample]) -> list[str]:
    """What a searcher by words searches for: the question alone, or the query of an example that has none."""
    return [example.question or example.query for example in examples]


def find(params, batch: types.Batch, texts: Sequence[str], searcher: protocol.HostSearcher, spec: spec_lib.StepSpec) -> types.Retrieved:
    """What the searcher finds for a batch, laid out like the batch.

    Args:
      params: the (query) retriever's parameters.
      batch: the examples; its excluded passages are not given.
      texts: the examples' questions in words, [batch]; fewer where fillers end the batch.
      searcher: of the host.
      spec: spec.candidates passages are found for each example.
    """
    texts = [*texts, *[''] * (batch.example_ids.shape[0] - len(texts))]
    embeddings = hosts.to_host(query_embedder(spec)(params, batch)) if searcher.needs_embeddings else None
    excluded = None if batch.excluded_passage_ids is None else hosts.to_host(batch.excluded_passage_ids)
    found = searcher.search(protocol.HostQueries(texts, embeddings), spec.candidates, excluded)
    return hosts.place(found, train_step.batch_sharding(spec.mesh))
