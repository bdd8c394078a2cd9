"""A passage store in memory and an embedder that needs no model, for tests of the index."""

import functools
import hashlib
import pathlib

import numpy as np

from atlas_jax import errors, types
from atlas_jax.index.embedded_by import EmbeddedBy


class FakeStore:
    """Passages given as (docid, token ids); the part of PassageStore that the index uses."""

    path = pathlib.Path('fake-store')

    def __init__(self, passages):
        self.passages = list(passages)

    @property
    def fingerprint(self) -> str:
        """Changes with any passage."""
        return self.fingerprint_of(len(self))

    def fingerprint_of(self, rows: int) -> str:
        """Of the first `rows` passages; '' where there are fewer."""
        return hashlib.sha256(repr(self.passages[:rows]).encode()).hexdigest()[:16] if rows <= len(self) else ''

    def __len__(self) -> int:
        return len(self.passages)

    def superseded(self) -> np.ndarray:
        """Rows with a later row of the same docid."""
        names = [docid for docid, _ in self.passages]
        return np.array([name in names[row + 1:] for row, name in enumerate(names)], bool)

    def docid(self, row: int) -> str:
        """The passage's name."""
        return self.passages[row][0]

    def rows_of(self, docids) -> np.ndarray:
        """The last row of each docid."""
        last = {docid: row for row, (docid, _) in enumerate(self.passages)}
        for docid in docids:
            if docid not in last:
                raise errors.StoreError(f'{self.path}: no passage "{docid}"')
        return np.array([last[docid] for docid in docids], np.int64)

    def retriever_table(self, *, max_tokens: int | None = None, rows: tuple[int, int] | None = None) -> types.TokenTable:
        """The passages' tokens; the first of each is its title."""
        start, stop = rows or (0, len(self))
        chosen = self.passages[start:stop]
        tokens = np.zeros((stop - start, 128), np.uint16)
        for row, (_, ids) in enumerate(chosen):
            tokens[row, :len(ids)] = ids
        lengths = np.array([len(ids) for _, ids in chosen], np.int32)
        return types.TokenTable(tokens=tokens, title_lengths=np.minimum(lengths, 1), lengths=lengths)

    @property
    def retriever_lengths(self) -> np.ndarray:
        """Tokens of each passage."""
        return np.array([len(ids) for _, ids in self.passages], np.int32)

    @property
    def retriever_title_lengths(self) -> np.ndarray:
        """Lengths of the titles alone."""
        return np.minimum(self.retriever_lengths, 1)

    def copy_kept(self, path, keep: np.ndarray) -> 'FakeStore':
        """Another store of the kept passages."""
        copy = FakeStore([passage for passage, kept in zip(self.passages, keep, strict=True) if kept])
        copy.path = pathlib.Path(path)
        return copy


class FakeEmbedder:
    """An embedding is a fixed projection of the token counts to whole numbers; counts what it embeds, and can be slow or break."""

    max_tokens = 128

    def __init__(self, dim: int = 7, seed: int = 0, stop_after: int | None = None):
        self.dim, self.embedded, self._stop_after = dim, 0, stop_after
        self.record = EmbeddedBy(weights=f'fake{seed:012d}', dtype='float32', pooling='average', normalize=False, dim=dim,
                                      passage_format='{title} {text}', passage_tokens='["title", "text"]', max_tokens=self.max_tokens)
        self.fingerprint = self.record.fingerprint
        self._projection = np.random.default_rng(seed).integers(-9, 10, (50, dim)).astype(np.float32)

    def old_limit(self, fingerprint: str) -> int | None:
        """No index is from before records."""

    def whole_lengths(self, title_lengths: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """The format adds no tokens."""
        return lengths

    def rows_of(self, store, first: int, stop: int):
        """As PassageEmbedder does."""
        return functools.partial(self.embed, store.retriever_table(max_tokens=self.max_tokens, rows=(first, stop)))

    def embed(self, table: types.TokenTable, rows: np.ndarray, progress=None) -> np.ndarray:
        """[n, dim] float32; raises RuntimeError once more than `stop_after` rows were asked for."""
        if self._stop_after is not None and self.embedded + len(rows) > self._stop_after:
            raise RuntimeError('killed')
        self.embedded += len(rows)
        counts = np.stack([np.bincount(table.tokens[row], minlength=50) for row in rows]).astype(np.float32)
        if progress is not None:
            progress.update(len(rows))
        return counts @ self._projection


def passages(rows: int, seed: int = 0, prefix: str = 'doc') -> list[tuple[str, tuple[int, ...]]]:
    """Passages of 0 to 12 random tokens with docids `prefix`0, `prefix`1 …"""
    generator = np.random.default_rng(seed)
    return [(f'{prefix}{row}', tuple(generator.integers(1, 50, generator.integers(0, 13)).tolist())) for row in range(rows)]
