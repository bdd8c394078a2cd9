"""A passage store as it is read: passages, docids, token tables."""

import functools
import operator
import os
from collections.abc import Sequence
from typing import Self

import numpy as np

from atlas_jax import errors, types
from atlas_jax.corpus import passages as corpus_passages
from atlas_jax.corpus import store_manifest, store_text, store_tokens
from atlas_jax.io.folder import Folder


class StoreReader:
    """One version of a store folder.

    path  the folder: a pathlib.Path, or the text gs://…
    """

    def __init__(self, path: str | os.PathLike):
        """See `open`."""
        self._folder = Folder(path)
        self.path = self._folder.path
        self._manifest, self._texts = store_manifest.Manifest(()), []
        self._load()

    @classmethod
    def open(cls, path: str | os.PathLike) -> Self:
        """Opens a store folder without reading passages.

        Raises StoreError: no store there, or a file is missing, cut, foreign or damaged.
        """
        return cls(path)

    def __len__(self) -> int:
        return self._first_rows[-1]

    def __getitem__(self, row: int) -> corpus_passages.Passage:
        """The passage of a row. Raises StoreError: that part of the store is damaged."""
        text, row = self._locate(row)
        return text.passage(row)

    def docid(self, row: int) -> str:
        """The outside name of a row's passage. Raises as `store[row]`."""
        text, row = self._locate(row)
        return text.docid(row)

    def rows_of(self, docids: Sequence[str]) -> np.ndarray:
        """The last row of each docid, [n] int64. Raises StoreError for an unknown one."""
        if isinstance(docids, str):
            raise errors.StoreError(f'{self.path}: expected a list of docids, found "{docids}"; put it into a list')
        rows = np.zeros(len(docids), np.int64)
        for number, docid in enumerate(docids):
            if not isinstance(docid, str) or (row := self._docid_table.last_row(docid)) is None:
                raise errors.StoreError(f'{self.path}: no passage "{docid}" in this store; check the docid')
            rows[number] = row
        return rows

    def superseded(self) -> np.ndarray:
        """[rows] bool: True where a later row has the same docid. Raises StoreError: damaged."""
        return self._docid_table.superseded()

    def reader_table(self, width: int | None = None, *, max_tokens: int | None = None,
                     rows: tuple[int, int] | None = None) -> types.TokenTable:
        """The passages as the reader's token ids, numpy arrays.

        Args:
          width: of the table, a multiple of 128; default what the longest passage of the store needs.
          max_tokens: longer passages are cut there, the text first; default none is cut.
          rows: (first, behind the last); default all. Past the store's end rows are empty.

        Raises:
          StoreError: no token ids in the store, or damaged ones. ConfigError: a width that is too small.
        """
        return store_tokens.table(self._tokens('reader'), width, max_tokens, rows)

    def retriever_table(self, width: int | None = None, *, max_tokens: int | None = None,
                        rows: tuple[int, int] | None = None) -> types.TokenTable:
        """The passages as the retriever's token ids; as `reader_table`."""
        return store_tokens.table(self._tokens('retriever'), width, max_tokens, rows)

    @property
    def reader_lengths(self) -> np.ndarray:
        """[rows] int32 tokens of each passage, title and text together, for the reader. Raises StoreError: no token ids."""
        return np.concatenate([reader.lengths for reader in self._tokens('reader')])

    @property
    def retriever_lengths(self) -> np.ndarray:
        """As `reader_lengths`, for the retriever."""
        return np.concatenate([reader.lengths for reader in self._tokens('retriever')])

    @property
    def retriever_title_lengths(self) -> np.ndarray:
        """[rows] int32, of `retriever_lengths` the part that is the title's."""
        return np.concatenate([reader.title_lengths for reader in self._tokens('retriever')])

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the passages, their order and their tokenizers."""
        return self._manifest.fingerprint

    def fingerprint_of(self, rows: int) -> str:
        """The fingerprint that the store had when it held its first `rows` passages alone; '' if it never did."""
        return self._manifest.fingerprint_of(rows)

    @property
    def reader_tokenizer_fingerprint(self) -> str:
        """Of the tokenizer that the reader's ids were made with; '' without token ids."""
        return self._manifest.reader_tokenizer

    @property
    def retriever_tokenizer_fingerprint(self) -> str:
        """As `reader_tokenizer_fingerprint`, for the retriever."""
        return self._manifest.retriever_tokenizer

    def _load(self) -> None:
        manifest = store_manifest.read(self._folder)
        kept = {segment.name: (segment, text) for segment, text in zip(self._manifest.segments, self._texts, strict=True)}

        def reader(segment: store_manifest.Segment) -> store_text.TextReader:
            known, text = kept.get(segment.name, (None, None))
            return text if known == segment else store_text.of_segment(self._folder, segment.name, segment.rows, segment.files)

        try:
            store_manifest.check_files(self._folder, manifest)
            texts = [reader(segment) for segment in manifest.segments]
        except errors.StoreError:
            if store_manifest.read(self._folder) == manifest:
                raise
            return self._load()  # a new version took its place meanwhile
        self._manifest, self._texts = manifest, texts
        self._first_rows = [0, *np.cumsum([segment.rows for segment in manifest.segments]).tolist()]
        for name in ('_docid_table', '_token_readers'):
            self.__dict__.pop(name, None)

    def _locate(self, row: int) -> tuple[store_text.TextReader, int]:
        row = operator.index(row)
        if not -len(self) <= row < len(self):
            raise IndexError(f'row {row} of a store of {len(self)} passages')
        row %= len(self)
        number = int(np.searchsorted(self._first_rows, row, 'right')) - 1
        return self._texts[number], row - self._first_rows[number]

    @functools.cached_property
    def _docid_table(self) -> store_text.DocidTable:
        return store_text.DocidTable(self._texts, self.docid)

    @functools.cached_property
    def _token_readers(self) -> dict[str, list[store_tokens.TokenReader]]:
        return {side: [store_tokens.TokenReader(self._folder / segment.name / store_tokens.FOLDER / side, segment.rows)
                       for segment in self._manifest.segments] for side in store_tokens.SIDES}

    def _tokens(self, side: str) -> list[store_tokens.TokenReader]:
        self._require_tokens()
        return self._token_readers[side]

    def _require_tokens(self) -> None:
        if not self._manifest.has_tokens:
            raise errors.StoreError(f'{self.path}: the passages are not tokenised; call store.tokenize(reader_tokenizer, '
                                    'retriever_tokenizer) or build the store with the tokenizers')
