"""The searchers that run inside a compiled program, chosen by name, and the filter of an example's own passages."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from atlas_jax import errors, types
from atlas_jax.searchers import codes as codes_lib
from atlas_jax.searchers import exact, int8, scan
from atlas_jax.searchers.config import IN_GRAPH, SearchConfig

Array = jax.Array


def search(arrays: types.IndexArrays, queries: Array, top_k: int, mesh: Mesh, config: SearchConfig, *, searcher: str | None = None,
           scanned: types.ScannedRows | None = None, codes: types.Codes | None = None,
           excluded: Array | None = None) -> types.Retrieved:
    """Finds the best passages by config's searcher. Works inside jit; no gradient flows through it.

    Args:
      arrays: the index.
      queries: [batch, dim] float32.
      top_k: passages a query gets after filtering.
      mesh: the mesh whose axes shard the rows.
      config: searcher, metric and their options.
      searcher: exact, approx, int8 or codes; None uses config's.
      scanned: the copy of `arrays` that the int8 searcher scans; None if `arrays` is int8 itself.
      codes: those of `arrays`, for the codes searcher.
      excluded: [batch, n] int32 passages a query must not get; -1 marks unused places.

    Returns:
      scores [batch, top_k] float32, passage_ids [batch, top_k] int32; ties by the lower id; -inf and 0 past the last valid row.

    Raises:
      ConfigError: as exact.search; int8 search of an index that is neither int8 nor has an int8 copy; a searcher of the host.
    """
    searcher = searcher or config.searcher
    # An example's own passages are likely to be among the best, so more are fetched than wanted.
    fetched = top_k if excluded is None else max(top_k * config.filtering_overretrieve_ratio, top_k + excluded.shape[1])
    if searcher == 'exact':
        found = exact.search(arrays, queries, fetched, mesh, metric=config.metric)
    elif searcher == 'approx':
        found = exact.search_approximately(arrays, queries, fetched, mesh, config.recall_target, metric=config.metric)
    elif searcher == 'int8':
        if scanned is None and arrays.scales is None:
            raise errors.ConfigError('the int8 searcher needs an index in int8, or an int8 copy of it; use Index.knowledge(search=...)')
        found = int8.search(arrays, queries, fetched, mesh, config.overfetch, scanned, metric=config.metric)
    elif searcher == 'codes':
        found = codes_lib.search(types.required(codes), arrays, queries, fetched, mesh, config.rescore_candidates, config.metric)
    else:
        raise errors.ConfigError(f'the searcher "{searcher}" runs on the host; give its results to the step, or choose one of '
                                 f'{", ".join(IN_GRAPH)}')
    return found if excluded is None else without(found, excluded, top_k)


def without(found: types.Retrieved, excluded: Array, top_k: int) -> types.Retrieved:
    """Keeps the best `top_k` candidates of each query that are not among its excluded [batch, n] int32, -1 at unused places."""
    hit = jnp.any(found.passage_ids[:, :, None] == excluded[:, None, :], axis=-1)  # [batch, candidates]
    return scan.best(jnp.where(hit, -jnp.inf, found.scores), found.passage_ids, top_k)
