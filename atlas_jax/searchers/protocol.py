"""The one interface of search."""

from typing import Protocol

import jax

from atlas_jax import types


class Searcher(Protocol):
    """Finds the passages with the largest inner product; deleted rows are never found."""

    def search(self, queries: jax.Array, top_k: int) -> types.Retrieved:
        """The best rows of the index for each query.

        Args:
          queries: [batch, dim] float32.
          top_k: how many rows a query gets, at least 1.

        Returns:
          Retrieved, best first, ties by the lower id; score -inf and id 0 where fewer than top_k rows are valid.

        Raises:
          ConfigError: the queries do not have the index's dim, or top_k is not positive.
        """
        ...
