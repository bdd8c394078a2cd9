"""The passage store: passages with their token ids for reader and retriever on disk, appended to by atomic commits."""

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Iterator
from typing import Protocol, Self

import numpy as np

from atlas_jax import errors
from atlas_jax.corpus import documents as corpus_documents
from atlas_jax.corpus import passages as corpus_passages
from atlas_jax.corpus import store_arrays, store_manifest, store_reading, store_tokens, store_writing
from atlas_jax.io.folder import Folder


class HasTokenizers(Protocol):
    """A model as the store knows it: the two tokenizers whose ids it holds. `api.Atlas` is one."""

    @property
    def reader_tokenizer(self) -> store_tokens.Tokenizer:
        """The reader's tokenizer."""
        ...

    @property
    def retriever_tokenizer(self) -> store_tokens.Tokenizer:
        """The retriever's tokenizer."""
        ...


class PassageStore(store_reading.StoreReader):
    """One version of a store folder; `append` and `tokenize` move this object to the version they commit.

    A row is a passage; rows are only ever appended, and a later row of the same docid supersedes an earlier one.

    path  the folder: a pathlib.Path, or the text gs://…
    """

    _tokenizers: store_writing.Tokenizers | None = None

    @classmethod
    def build(cls, documents: str | os.PathLike | Iterable[corpus_documents.Document], path: str | os.PathLike, *,
              atlas: HasTokenizers | None = None, max_words: int = corpus_passages.MAX_WORDS, progress: bool = True) -> Self:
        """Cuts documents into passages and stores them.

        Args:
          documents: a file or folder (.jsonl, .txt, .md, .html), or any number of Documents.
          path: the store's folder; made where missing.
          atlas: the model whose tokenizers tokenise the passages; None stores text alone, and Index.build tokenises it.
          max_words: the most words of a passage.
          progress: whether to show bars.

        Raises:
          InputFileError: a document file is missing or wrong.
          ConfigError: max_words below 1.
          StoreError, DiskFullError: as `from_passages`.
        """
        if isinstance(documents, str | os.PathLike):
            documents = corpus_documents.read_documents(documents)
        passages = corpus_passages.split_passages(documents, max_words)
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
          reader_tokenizer: with the retriever's, tokenises the passages; without both the store holds text alone, see `tokenize`.
          retriever_tokenizer: see reader_tokenizer.
          progress: whether to show bars.

        Raises:
          StoreError: no passages, a docid twice, an empty passage, another process is writing, or the folder holds something else.
          ConfigError: one tokenizer only. DiskFullError.
        """
        tokenizers = store_writing.pair(reader_tokenizer, retriever_tokenizer)
        folder = Folder(path)
        store_writing.check_folder(folder)
        with store_writing.writing(folder):
            segment = store_writing.write_segment(folder, passages, tokenizers, progress)
            store_manifest.write(folder, store_manifest.Manifest((segment,), *store_writing.fingerprints(tokenizers)))
            store_writing.clean(folder)
            store = cls(path)
        store._tokenizers = tokenizers
        return store

    def append(self, passages: Iterable[corpus_passages.Passage], *, reader_tokenizer: store_tokens.Tokenizer | None = None,
               retriever_tokenizer: store_tokens.Tokenizer | None = None, progress: bool = True) -> None:
        """Adds passages as new rows; one whose docid is there already supersedes it. Appends to what other writers have appended.

        The tokenizers are only needed where this object has not met them yet, in `from_passages`, `tokenize` or `check_tokenizers`.

        Raises:
          StoreError: as `from_passages`; also tokenizers that are unknown or not the store's.
        """
        if (given := store_writing.pair(reader_tokenizer, retriever_tokenizer)) is not None:
            self.check_tokenizers(*given)
        with self._writing() as manifest:
            if manifest.has_tokens and self._tokenizers is None:
                raise errors.StoreError(f'{self.path}: appending to a tokenised store needs its tokenizers; give reader_tokenizer and '
                                        'retriever_tokenizer')
            tokenizers = self._tokenizers if manifest.has_tokens else None
            _check(self.path, manifest, tokenizers)
            segment = store_writing.write_segment(self._folder, passages, tokenizers, progress)
            store_manifest.write(self._folder, dataclasses.replace(manifest, segments=(*manifest.segments, segment)))

    def tokenize(self, reader_tokenizer: store_tokens.Tokenizer, retriever_tokenizer: store_tokens.Tokenizer,
                 progress: bool = True) -> None:
        """Adds token ids to a store of text alone; does nothing where it has those of these tokenizers.

        Raises StoreError: it has those of other tokenizers, or another process is writing. DiskFullError; the store stays as it was.
        """
        tokenizers = (reader_tokenizer, retriever_tokenizer)
        if not self._manifest.has_tokens:
            with self._writing() as manifest:
                if not manifest.has_tokens:
                    segments = store_writing.write_tokens(self._folder, manifest.segments, tokenizers, progress)
                    store_manifest.write(self._folder, store_manifest.Manifest(segments, *store_writing.fingerprints(tokenizers)))
        self.check_tokenizers(*tokenizers)

    def check_tokenizers(self, reader_tokenizer: store_tokens.Tokenizer, retriever_tokenizer: store_tokens.Tokenizer) -> None:
        """Refuses tokenizers whose ids the store does not hold; remembers the right ones for `append`.

        Raises StoreError naming both fingerprints, or that there are no token ids.
        """
        self._require_tokens()
        _check(self.path, self._manifest, (reader_tokenizer, retriever_tokenizer))
        self._tokenizers = (reader_tokenizer, retriever_tokenizer)

    def copy_kept(self, path: str | os.PathLike, keep: np.ndarray) -> Self:
        """Writes another store of the rows where `keep` [rows] bool is true, in their order, with their token ids.

        Raises StoreError: none is kept, `path` holds something else, or another process is writing there. DiskFullError.
        """
        folder, readers = Folder(path), self._token_readers if self._manifest.has_tokens else {}
        store_writing.check_folder(folder)
        with store_writing.writing(folder):
            store_writing.clean(folder)
            folder.remove('segment-00000')
            segment = store_writing.write_kept(folder, (self[row] for row in np.flatnonzero(keep)), keep, readers)
            store_manifest.write(folder, dataclasses.replace(self._manifest, segments=(segment,)))
        return type(self)(path)

    def verify(self) -> None:
        """Reads every file and compares its SHA-256. Raises StoreError naming the first one that differs."""
        for problem in self.problems(self.path):
            raise errors.StoreError(f'{problem.path}: {problem.what}; {store_arrays.REMEDY}')

    @staticmethod
    def problems(path: str | os.PathLike) -> list[store_manifest.Problem]:
        """Reads every file of a store, which may be too damaged to be opened, and names those that are not as they were written.

        Raises StoreError: no store there, or its manifest is damaged.
        """
        return store_manifest.problems(Folder(path), store_manifest.read(Folder(path)), contents=True)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[store_manifest.Manifest]:
        """Gives the folder's present version under the writer's lock; afterwards this object is the version then committed."""
        store_manifest.read(self._folder)  # where there is no store, there shall be no lock file either
        with store_writing.writing(self._folder):
            manifest = store_manifest.read(self._folder)
            store_writing.clean(self._folder)
            yield manifest
            self._load()


def _check(path: object, manifest: store_manifest.Manifest, tokenizers: store_writing.Tokenizers | None) -> None:
    for side, found, wanted in zip(store_tokens.SIDES, manifest.tokenizers, store_writing.fingerprints(tokenizers), strict=True):
        if found != wanted:
            raise errors.StoreError(f'{path}: its passages have the token ids of {side} tokenizer {found}, not of {wanted}; '
                                    'build a store for this model')
