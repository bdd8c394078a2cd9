"""The passage store: passages on disk with their token ids for reader and retriever. Writers append
to it by atomic commits.
"""

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
from atlas_jax.io.versioned_folder import Damage


class PassageStore:
    """One version of a store folder. `append` and `tokenize` move this object to the version they
    commit.

    A row is a passage. Rows are only appended; a later row supersedes an earlier row with the same
    docid.

    path  the folder: a pathlib.Path, or the text gs://…
    """

    def __init__(self, path: str | os.PathLike):
        """Opens a store folder; see `open`."""
        self._folder = Folder(path)
        self.path = self._folder.path
        self._tokenizers: store_writing.Tokenizers | None = None
        self._version = store_version.StoreVersion(())
        self._texts: list[store_text.TextReader] = []  # one for each segment
        self._load()

    @classmethod
    def build(cls, documents: str | os.PathLike | Iterable[corpus_documents.Document],
              path: str | os.PathLike, *, atlas: store_writing.HasTokenizers | None = None,
              max_words: int | None = corpus_passages.MAX_WORDS, overlap: int = 0,
              progress: bool = True) -> Self:
        """Cuts documents into passages and stores them.

        Args:
          documents: a file or folder (.jsonl, .txt, .md, .html), or any number of Documents.
          path: the store's folder; created if missing.
          atlas: the model whose tokenizers tokenise the passages; None stores only text, which
            Index.build tokenises.
          max_words: most words of a passage; None keeps every document whole.
          overlap: words that a piece of a longer document repeats from the piece before it.
          progress: shows bars.

        Raises:
          InputFileError: a document file is missing or wrong.
          ConfigError: max_words is below 1, or overlap is more than half of it.
          StoreError, DiskFullError: the same errors as `from_passages`.
        """
        if isinstance(documents, str | os.PathLike):
            documents = corpus_documents.read_documents(documents)
        passages = corpus_passages.split_passages(documents, max_words, overlap)
        if atlas is None:
            return cls.from_passages(passages, path, progress=progress)
        return cls.from_passages(passages, path, reader_tokenizer=atlas.reader_tokenizer,
                                 retriever_tokenizer=atlas.retriever_tokenizer, progress=progress)

    @classmethod
    def from_passages(cls, passages: Iterable[corpus_passages.Passage], path: str | os.PathLike, *,
                      reader_tokenizer: store_tokens.Tokenizer | None = None,
                      retriever_tokenizer: store_tokens.Tokenizer | None = None,
                      progress: bool = True) -> Self:
        """Writes passages into a store folder. A store that is already there stays readable until
        the new one replaces it.

        Args:
          passages: any number of passages, read once.
          path: the folder; created if missing.
          reader_tokenizer, retriever_tokenizer: tokenise the passages; without both the store holds
            only text.
          progress: shows bars.

        Raises:
          StoreError: no passages, a docid twice, an empty passage, another process is writing, or
            the folder holds something else.
          ConfigError: only one tokenizer is given.
          DiskFullError, StorageError.
        """
        tokenizers = store_writing.pair(reader_tokenizer, retriever_tokenizer)
        folder = Folder(path)
        store_writing.check_folder(folder)  # before the lock file makes it a folder of ours
        with store_writing.locked(folder):
            segment = store_writing.write_segment(folder, passages, tokenizers, progress)
            store_version.write(
                folder,
                store_version.StoreVersion((segment, ), *store_writing.fingerprints(tokenizers)))
            store_writing.clean(folder)
            store = cls(path)  # before another writer can replace it
        store._tokenizers = tokenizers
        return store

    @classmethod
    def open(cls, path: str | os.PathLike) -> Self:
        """Opens a store folder and reads no passage.

        Raises StoreError: no store is there, or a file is missing, cut, foreign or damaged.
        StorageError.
        """
        return cls(path)

    def __len__(self) -> int:
        return self._first_rows[-1]

    def __getitem__(self, row: int) -> corpus_passages.Passage:
        """Returns the passage of a row.

        Raises StoreError: that part of the store is damaged. IndexError.
        """
        text, row = self._locate(row)
        return text.passage(row)

    def docid(self, row: int) -> str:
        """Returns the docid of a row's passage. Raises the same errors as `store[row]`."""
        text, row = self._locate(row)
        return text.docid(row)

    def rows_of(self, docids: Sequence[str]) -> np.ndarray:
        """Returns the last row of each docid, [n] int64. Raises StoreError: an unknown docid."""
        if isinstance(docids, str):
            # A string is a sequence too, of one-letter docids.
            raise errors.StoreError(f'{self.path}: expected a list of docids, found "{docids}"; '
                                    'give a list')
        rows = np.zeros(len(docids), np.int64)
        for number, docid in enumerate(docids):
            if (row := self.find(docid)) is None:
                raise errors.StoreError(f'{self.path}: no passage "{docid}" in this store; check '
                                        'the docid')
            rows[number] = row
        return rows

    def find(self, docid: str) -> int | None:
        """Returns the last row of a docid, or None. Raises StoreError: the store is damaged."""
        return self._docid_table.last_row(docid) if isinstance(docid, str) else None

    def rows_of_document(self, docid: str) -> list[int]:
        """Returns the rows of a passage with this docid, or of the pieces of a document (id#0,
        id#1, ...); may be empty.

        Raises StoreError: the store is damaged.
        """
        pieces = (self.find(f'{docid}#{number}') for number in itertools.count())
        return [
            row for row in (self.find(docid),
                            *itertools.takewhile(lambda row: row is not None, pieces))
            if row is not None]

    def superseded(self) -> np.ndarray:
        """Returns [rows] bool: True if a later row has the same docid.

        Raises StoreError: the store is damaged.
        """
        return self._docid_table.superseded()

    def reader_table(self, width: int | None = None, *, max_tokens: int | None = None,
                     rows: tuple[int, int] | None = None) -> types.TokenTable:
        """Returns the passages as the reader's token ids, numpy arrays.

        Args:
          width: tokens in a row, a multiple of 128; by default wide enough for the longest passage.
          max_tokens: cuts longer passages, the text first; by default no passage is cut.
          rows: (first, after the last); by default all. Rows past the store's end are empty.

        Raises:
          StoreError: the store has no token ids, or damaged ones.
          ConfigError: width is too small or not a multiple of 128, or max_tokens is below 1.
        """
        return store_tokens.table(self._tokens('reader'), width, max_tokens, rows)

    def retriever_table(self, width: int | None = None, *, max_tokens: int | None = None,
                        rows: tuple[int, int] | None = None) -> types.TokenTable:
        """Returns the passages as the retriever's token ids. Arguments and errors are those of
        `reader_table`.
        """
        return store_tokens.table(self._tokens('retriever'), width, max_tokens, rows)

    def token_rows(self, side: str, rows: np.ndarray, width: int,
                   max_tokens: int) -> types.TokenTable:
        """Returns some passages as token ids, numpy arrays: rows of `reader_table` or
        `retriever_table`.

        Args:
          side: reader or retriever.
          rows: [n] int64, ascending.
          width: width of the table.
          max_tokens: cuts longer passages.

        Raises:
          StoreError: the store has no token ids, or damaged ones.
        """
        return store_tokens.rows_of(self._tokens(side), rows, width, max_tokens)

    @property
    def reader_lengths(self) -> np.ndarray:
        """[rows] int32: the reader's tokens of each passage, title and text together.

        Raises StoreError: the store has no token ids.
        """
        return np.concatenate([reader.lengths for reader in self._tokens('reader')])

    @property
    def retriever_lengths(self) -> np.ndarray:
        """[rows] int32: the retriever's tokens of each passage. Raises as `reader_lengths`."""
        return np.concatenate([reader.lengths for reader in self._tokens('retriever')])

    @property
    def retriever_title_lengths(self) -> np.ndarray:
        """[rows] int32: the title's part of `retriever_lengths`. Raises as `reader_lengths`."""
        return np.concatenate([reader.title_lengths for reader in self._tokens('retriever')])

    @property
    def retriever_tokenizer(self) -> str:
        """Fingerprint of the tokenizer that made the retriever's ids; '' if there are no ids."""
        return self._version.retriever_tokenizer

    def retriever_ids(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the retriever's ids of the `rows` [n] int64, ascending, in one array [tokens],
        and their lengths [n] int32.

        Raises StoreError: the store has no token ids, or damaged ones.
        """
        return store_tokens.flat(self._tokens('retriever'), rows)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the passages, their order and their tokenizers."""
        return self._version.fingerprint

    def fingerprint_of(self, rows: int) -> str:
        """Returns the fingerprint that the store had when it ended after `rows` passages; '' if it
        never did.
        """
        return self._version.fingerprint_of(rows)

    def append(self, passages: Iterable[corpus_passages.Passage], *,
               reader_tokenizer: store_tokens.Tokenizer | None = None,
               retriever_tokenizer: store_tokens.Tokenizer | None = None,
               progress: bool = True) -> None:
        """Adds passages as new rows, after the rows of other writers. A passage supersedes an
        earlier one with the same docid.

        The tokenizers may be left out if `from_passages`, `tokenize` or `check_tokenizers` of this
        object was given them before.

        Raises:
          StoreError: the same errors as `from_passages`, or the tokenizers are unknown or not the
            store's.
          ConfigError: only one tokenizer is given.
          DiskFullError, StorageError.
        """
        if (given := store_writing.pair(reader_tokenizer, retriever_tokenizer)) is not None:
            self.check_tokenizers(*given)
        with self._writing() as version:
            if version.has_tokens and self._tokenizers is None:
                raise errors.StoreError(f'{self.path}: appending to a tokenised store needs its '
                                        'tokenizers; give reader_tokenizer and '
                                        'retriever_tokenizer')
            # Another process may have tokenised the store since this object was opened.
            tokenizers = self._tokenizers if version.has_tokens else None
            store_writing.check_tokenizers(self.path, version, tokenizers)
            segment = store_writing.write_segment(self._folder, passages, tokenizers, progress)
            store_version.write(self._folder,
                                dataclasses.replace(version, segments=(*version.segments, segment)))

    def tokenize(self, reader_tokenizer: store_tokens.Tokenizer,
                 retriever_tokenizer: store_tokens.Tokenizer, progress: bool = True) -> None:
        """Adds token ids to a store without them; does nothing if it has these tokenizers' ids.

        Raises StoreError: it has other tokenizers' ids, or another process is writing.
        DiskFullError: the store stays as it was.
        """
        tokenizers = (reader_tokenizer, retriever_tokenizer)
        if not self._version.has_tokens:
            with self._writing() as version:
                if not version.has_tokens:  # another process may have done it meanwhile
                    segments = store_writing.write_tokens(self._folder, version.segments,
                                                          tokenizers, progress)
                    store_version.write(
                        self._folder,
                        store_version.StoreVersion(segments,
                                                   *store_writing.fingerprints(tokenizers)))
        self.check_tokenizers(*tokenizers)

    def check_tokenizers(self, reader_tokenizer: store_tokens.Tokenizer,
                         retriever_tokenizer: store_tokens.Tokenizer) -> None:
        """Checks that the store holds the ids of these tokenizers, and remembers them for `append`.

        Raises StoreError: it has no token ids, or those of other tokenizers; the message names both
        fingerprints.
        """
        self._require_tokens()
        store_writing.check_tokenizers(self.path, self._version,
                                       (reader_tokenizer, retriever_tokenizer))
        self._tokenizers = (reader_tokenizer, retriever_tokenizer)

    def copy_kept(self, path: str | os.PathLike, keep: np.ndarray) -> Self:
        """Writes a new store of the rows where `keep` [rows] bool is true, in order, with their
        token ids.

        Raises StoreError: no row is kept, `path` holds something else, or another process is
        writing there. DiskFullError.
        """
        folder = Folder(path)
        readers = self._token_readers if self._version.has_tokens else {}
        store_writing.check_folder(folder)
        with store_writing.locked(folder):
            store_writing.clean(folder)
            folder.remove('segment-00000')  # left by an earlier store
            segment = store_writing.write_kept(folder,
                                               (self[row] for row in np.flatnonzero(keep).tolist()),
                                               keep, readers)
            store_version.write(folder, dataclasses.replace(self._version, segments=(segment,)))
        return type(self)(path)

    def verify(self) -> None:
        """Reads every file and compares its SHA-256.

        Raises StoreError naming the first one that differs.
        """
        for problem in self.problems(self.path):
            raise errors.StoreError(f'{problem.path}: {problem.what}; {store_arrays.REMEDY}')

    @staticmethod
    def problems(path: str | os.PathLike) -> list[Damage]:
        """Reads every file of a store, even if it is too damaged to be opened, and returns the
        damage.

        Raises StoreError: no store there, or its manifest is damaged.
        """
        return store_version.damaged_files(Folder(path), store_version.read(Folder(path)),
                                           contents=True)

    @staticmethod
    def leftovers(path: str | os.PathLike) -> list[str]:
        """Returns the paths of files that killed writers left in a store. The next writer removes
        them. Raises the same errors as `problems`.
        """
        return [
            f'{path}/{name}'
            for name in store_version.leftovers(Folder(path), store_version.read(Folder(path)))]

    @contextlib.contextmanager
    def _writing(self) -> Iterator[store_version.StoreVersion]:
        """Yields the folder's present version under the writer lock. At the end this object moves
        to the version committed inside the block.
        """
        # Raises before the lock creates a folder.
        store_version.read(self._folder)
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
            # Another process has committed a new version and removed the files of this one.
            return self._load()
        self._version, self._texts = version, texts
        self._first_rows: list[int] = [
            0, *np.cumsum([segment.rows for segment in version.segments]).tolist()]
        for name in ('_docid_table', '_token_readers'):
            self.__dict__.pop(name, None)  # cached for the version before

    def _open_texts(self, version: store_version.StoreVersion) -> list[store_text.TextReader]:
        """Returns a reader for each segment: the one there is, or a new one."""
        known = {
            segment.name: (segment, text)
            for segment, text in zip(self._version.segments, self._texts, strict=True)}
        texts = []
        for segment in version.segments:
            known_segment, text = known.get(segment.name, (None, None))
            # A store that was built again may have another segment with the same name.
            if text is None or known_segment != segment:
                text = store_text.of_segment(self._folder, segment.name, segment.rows,
                                             segment.files)
            texts.append(text)
        return texts

    def _locate(self, row: int) -> tuple[store_text.TextReader, int]:
        """Returns a row's segment and the row in it. Negative rows count from the end.

        Raises IndexError.
        """
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
        return {
            side: [
                store_tokens.TokenReader(self._folder / segment.name / store_tokens.FOLDER / side,
                                         segment.rows)
                for segment in self._version.segments]
            for side in store_tokens.SIDES}

    def _tokens(self, side: str) -> list[store_tokens.TokenReader]:
        self._require_tokens()
        return self._token_readers[side]

    def _require_tokens(self) -> None:
        if not self._version.has_tokens:
            raise errors.StoreError(f'{self.path}: the passages are not tokenised; call '
                                    'store.tokenize(reader_tokenizer, '
                                    'retriever_tokenizer) or build the store with the tokenizers')
