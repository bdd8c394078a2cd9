"""The passage store: passages with their token ids for reader and retriever on disk, appended to by atomic commits."""

import contextlib
import dataclasses
import functools
import operator
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from atlas_jax import errors, types
from atlas_jax.corpus import passages as corpus_passages
from atlas_jax.corpus import store_lock, store_manifest, store_text, store_tokens, store_writing


class PassageStore:
    """One version of a store folder; `append` and `tokenize` move this object to the version they commit.

    A row is a passage; rows are only ever appended, and a later row of the same docid supersedes an earlier one.

    path  the folder
    """

    def __init__(self, path: str | os.PathLike):
        """See `open`."""
        self.path = pathlib.Path(path)
        self._tokenizers: store_writing.Tokenizers | None = None
        self._manifest, self._texts = store_manifest.Manifest(()), []
        self._load()

    @classmethod
    def open(cls, path: str | os.PathLike) -> 'PassageStore':
        """Opens a store folder without reading passages.

        Raises StoreError: no store there, or a file is missing, cut, foreign or damaged.
        """
        return cls(path)

    @classmethod
    def build(cls, passages: Iterable[corpus_passages.Passage], path: str | os.PathLike, *,
              reader_tokenizer: store_tokens.Tokenizer | None = None, retriever_tokenizer: store_tokens.Tokenizer | None = None,
              progress: bool = True) -> 'PassageStore':
        """Writes passages into a store folder; a store that is already there stays readable until it gives way to the new one.

        Args:
          passages: any number, read once.
          path: the folder; made where missing.
          reader_tokenizer: with the retriever's, tokenises the passages; without both the store holds text alone, see `tokenize`.
          retriever_tokenizer: see reader_tokenizer.
          progress: whether to show bars.

        Raises:
          StoreError: no passages, a docid twice, an empty passage, another process is writing, or the folder holds something else.
          ConfigError: one tokenizer only. DiskFullError.
        """
        tokenizers = store_writing.pair(reader_tokenizer, retriever_tokenizer)
        path = pathlib.Path(path)
        store_writing.check_folder(path)
        with store_lock.writing(path):
            segment = store_writing.write_segment(path, passages, tokenizers, progress)
            store_manifest.write(path, store_manifest.Manifest((segment,), *store_writing.fingerprints(tokenizers)))
            store_writing.clean(path)
            store = cls(path)
        store._tokenizers = tokenizers
        return store

    def append(self, passages: Iterable[corpus_passages.Passage], *, reader_tokenizer: store_tokens.Tokenizer | None = None,
               retriever_tokenizer: store_tokens.Tokenizer | None = None, progress: bool = True) -> None:
        """Adds passages as new rows; one whose docid is there already supersedes it. Appends to what other writers have appended.

        The tokenizers are only needed where this object has not met them yet, in `build`, `tokenize` or `check_tokenizers`.

        Raises:
          StoreError: as `build`; also tokenizers that are unknown or not the store's.
        """
        if (given := store_writing.pair(reader_tokenizer, retriever_tokenizer)) is not None:
            self.check_tokenizers(*given)
        with self._writing() as manifest:
            if manifest.has_tokens and self._tokenizers is None:
                raise errors.StoreError(f'{self.path}: appending to a tokenised store needs its tokenizers; give reader_tokenizer and '
                                        'retriever_tokenizer')
            tokenizers = self._tokenizers if manifest.has_tokens else None
            _check(self.path, manifest, tokenizers)
            segment = store_writing.write_segment(self.path, passages, tokenizers, progress)
            store_manifest.write(self.path, dataclasses.replace(manifest, segments=(*manifest.segments, segment)))

    def tokenize(self, reader_tokenizer: store_tokens.Tokenizer, retriever_tokenizer: store_tokens.Tokenizer,
                 progress: bool = True) -> None:
        """Adds token ids to a store of text alone; does nothing where it has those of these tokenizers.

        Raises StoreError: it has those of other tokenizers, or another process is writing. DiskFullError; the store stays as it was.
        """
        tokenizers = (reader_tokenizer, retriever_tokenizer)
        if not self._manifest.has_tokens:
            with self._writing() as manifest:
                if not manifest.has_tokens:
                    segments = store_writing.write_tokens(self.path, manifest.segments, tokenizers, progress)
                    store_manifest.write(self.path, store_manifest.Manifest(segments, *store_writing.fingerprints(tokenizers)))
        self.check_tokenizers(*tokenizers)

    def check_tokenizers(self, reader_tokenizer: store_tokens.Tokenizer, retriever_tokenizer: store_tokens.Tokenizer) -> None:
        """Refuses tokenizers whose ids the store does not hold; remembers the right ones for `append`.

        Raises StoreError naming both fingerprints, or that there are no token ids.
        """
        self._require_tokens()
        _check(self.path, self._manifest, (reader_tokenizer, retriever_tokenizer))
        self._tokenizers = (reader_tokenizer, retriever_tokenizer)

    def verify(self) -> None:
        """Reads every file and compares its SHA-256. Raises StoreError naming the first one that differs."""
        store_manifest.check_files(self.path, self._manifest, contents=True)

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

    def reader_table(self, width: int | None = None, *, max_tokens: int | None = None) -> types.TokenTable:
        """The passages as the reader's token ids, numpy arrays.

        Args:
          width: of the table, a multiple of 128; default what the longest passage needs.
          max_tokens: longer passages are cut there, the text first; default none is cut.

        Raises:
          StoreError: no token ids in the store, or damaged ones. ConfigError: a width that is too small.
        """
        return store_tokens.table(self._tokens('reader'), width, max_tokens)

    def retriever_table(self, width: int | None = None, *, max_tokens: int | None = None) -> types.TokenTable:
        """The passages as the retriever's token ids; as `reader_table`."""
        return store_tokens.table(self._tokens('retriever'), width, max_tokens)

    @property
    def reader_lengths(self) -> np.ndarray:
        """[rows] int32 tokens of each passage, title and text together, for the reader. Raises StoreError: no token ids."""
        return np.concatenate([reader.lengths for reader in self._tokens('reader')])

    @property
    def retriever_lengths(self) -> np.ndarray:
        """As `reader_lengths`, for the retriever."""
        return np.concatenate([reader.lengths for reader in self._tokens('retriever')])

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the passages, their order and their tokenizers."""
        return self._manifest.fingerprint

    @property
    def reader_tokenizer_fingerprint(self) -> str:
        """Of the tokenizer that the reader's ids were made with; '' without token ids."""
        return self._manifest.reader_tokenizer

    @property
    def retriever_tokenizer_fingerprint(self) -> str:
        """As `reader_tokenizer_fingerprint`, for the retriever."""
        return self._manifest.retriever_tokenizer

    @contextlib.contextmanager
    def _writing(self) -> Iterator[store_manifest.Manifest]:
        """Gives the folder's present version under the writer's lock; afterwards this object is the version then committed."""
        store_manifest.read(self.path)  # where there is no store, there shall be no lock file either
        with store_lock.writing(self.path):
            manifest = store_manifest.read(self.path)
            store_writing.clean(self.path)
            yield manifest
            self._load()

    def _load(self) -> None:
        manifest = store_manifest.read(self.path)
        kept = {segment.name: (segment, text) for segment, text in zip(self._manifest.segments, self._texts, strict=True)}

        def reader(segment: store_manifest.Segment) -> store_text.TextReader:
            known, text = kept.get(segment.name, (None, None))
            return text if known == segment else store_text.TextReader(self.path / segment.name, segment.rows)

        try:
            store_manifest.check_files(self.path, manifest)
            texts = [reader(segment) for segment in manifest.segments]
        except errors.StoreError:
            if store_manifest.read(self.path) == manifest:
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
        return {side: [store_tokens.TokenReader(self.path / segment.name / store_tokens.FOLDER / side, segment.rows)
                       for segment in self._manifest.segments] for side in store_tokens.SIDES}

    def _tokens(self, side: str) -> list[store_tokens.TokenReader]:
        self._require_tokens()
        return self._token_readers[side]

    def _require_tokens(self) -> None:
        if not self._manifest.has_tokens:
            raise errors.StoreError(f'{self.path}: the passages are not tokenised; call store.tokenize(reader_tokenizer, '
                                    'retriever_tokenizer) or build the store with the tokenizers')


def _check(path: pathlib.Path, manifest: store_manifest.Manifest, tokenizers: store_writing.Tokenizers | None) -> None:
    for side, found, wanted in zip(store_tokens.SIDES, manifest.tokenizers, store_writing.fingerprints(tokenizers), strict=True):
        if found != wanted:
            raise errors.StoreError(f'{path}: its passages have the token ids of {side} tokenizer {found}, not of {wanted}; '
                                    'build a store for this model')
