"""The token ids of retrieved passages, which the host reads from the stores of one or several
indexes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from atlas_jax import types
from atlas_jax.corpus.store import PassageStore
from atlas_jax.knowledge.group import IndexGroup
from atlas_jax.knowledge.index_with_store import EmbeddingModel


class TokenRows:
    """Reads rows of a group of indexes; they are as wide as the tables on the devices would be.

    Raises IndexFolderError, StoreError: the same errors as Index.check.
    """

    def __init__(self, group: IndexGroup, atlas: EmbeddingModel, retriever_tokens: bool):
        """Opens the stores; `retriever_tokens` also reads the retriever's tokens."""
        for index in group.indexes:
            index.check(atlas)
        self._stores = [index.store for index in group.indexes]
        self._first_rows = np.asarray(group.first_rows(atlas.mesh))
        self._sides = {'reader': atlas.text_max_tokens}
        if retriever_tokens:
            self._sides['retriever'] = atlas.retriever_max_tokens
        self._empty = {
            side: [_table(store, side)(max_tokens=limit, rows=(0, 0)) for store in self._stores]
            for side, limit in self._sides.items()}

    def read(self, rows: np.ndarray) -> dict[str, types.TokenTable]:
        """Returns the passages of rows [batch, n] int in the reader's tokens, and in the
        retriever's if requested; see `side`.
        """
        return {side: self.side(side, rows) for side in self._sides}

    def side(self, side: str, rows: np.ndarray) -> types.TokenTable:
        """Returns the passages of rows [...] int in the tokens of reader or retriever: a table
        [..., width] of numpy arrays.

        Padding rows between two indexes are empty. Raises StoreError: damaged.
        """
        # Examples of a batch share passages. Sorted, they are read in the order of the disk.
        unique, places = np.unique(rows.astype(np.int64), return_inverse=True)
        width = max(empty.tokens.shape[1] for empty in self._empty[side])
        of_index = np.searchsorted(self._first_rows, unique, side='right') - 1
        parts = [
            store.token_rows(side, unique[of_index == number] - first, width, self._sides[side])
            for number, (store, first) in enumerate(
                zip(self._stores, self._first_rows.tolist(), strict=True))]

        def column(name: str) -> np.ndarray:
            whole = np.concatenate([getattr(part, name) for part in parts])
            return whole[places.reshape(rows.shape)]

        # Numpy arrays until they are placed on devices; TokenTable declares jax arrays.
        columns: dict[str, Any] = {
            name: column(name) for name in ('tokens', 'title_lengths', 'lengths')}
        return types.TokenTable(**columns)


def _table(store: PassageStore, side: str) -> Callable[..., types.TokenTable]:
    return store.reader_table if side == 'reader' else store.retriever_table
