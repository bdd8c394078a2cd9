"""What the index needs to know of a passage store: which passages its rows are, and which rows later ones supersede."""

import hashlib
import pathlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from atlas_jax import types

_BLOCK_ROWS = 65536


class Store(Protocol):
    """The part of corpus.store.PassageStore that the index uses. Rows are only ever appended.

    path         where it is
    fingerprint  of its whole content
    """

    path: pathlib.Path
    fingerprint: str

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
    """Identifies the first `rows` passages, also after others were appended: SHA-256 (first 16 digits) of docids and token ids."""
    table, digest = store.retriever_table(), hashlib.sha256()
    for start in range(0, rows, _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, rows)
        lengths = np.asarray(table.lengths[start:stop])
        tokens = np.asarray(table.tokens[start:stop])
        # Padding and the width of the id type may change with passages appended later: they stay out.
        real = tokens[np.arange(tokens.shape[1]) < lengths[:, None]].astype('<u4')
        names = '\0'.join(store.docid(row) for row in range(start, stop))
        for part in (table.title_lengths[start:stop].astype('<i8'), lengths.astype('<i8'), real, np.frombuffer(names.encode(), np.uint8)):
            digest.update(part.tobytes())
    return digest.hexdigest()[:16]


def superseded(store: Store) -> np.ndarray:
    """[rows] bool: True where a later row has the same docid."""
    last = {store.docid(row): row for row in range(len(store))}
    mask = np.ones(len(store), bool)
    mask[np.fromiter(last.values(), np.int64, len(last))] = False
    return mask
