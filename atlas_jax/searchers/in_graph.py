"""The searchers that run inside a compiled program, chosen by name, and the filter for an example's
own passages.
"""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from atlas_jax import errors, types
from atlas_jax.searchers import codes as codes_lib
from atlas_jax.searchers import exact, int8, scan
from atlas_jax.searchers.config import IN_GRAPH, SearchConfig

Array = jax.Array


def search(arrays: types.IndexArrays, queries: Array, top_k: int, mesh: Mesh, config: SearchConfig,
           *, searcher: str | None = None, scanned: types.ScannedRows | None = None,
           codes: types.Codes | None = None, excluded: Array | None = None) -> types.Retrieved:
    """Finds the best passages with the configured searcher. Works inside jit; no gradient flows
    through it.

    Args:
      arrays: the index.
      queries: [batch, dim] float32.
      top_k: passages for a query after filtering.
      mesh: the mesh whose axes shard the rows.
      config: searcher, metric and their options.
      searcher: exact, approx, int8 or codes; None uses config's.
      scanned: the copy of `arrays` that the int8 searcher scans; None if `arrays` is int8 itself.
      codes: the codes of `arrays`, for the codes searcher.
      excluded: [batch, n] int32 passages that a query must not get; -1 marks unused places.

    Returns:
      scores [batch, top_k] float32, passage_ids [batch, top_k] int32; ties by the lower id; -inf
      and 0 past the last valid row.

    Raises:
      ConfigError: the same errors as exact.search; the int8 searcher without an int8 index or copy;
        a searcher of the host.
    """
    searcher = searcher or config.searcher
    # An example's own passages are likely among the best, so more are fetched than requested.
    fetched = top_k if excluded is None else max(top_k * config.filtering_overretrieve_ratio,
                                                 top_k + excluded.shape[1])
    if searcher == 'exact':
        found = exact.search(arrays, queries, fetched, mesh, metric=config.metric)
    elif searcher == 'approx':
        found = exact.search_approximately(arrays, queries, fetched, mesh, config.recall_target,
                                           metric=config.metric)
    elif searcher == 'int8':
        if scanned is None and arrays.scales is None:
            raise errors.ConfigError('the int8 searcher needs an index in int8, or an int8 copy '
                                     'of it; use Index.knowledge(search=...)')
        found = int8.search(arrays, queries, fetched, mesh, config.overfetch, scanned,
                            metric=config.metric)
    elif searcher == 'codes':
        found = codes_lib.search(types.required(codes), arrays, queries, fetched, mesh,
                                 config.rescore_candidates, config.metric)
    else:
        raise errors.ConfigError(f'the searcher "{searcher}" runs on the host; give its results '
                                 f'to the step, or choose one of {", ".join(IN_GRAPH)}')
    return found if excluded is None else without(found, excluded, top_k)


def without(found: types.Retrieved, excluded: Array, top_k: int) -> types.Retrieved:
    """Returns the best `top_k` candidates of each query without its excluded passages [batch, n]
    int32; -1 marks unused places.
    """
    # [batch, candidates]
    hit = jnp.any(found.passage_ids[:, :, None] == excluded[:, None, :], axis=-1)
    return scan.best(jnp.where(hit, -jnp.inf, found.scores), found.passage_ids, top_k)
