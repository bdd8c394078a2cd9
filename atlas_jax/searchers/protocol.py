"""The two interfaces of search: inside a compiled program, and on the host."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import jax
import numpy as np

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


@dataclasses.dataclass(frozen=True)
class HostQueries:
    """Queries as a searcher of the host may need them.

    texts       [batch] the questions in words
    embeddings  [batch, dim] float32; None where no searcher asks for them
    """

    texts: Sequence[str]
    embeddings: np.ndarray | None

    def __len__(self) -> int:
        return len(self.texts)


class HostSearcher(Protocol):
    """Finds passages on the host; the same results in numpy arrays. `needs_embeddings`: whether it reads the queries' embeddings."""

    needs_embeddings: bool

    def search(self, queries: HostQueries, top_k: int, excluded: np.ndarray | None = None) -> types.Retrieved:
        """The best rows of the index for each query, best first.

        Args:
          queries: texts and embeddings.
          top_k: how many rows a query gets, at least 1.
          excluded: [batch, n] int rows that a query must not get; -1 for none.

        Returns:
          Retrieved of numpy arrays; ties by the lower id; score -inf and id 0 where nothing more was found.
        """
        ...
