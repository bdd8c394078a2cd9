"""The searchers that run inside a compiled program, chosen by name; and the passages an example must not be given."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from atlas_jax import errors, types
from atlas_jax.searchers import approx, exact, int8, scan
from atlas_jax.searchers.config import SearchConfig

Array = jax.Array


def search(arrays: types.IndexArrays, queries: Array, top_k: int, mesh: Mesh, config: SearchConfig, *, searcher: str | None = None,
           scanned: types.ScannedRows | None = None, excluded: Array | None = None) -> types.Retrieved:
    """The best passages by config's searcher. Works inside jit; no gradient flows through it.

    Args:
      arrays: the index.
      queries: [batch, dim] float32.
      top_k: passages a query gets, those filtered out not among them.
      mesh: the mesh whose axes shard the rows.
      config: searcher, metric and their options.
      searcher: exact, approx or int8; None takes config's.
      scanned: the copy of `arrays` that the int8 searcher scans; None where `arrays` is int8 itself.
      excluded: [batch, n] int32 passages a query must not get; -1 for none.

    Raises:
      ConfigError: as exact.search; int8 search of an index that is not int8 without a copy that is; a searcher of the host.
    """
    searcher = searcher or config.searcher
    fetched = top_k if excluded is None else max(top_k * config.filtering_overretrieve_ratio, top_k + excluded.shape[1])
    if searcher == 'exact':
        found = exact.search(arrays, queries, fetched, mesh, metric=config.metric)
    elif searcher == 'approx':
        found = approx.search(arrays, queries, fetched, mesh, config.recall_target, metric=config.metric)
    elif searcher == 'int8':
        if scanned is None and arrays.scales is None:
            raise errors.ConfigError('the int8 searcher needs an index in int8, or an int8 copy of it; use Index.knowledge(search=...)')
        found = int8.search(arrays, queries, fetched, mesh, config.overfetch, scanned, metric=config.metric)
    else:
        raise errors.ConfigError(f'the searcher "{searcher}" runs on the host; its results are given to the step')
    return found if excluded is None else without(found, excluded, top_k)


def without(found: types.Retrieved, excluded: Array, top_k: int) -> types.Retrieved:
    """The best `top_k` of the candidates that are not excluded; excluded [batch, n] int32, -1 for none."""
    hit = jnp.any(found.passage_ids[:, :, None] == excluded[:, None, :], axis=-1)  # [batch, candidates]
    return scan.best(jnp.where(hit, -jnp.inf, found.scores), found.passage_ids, top_k)
