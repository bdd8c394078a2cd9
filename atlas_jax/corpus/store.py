"""The passage store: passages on disk with their token ids for reader and retriever, appended to by atomic commits."""

import contextlib
import dataclasses
import functools
import itertools
import operator
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Self

import numpy as np

from atlas_jax import errors, types
from atlas_jax.corpus import documents as corpus_documents
from atlas_jax.corpus import passages as corpus_passages
from atlas_jax.corpus import store_arrays, store_text, store_tokens, store_version, store_writing
from atlas_jax.io.folder import Folder


class PassageStore:
    """One version of a store folder; `append` and `tokenize` move this object to the version they commit.

    A row is a passage; rows are only ever appended, and a later row of the same docid supersedes an earlier one.

    path  the folder: a pathlib.Path, or the text gs://…
    """

    def __init__(self, path: str | os.PathLike):
        """Opens a store folder; see `open`."""
        self._folder = Folder(path)
        self.path = self._folder.path
        self._tokenizers: store_writing.Tokenizers | None = None
        self._version = store_version.StoreVersion(())
        self._texts: list[store_text.TextReader] = []  # of the version's segments
        self._load()

    @classmethod
    def build(cls, documents: str | os.PathLike | Iterable[corpus_documents.Document], path: str | os.PathLike, *,
              atlas: store_writing.HasTokenizers | None = None, max_words: int | None = corpus_passages.MAX_WORDS,
              overlap: int = 0, progress: bool = True) -> Self:
        """Cuts documents into passages and stores them.

        Args:
          documents: a file or folder (.jsonl, .txt, .md, .html), or any number of Documents.
          path: the store's folder; made where missing.
          atlas: the model whose tokenizers tokenise the passages; None stores text alone, and Index.build tokenises it.
          max_words: the most words of a passage; None keeps every document whole.
          overlap: words that a piece of a longer document repeats of the one before.
          progress: whether to show bars.

        Raises:
          InputFileError: a document file is missing or wrong.
          ConfigError: max_words below 1, or an overlap of more than half of it.
          StoreError, DiskFullError: as `from_passages`.
        """
        if isinstance(documents, str | os.PathLike):
            documents = corpus_documents.read_documents(documents)
        passages = corpus_passages.split_passages(documents, max_words, overlap)
        if atlas is None:
            return cls.from_passages(passages, path, progress=progress)
        return cls.from_passages(passages, path, reader_tokenizer=atlas.reader_tokenizer, retriever_tokenizer=atlas.retriever_tokenizer,
                                 progress=progress)

    @classmethod
    def from_passages(cls, passages: Iterable[corpus_passages.Passage], path: str | os.PathLike, *,
                      reader_tokenizer: store_tokens.Tokenizer | None = None, retriever_tokenizer: store_tokens.Tokenizer | None = None,
                      progress: bool = True) -> Self:
        """Writes passages into a store folder; a store that is already there stays readable until the new one replaces it.

        Args:
          passages: any number, read once.
          path: the folder; made where missing.
          reader_tokenizer: tokenises the passages, together with the retriever's; without both the store holds text alone.
          retriever_tokenizer: see reader_tokenizer.
          progress: whether to show bars.

        Raises:
          StoreError: no passages, a docid twice, an empty passage, another process is writing, or the folder holds something else.
          ConfigError: one tokenizer only.
          DiskFullError, StorageError.
        """
        tokenizers = store_writing.pair(reader_tokenizer, retriever_tokenizer)
        folder = Folder(path)
        store_writing.check_folder(folder)  # before the lock file makes it a folder of ours
        with store_writing.locked(folder):
            segment = store_writing.write_segment(folder, passages, tokenizers, progress)
            store_version.write(folder, store_version.StoreVersion((segment,), *store_writing.fingerprints(tokenizers)))
            store_writing.clean(folder)
            store = cls(path)  # before another writer can replace it
        store._tokenizers = tokenizers
        return store

    @classmethod
    def open(cls, path: str | os.PathLike) -> Self:
        """Opens a store folder; no passage is read.

        Raises StoreError: no store there, or a file is missing, cut, foreign or damaged. StorageError.
        """
        return cls(path)

    def __len__(self) -> int:
        return self._first_rows[-1]

    def __getitem__(self, row: int) -> corpus_passages.Passage:
        """Returns the passage of a row. Raises StoreError: that part of the store is damaged. IndexError."""
        text, row = self._locate(row)
        return text.passage(row)

    def docid(self, row: int) -> str:
        """Returns the docid of a row's passage. Raises StoreError, IndexError as `store[row]`."""
        text, row = self._locate(row)
        return text.docid(row)

    def rows_of(self, docids: Sequence[str]) -> np.ndarray:
        """Returns the last row of each docid, [n] int64. Raises StoreError: an unknown docid."""
        if isinstance(docids, str):
            # A string is a sequence too, of one-letter docids.
            raise errors.StoreError(f'{self.path}: expected a list of docids, found "{docids}"; give a list')
        rows = np.zeros(len(docids), np.int64)
        for number, docid in enumerate(docids):
            if (row := self.find(docid)) is None:
                raise errors.StoreError(f'{self.path}: no passage "{docid}" in this store; check the docid')
            rows[number] = row
        return rows

    def find(self, docid: str) -> int | None:
        """Returns the last row of a docid, None if there is none. Raises StoreError: damaged."""
        return self._docid_table.last_row(docid) if isinstance(docid, str) else None

    def rows_of_document(self, docid: str) -> list[int]:
        """Returns the rows that hold a passage, or the pieces of a document (id#0, id#1, ...); none where there is neither.

        Raises StoreError: damaged.
        """
        pieces = (self.find(f'{docid}#{number}') for number in itertools.count())
        return [row for row in (self.find(docid), *itertools.takewhile(lambda row: row is not None, pieces)) if row is not None]

    def superseded(self) -> np.ndarray:
        """Returns [rows] bool: True where a later row has the same docid. Raises StoreError: damaged."""
        return self._docid_table.superseded()

    def reader_table(self, width: int | None = None, *, max_tokens: int | None = None,
                     rows: tuple[int, int] | None = None) -> types.TokenTable:
        """Returns the passages as the reader's token ids, numpy arrays.

        Args:
          width: tokens in a row, a multiple of 128; by default as many as the store's longest passage needs.
          max_tokens: longer passages are cut there, the text first; by default no passage is cut.
          rows: (first, behind the last); by default all. Rows past the store's end are empty.

        Raises:
          StoreError: the store has no token ids, or damaged ones.
          ConfigError: a width that is too small or no multiple of 128, or max_tokens below 1.
        """
        return store_tokens.table(self._tokens('reader'), width, max_tokens, rows)

    def retriever_table(self, width: int | None = None, *, max_tokens: int | None = None,
                        rows: tuple[int, int] | None = None) -> types.TokenTable:
        """Returns the passages as the retriever's token ids. Raises StoreError, ConfigError: as `reader_table`."""
        return store_tokens.table(self._tokens('retriever'), width, max_tokens, rows)

    def token_rows(self, side: str, rows: np.ndarray, width: int, max_tokens: int) -> types.TokenTable:
        """Returns some passages as token ids, numpy arrays: the same rows that `reader_table` and `retriever_table` have.

        Args:
          side: reader or retriever.
          rows: [n] int64, ascending.
          width: of the table.
          max_tokens: longer passages are cut there.

        Raises:
          StoreError: the store has no token ids, or damaged ones.
        """
        return store_tokens.rows_of(self._tokens(side), rows, width, max_tokens)

    @property
    def reader_lengths(self) -> np.ndarray:
        """[rows] int32: the reader's tokens of each passage, title and text together. Raises StoreError: no token ids."""
        return np.concatenate([reader.lengths for reader in self._tokens('reader')])

    @property
    def retriever_lengths(self) -> np.ndarray:
        """[rows] int32: as `reader_lengths`, for the retriever. Raises StoreError: no token ids."""
        return np.concatenate([reader.lengths for reader in self._tokens('retriever')])

    @property
    def retriever_title_lengths(self) -> np.ndarray:
        """[rows] int32: the title's part of `retriever_lengths`. Raises StoreError: no token ids."""
        return np.concatenate([reader.title_lengths for reader in self._tokens('retriever')])

    @property
    def retriever_tokenizer(self) -> str:
        """The fingerprint of the tokenizer that made the retriever's ids; '' in a store of text alone."""
        return self._version.retriever_tokenizer

    def retriever_ids(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the retriever's ids of the `rows` [n] int64, ascending, one after another [tokens], and their lengths [n] int32.

        Raises StoreError: the store has no token ids, or damaged ones.
        """
        return store_tokens.flat(self._tokens('retriever'), rows)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the passages, their order and their tokenizers."""
        return self._version.fingerprint

    def fingerprint_of(self, rows: int) -> str:
        """Returns the fingerprint that the store had when it held its first `rows` passages alone; '' if it never did."""
        return self._version.fingerprint_of(rows)

    def append(self, passages: Iterable[corpus_passages.Passage], *, reader_tokenizer: store_tokens.Tokenizer | None = None,
               retriever_tokenizer: store_tokens.Tokenizer | None = None, progress: bool = True) -> None:
        """Adds passages as new rows; one whose docid is there already supersedes it. Appends to what other writers have appended.

        The tokenizers are not needed if `from_passages`, `tokenize` or `check_tokenizers` of this object was given them before.

        Raises:
          StoreError: as `from_passages`; also if the tokenizers are not known, or not the store's.
          ConfigError: one tokenizer only.
          DiskFullError, StorageError.
        """
        if (given := store_writing.pair(reader_tokenizer, retriever_tokenizer)) is not None:
            self.check_tokenizers(*given)
        with self._writing() as version:
            if version.has_tokens and self._tokenizers is None:
                raise errors.StoreError(f'{self.path}: appending to a tokenised store needs its tokenizers; give reader_tokenizer and '
                                        'retriever_tokenizer')
            # The folder's version counts, and not this object's: another process may have tokenised the store.
            tokenizers = self._tokenizers if version.has_tokens else None
            store_writing.check_tokenizers(self.path, version, tokenizers)
            segment = store_writing.write_segment(self._folder, passages, tokenizers, progress)
            store_version.write(self._folder, dataclasses.replace(version, segments=(*version.segments, segment)))

    def tokenize(self, reader_tokenizer: store_tokens.Tokenizer, retriever_tokenizer: store_tokens.Tokenizer,
                 progress: bool = True) -> None:
        """Adds token ids to a store of text alone; does nothing if it has these tokenizers' ids.

        Raises StoreError: it has other tokenizers' ids, or another process is writing. DiskFullError. The store then stays as it was.
        """
        tokenizers = (reader_tokenizer, retriever_tokenizer)
        if not self._version.has_tokens:
            with self._writing() as version:
                if not version.has_tokens:  # another process may have done it meanwhile
                    segments = store_writing.write_tokens(self._folder, version.segments, tokenizers, progress)
                    store_version.write(self._folder, store_version.StoreVersion(segments, *store_writing.fingerprints(tokenizers)))
        self.check_tokenizers(*tokenizers)

    def check_tokenizers(self, reader_tokenizer: store_tokens.Tokenizer, retriever_tokenizer: store_tokens.Tokenizer) -> None:
        """Checks that the store holds the ids of these tokenizers, and remembers them for `append`.

        Raises StoreError: other tokenizers' ids (the message names both fingerprints), or none at all.
        """
        self._require_tokens()
        store_writing.check_tokenizers(self.path, self._version, (reader_tokenizer, retriever_tokenizer))
        self._tokenizers = (reader_tokenizer, retriever_tokenizer)

    def copy_kept(self, path: str | os.PathLike, keep: np.ndarray) -> Self:
        """Writes a new store of the rows where `keep` [rows] bool is true, in their order, with their token ids.

        Raises StoreError: no row is kept, `path` holds something else, or another process is writing there. DiskFullError.
        """
        folder = Folder(path)
        readers = self._token_readers if self._version.has_tokens else {}
        store_writing.check_folder(folder)
        with store_writing.locked(folder):
            store_writing.clean(folder)
            folder.remove('segment-00000')  # of a store that is there already
            segment = store_writing.write_kept(folder, (self[row] for row in np.flatnonzero(keep).tolist()), keep, readers)
            store_version.write(folder, dataclasses.replace(self._version, segments=(segment,)))
        return type(self)(path)

    def verify(self) -> None:
        """Reads every file and compares its SHA-256. Raises StoreError naming the first one that differs."""
        for problem in self.problems(self.path):
            raise errors.StoreError(f'{problem.path}: {problem.what}; {store_arrays.REMEDY}')

    @staticmethod
    def problems(path: str | os.PathLike) -> list[store_version.DamagedFile]:
        """Reads every file of a store, even one too damaged to be opened, and returns the files that are not as they were written.

        Raises StoreError: no store there, or its manifest is damaged.
        """
        return store_version.damaged_files(Folder(path), store_version.read(Folder(path)), contents=True)

    @staticmethod
    def leftovers(path: str | os.PathLike) -> list[str]:
        """Returns the paths of what killed writers left in a store; the next writer removes it. Raises StoreError: as `problems`."""
        return [f'{path}/{name}' for name in store_writing.leftovers(Folder(path), store_version.read(Folder(path)))]

    @contextlib.contextmanager
    def _writing(self) -> Iterator[store_version.StoreVersion]:
        """Yields the folder's present version under the writer's lock; at the end this object becomes the version committed meanwhile."""
        store_version.read(self._folder)  # raises before the lock creates a folder where there is no store
        with store_writing.locked(self._folder):
            version = store_version.read(self._folder)
            store_writing.clean(self._folder)
            yield version
            self._load()

    def _load(self) -> None:
        """Reads the folder's present version. Raises StoreError: see `open`."""
        version = store_version.read(self._folder)
        try:
            store_version.check_files(self._folder, version)
            texts = self._open_texts(version)
        except errors.StoreError:
            if store_version.read(self._folder) == version:
                raise
            return self._load()  # another process has committed a new version and removed this one's files
        self._version, self._texts = version, texts
        self._first_rows: list[int] = [0, *np.cumsum([segment.rows for segment in version.segments]).tolist()]
        for name in ('_docid_table', '_token_readers'):
            self.__dict__.pop(name, None)  # cached for the version before

    def _open_texts(self, version: store_version.StoreVersion) -> list[store_text.TextReader]:
        """Returns a reader for each segment: the one there is, or a new one."""
        known = {segment.name: (segment, text) for segment, text in zip(self._version.segments, self._texts, strict=True)}
        texts = []
        for segment in version.segments:
            known_segment, text = known.get(segment.name, (None, None))
            # A segment of the same name can be another one, of a store that was built again.
            if text is None or known_segment != segment:
                text = store_text.of_segment(self._folder, segment.name, segment.rows, segment.files)
            texts.append(text)
        return texts

    def _locate(self, row: int) -> tuple[store_text.TextReader, int]:
        """Returns a row's segment and its row there; negative rows count from the end. Raises IndexError."""
        row = operator.index(row)
        if not -len(self) <= row < len(self):
            raise IndexError(f'row {row} of a store of {len(self)} passages')
        row %= len(self)  # negative rows count from the end
        number = int(np.searchsorted(self._first_rows, row, 'right')) - 1
        return self._texts[number], row - self._first_rows[number]

    @functools.cached_property
    def _docid_table(self) -> store_text.DocidTable:
        return store_text.DocidTable(self._texts, self.docid)

    @functools.cached_property
    def _token_readers(self) -> dict[str, list[store_tokens.TokenReader]]:
        return {side: [store_tokens.TokenReader(self._folder / segment.name / store_tokens.FOLDER / side, segment.rows)
                       for segment in self._version.segments] for side in store_tokens.SIDES}

    def _tokens(self, side: str) -> list[store_tokens.TokenReader]:
        self._require_tokens()
        return self._token_readers[side]

    def _require_tokens(self) -> None:
        if not self._version.has_tokens:
            raise errors.StoreError(f'{self.path}: the passages are not tokenised; call store.tokenize(reader_tokenizer, '
                                    'retriever_tokenizer) or build the store with the tokenizers')
