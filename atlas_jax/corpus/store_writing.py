"""Writes the segments of a store. The caller holds the lock and commits the new version afterwards.
"""

from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Protocol

import numpy as np

from atlas_jax import errors
from atlas_jax.corpus import passages as corpus_passages
from atlas_jax.corpus import store_text, store_tokens, store_version
from atlas_jax.io import versioned_folder
from atlas_jax.io.folder import Folder
from atlas_jax.runtime import progress

Tokenizers = tuple[store_tokens.Tokenizer, store_tokens.Tokenizer]
locked, check_folder = store_version.KIND.writing, store_version.KIND.require_free


class HasTokenizers(Protocol):
    """A model with the two tokenizers whose ids a store holds. `api.Atlas` is one."""

    @property
    def reader_tokenizer(self) -> store_tokens.Tokenizer:
        """The reader's tokenizer."""
        ...

    @property
    def retriever_tokenizer(self) -> store_tokens.Tokenizer:
        """The retriever's tokenizer."""
        ...


def pair(reader: store_tokens.Tokenizer | None,
         retriever: store_tokens.Tokenizer | None) -> Tokenizers | None:
    """Returns both tokenizers, or None for neither. Raises ConfigError: only one is given."""
    if reader is not None and retriever is not None:
        return reader, retriever
    if reader is None and retriever is None:
        return None
    raise errors.ConfigError('a store has the token ids of both tokenizers or of none; '
                             'give both reader_tokenizer and retriever_tokenizer')


def fingerprints(tokenizers: Tokenizers | None) -> tuple[str, str]:
    """Returns the tokenizers' fingerprints, the fields of StoreVersion."""
    return ('', '') if tokenizers is None else (tokenizers[0].fingerprint,
                                                tokenizers[1].fingerprint)


def check_tokenizers(path: object, version: store_version.StoreVersion,
                     tokenizers: Tokenizers | None) -> None:
    """Raises StoreError naming both fingerprints if the store holds the ids of other tokenizers."""
    for side, found, wanted in zip(store_tokens.SIDES, version.tokenizers, fingerprints(tokenizers),
                                   strict=True):
        if found != wanted:
            raise errors.StoreError(f'{path}: its passages have the token ids of {side} tokenizer '
                                    f'{found}, not of {wanted}; '
                                    'build a store for this model')


def write_segment(path: Folder, passages: Iterable[corpus_passages.Passage],
                  tokenizers: Tokenizers | None, show_progress: bool) -> store_version.StoreSegment:
    """Writes passages into a new segment of the store folder. Readers do not see it until a version
    names it.

    Raises the same errors as PassageStore.from_passages.
    """
    clean(path)  # so that no leftover takes the next number
    numbers = [
        int(match[1])
        for name in path.children()
        if (match := store_version.SEGMENT.fullmatch(name))]
    name = f'segment-{max(numbers, default=-1) + 1:05d}'
    total = len(passages) if isinstance(passages, Sized) else None
    with path.making(name) as folder:
        with progress.bar(total, 'Storing passages', ' passages', show=show_progress) as bar:
            rows = store_text.write(folder, passages, path, bar)
        if tokenizers is not None:
            _write_tokens(folder / store_tokens.FOLDER, store_text.TextReader(folder, rows),
                          tokenizers, show_progress)
        return store_version.StoreSegment(name, rows, versioned_folder.listed(folder))


def write_kept(
        path: Folder, passages: Iterable[corpus_passages.Passage], keep: np.ndarray,
        readers: Mapping[str, Sequence[store_tokens.TokenReader]]) -> store_version.StoreSegment:
    """Writes the first segment of a new store, which copies rows of another store.

    Args:
      path: the new store.
      passages: the copied rows.
      keep: [rows] bool, True for the rows of `readers` to copy.
      readers: the other store's token ids by side, one reader for each segment.

    Raises StoreError, DiskFullError.
    """
    with path.making('segment-00000') as folder:
        rows = store_text.write(folder, passages, path)
        for side, parts in readers.items():
            store_tokens.copy(parts, keep, folder / store_tokens.FOLDER / side)
        return store_version.StoreSegment('segment-00000', rows,
                                          versioned_folder.listed(folder))


def write_tokens(path: Folder, segments: Sequence[store_version.StoreSegment],
                 tokenizers: Tokenizers,
                 show_progress: bool) -> tuple[store_version.StoreSegment, ...]:
    """Adds token ids to segments without them, and returns the segments with them.

    Raises StoreError, DiskFullError.
    """
    written = []
    for segment in segments:
        folder = path / segment.name
        with folder.making(store_tokens.FOLDER) as temporary:
            _write_tokens(temporary,
                          store_text.of_segment(path, segment.name, segment.rows, segment.files),
                          tokenizers, show_progress)
            # The text's files keep their old checksums; new ones would hide damage.
            added = {
                f'{store_tokens.FOLDER}/{file}': facts
                for file, facts in versioned_folder.listed(temporary).items()}
        written.append(
            store_version.StoreSegment(segment.name, segment.rows, {**segment.files, **added}))
    return tuple(written)


def clean(path: Folder) -> None:
    """Removes what the store's version does not name: older versions and leftovers of killed
    writers.
    """
    version = store_version.KIND.read_if_whole(path)
    # The segments of a damaged manifest stay: restoring the manifest may still save them.
    if version is not None or not store_version.exists(path):
        store_version.KIND.remove_leftovers(path, version or store_version.StoreVersion(()))


def _write_tokens(folder: Folder, text: store_text.TextReader, tokenizers: Tokenizers,
                  show_progress: bool) -> None:
    for side, tokenizer in zip(store_tokens.SIDES, tokenizers, strict=True):
        with progress.bar(text.rows, f'Tokenising for the {side}', ' passages',
                          show=show_progress) as bar:
            store_tokens.write(folder / side, text, tokenizer, bar)
