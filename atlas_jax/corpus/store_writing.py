"""Writes a store's segments; the caller holds the lock and commits the new version afterwards."""

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Protocol

import numpy as np

from atlas_jax import errors
from atlas_jax.corpus import passages as corpus_passages
from atlas_jax.corpus import store_text, store_tokens, store_version
from atlas_jax.io import lock, manifest, untrusted
from atlas_jax.io.folder import Folder
from atlas_jax.runtime import progress

Tokenizers = tuple[store_tokens.Tokenizer, store_tokens.Tokenizer]
_SEGMENT = re.compile(r'segment-(\d{5,})')  # five digits sort by name; more still work


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


def pair(reader: store_tokens.Tokenizer | None, retriever: store_tokens.Tokenizer | None) -> Tokenizers | None:
    """Returns both tokenizers, or None for neither. Raises ConfigError for one alone."""
    if reader is not None and retriever is not None:
        return reader, retriever
    if reader is None and retriever is None:
        return None
    raise errors.ConfigError('a store has the token ids of both tokenizers or of none; '
                             'give both reader_tokenizer and retriever_tokenizer')


def fingerprints(tokenizers: Tokenizers | None) -> tuple[str, str]:
    """Returns the tokenizers' fingerprints as StoreVersion has them."""
    return ('', '') if tokenizers is None else (tokenizers[0].fingerprint, tokenizers[1].fingerprint)


def check_tokenizers(path: object, version: store_version.StoreVersion, tokenizers: Tokenizers | None) -> None:
    """Raises StoreError naming both fingerprints if the store holds the ids of other tokenizers."""
    for side, found, wanted in zip(store_tokens.SIDES, version.tokenizers, fingerprints(tokenizers), strict=True):
        if found != wanted:
            raise errors.StoreError(f'{path}: its passages have the token ids of {side} tokenizer {found}, not of {wanted}; '
                                    'build a store for this model')


@contextlib.contextmanager
def locked(folder: Folder) -> Iterator[None]:
    """Holds the writer's lock of a store folder. Raises StoreError: another writer holds it; see io/lock.py."""
    with lock.writing(folder, 'store', errors.StoreError):
        yield


def check_folder(path: Folder) -> None:
    """Raises StoreError if the folder holds something else than a store."""
    if path.local is not None and path.local.exists() and not path.local.is_dir():
        raise errors.StoreError(f'{path}: a file, not a folder; choose another folder')
    if not (names := path.children()):
        return
    # A first build that was killed leaves segments or a lock, and no manifest.
    ours = any(_SEGMENT.fullmatch(name) or _is_temporary(name) for name in names) or names <= {lock.FILE}
    with contextlib.suppress(OSError, ValueError, AttributeError):
        ours = untrusted.parse_json(path.read(manifest.FILE)).get('format') == store_version.KIND.format
    if not ours:
        raise errors.StoreError(f'{path}: the folder holds something else ({min(names)}); choose an empty or a new one')


def write_segment(path: Folder, passages: Iterable[corpus_passages.Passage], tokenizers: Tokenizers | None,
                  show_progress: bool) -> store_version.StoreSegment:
    """Writes passages into a new segment of the store folder; no reader sees it before a version names it.

    Raises StoreError: as PassageStore.from_passages. DiskFullError.
    """
    clean(path)  # so that no leftover takes the next number
    numbers = [int(match[1]) for name in path.children() if (match := _SEGMENT.fullmatch(name))]
    name = f'segment-{max(numbers, default=-1) + 1:05d}'
    total = len(passages) if isinstance(passages, Sized) else None
    with path.making(name) as folder:
        with progress.bar(total, 'Storing passages', ' passages', show=show_progress) as bar:
            rows = store_text.write(folder, passages, path, bar)
        if tokenizers is not None:
            _write_tokens(folder / store_tokens.FOLDER, store_text.TextReader(folder, rows), tokenizers, show_progress)
        return store_version.StoreSegment(name, rows, store_version.describe_files(folder))


def write_kept(path: Folder, passages: Iterable[corpus_passages.Passage], keep: np.ndarray,
               readers: Mapping[str, Sequence[store_tokens.TokenReader]]) -> store_version.StoreSegment:
    """Writes the first segment of a new store, a copy of another store's rows where `keep` [rows] bool is true.

    Args:
      path: the new store.
      passages: the kept rows.
      keep: which rows of `readers` these are.
      readers: the other store's token ids by side, a reader for each segment.

    Raises StoreError, DiskFullError.
    """
    with path.making('segment-00000') as folder:
        rows = store_text.write(folder, passages, path)
        for side, parts in readers.items():
            store_tokens.copy(parts, keep, folder / store_tokens.FOLDER / side)
        return store_version.StoreSegment('segment-00000', rows, store_version.describe_files(folder))


def write_tokens(path: Folder, segments: Sequence[store_version.StoreSegment], tokenizers: Tokenizers,
                 show_progress: bool) -> tuple[store_version.StoreSegment, ...]:
    """Adds token ids to segments that have none; returns the segments with them. Raises StoreError, DiskFullError."""
    written = []
    for segment in segments:
        folder = path / segment.name
        with folder.making(store_tokens.FOLDER) as temporary:
            _write_tokens(temporary, store_text.of_segment(path, segment.name, segment.rows, segment.files), tokenizers, show_progress)
            # The text's files keep their old hashes: new ones would vouch for damage done since.
            added = {f'{store_tokens.FOLDER}/{file}': facts for file, facts in store_version.describe_files(temporary).items()}
        written.append(store_version.StoreSegment(segment.name, segment.rows, {**segment.files, **added}))
    return tuple(written)


def clean(path: Folder) -> None:
    """Removes what the store's version does not name: older versions and leftovers of killed writers."""
    version = store_version.StoreVersion(())
    with contextlib.suppress(errors.StoreError):
        version = store_version.read(path)
    # Segments of a damaged manifest may still be saved, by restoring it.
    if store_version.exists(path) and not version.segments:
        return  # its manifest is damaged, so nobody knows what it named
    for name in leftovers(path, version):
        path.remove(name)


def leftovers(path: Folder, version: store_version.StoreVersion) -> list[str]:
    """Returns the files and folders of ours, by their names below `path`, that `version` does not name."""
    named = {segment.name for segment in version.segments}
    found = [name for name in path.children() if _is_temporary(name) or _SEGMENT.fullmatch(name) and name not in named]
    for segment in named:
        found += [f'{segment}/{name}' for name in (path / segment).children()
                  if _is_temporary(name) or name == store_tokens.FOLDER and not version.has_tokens]
        below = path / segment / store_tokens.FOLDER
        found += [f'{segment}/{store_tokens.FOLDER}/{name}' for name in below.children() if _is_temporary(name) and version.has_tokens]
    return sorted(found)


def _write_tokens(folder: Folder, text: store_text.TextReader, tokenizers: Tokenizers, show_progress: bool) -> None:
    for side, tokenizer in zip(store_tokens.SIDES, tokenizers, strict=True):
        with progress.bar(text.rows, f'Tokenising for the {side}', ' passages', show=show_progress) as bar:
            store_tokens.write(folder / side, text, tokenizer, bar)


def _is_temporary(name: str) -> bool:
    """Returns whether io/atomic.py gives such names to temporary files and folders of a store."""
    # `.lock` is in a temporary folder, and for a moment in the folder that has become of it.
    return bool(re.fullmatch(r'\.(lock|(segment-\d+|tokens|manifest\.json)\.tmp\d+)', name))
