"""What the index needs to know of a passage store."""

import os
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from atlas_jax import types


class Store(Protocol):
    """The part of corpus.store.PassageStore that the index uses. Rows are only ever appended.

    path         where it is
    fingerprint  of its whole content
    """

    path: str | os.PathLike
    fingerprint: str

    def __len__(self) -> int: ...

    def fingerprint_of(self, rows: int) -> str:
        """The fingerprint when the store held its first `rows` passages alone; '' if it never did."""
        ...

    def docid(self, row: int) -> str:
        """The outside name of a row's passage; a later row of the same name supersedes it."""
        ...

    def rows_of(self, docids: Sequence[str]) -> np.ndarray:
        """The last row of each docid, [n] int. Raises StoreError for an unknown one."""
        ...

    def superseded(self) -> np.ndarray:
        """[rows] bool: True where a later row has the same docid."""
        ...

    def retriever_table(self, *, max_tokens: int | None = None, rows: tuple[int, int] | None = None) -> types.TokenTable:
        """Passages as the retriever's token ids, of the same width whatever the rows."""
        ...

    def copy_kept(self, path: str | os.PathLike, keep: np.ndarray) -> 'Store':
        """Writes another store of the rows where `keep` [rows] bool is true."""
        ...
