"""An index of given embeddings, for tests that need embeddings only."""

import numpy as np

from atlas_jax.index.embedding_index import EmbeddingIndex
from tests.searchers.code_test import rows_of
from tests.testing.fake_store import FakeEmbedder, FakeStore

DIM = 16


class GivenEmbedder(FakeEmbedder):
    """Embeds row n as the n-th row of `rows_of`."""

    def __init__(self, seed: int = 0):
        super().__init__(DIM, seed)

    def rows_of(self, store, first: int, stop: int):
        """See building.RowEmbedder."""
        return lambda rows, bar: rows_of(10_000, DIM, seed=7)[first + rows]


def build(path, rows: int, dtype: str = 'float32', seed: int = 0) -> tuple[EmbeddingIndex, FakeStore]:
    """An index of so many rows, and its store."""
    store = FakeStore([(f'doc{row}', (1 + row % 40,)) for row in range(rows)])
    return EmbeddingIndex.build(store, GivenEmbedder(seed), path, dtype=dtype, progress=False), store


def grow(index: EmbeddingIndex, store: FakeStore, rows: int) -> None:
    """Adds so many rows."""
    store.passages += [(f'doc{row}', (1 + row % 40,)) for row in range(len(store), len(store) + rows)]
    index.add(store, GivenEmbedder(), progress=False)


def expected_factors(index: EmbeddingIndex, factors: np.ndarray) -> np.ndarray:
    """Factors [rows] with 0 for deleted rows."""
    return np.where(index.deleted, 0, factors)
