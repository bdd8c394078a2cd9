"""What the index needs to know of a passage store: which passages its rows are, and which rows later ones supersede."""

import hashlib
import pathlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from atlas_jax import types


class Store(Protocol):
    """The part of corpus.store.PassageStore that the index uses. Rows are only ever appended.

    path               where it is
    fingerprint        of its whole content
    retriever_lengths  [rows] tokens of each passage, title and text together, for the retriever
    """

    path: pathlib.Path
    fingerprint: str
    retriever_lengths: np.ndarray

    def __len__(self) -> int: ...

    def docid(self, row: int) -> str:
        """The outside name of a row's passage; a later row of the same name supersedes it."""
        ...

    def rows_of(self, docids: Sequence[str]) -> np.ndarray:
        """The last row of each docid, [n] int. Raises StoreError for an unknown one."""
        ...

    def retriever_table(self, *, max_tokens: int | None = None) -> types.TokenTable:
        """The passages as the retriever's token ids."""
        ...


def rows_fingerprint(store: Store, rows: int) -> str:
    """Identifies the first `rows` passages, also after others were appended: SHA-256 (first 16 digits) of token counts and docids."""
    digest = hashlib.sha256(np.ascontiguousarray(store.retriever_lengths[:rows], '<i8').tobytes())
    for row in range(rows):
        digest.update(store.docid(row).encode() + b'\0')
    return digest.hexdigest()[:16]


def superseded(store: Store) -> np.ndarray:
    """[rows] bool: True where a later row has the same docid."""
    last = {store.docid(row): row for row in range(len(store))}
    mask = np.ones(len(store), bool)
    mask[np.fromiter(last.values(), np.int64, len(last))] = False
    return mask
