"""Writes a store's segments; the caller holds the lock and commits the manifest afterwards."""

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from atlas_jax import errors
from atlas_jax.corpus import passages as corpus_passages
from atlas_jax.corpus import store_manifest, store_text, store_tokens
from atlas_jax.io import lock
from atlas_jax.io import manifest as io_manifest
from atlas_jax.io.folder import Folder
from atlas_jax.runtime import progress as io_progress

Tokenizers = tuple[store_tokens.Tokenizer, store_tokens.Tokenizer]
_SEGMENT = re.compile(r'segment-(\d{5,})')


def pair(reader: store_tokens.Tokenizer | None, retriever: store_tokens.Tokenizer | None) -> Tokenizers | None:
    """Both tokenizers, or None for neither. Raises ConfigError for one alone."""
    if (reader is None) != (retriever is None):
        raise errors.ConfigError('a store has the token ids of both tokenizers or of none; '
                                 'give both reader_tokenizer and retriever_tokenizer')
    return None if reader is None else (reader, retriever)


def fingerprints(tokenizers: Tokenizers | None) -> tuple[str, str]:
    """The manifest's names of the tokenizers."""
    return ('', '') if tokenizers is None else (tokenizers[0].fingerprint, tokenizers[1].fingerprint)


@contextlib.contextmanager
def writing(folder: Folder) -> Iterator[None]:
    """Holds the writer's lock of a store folder; see io/lock.py."""
    with lock.writing(folder, 'store', errors.StoreError):
        yield


def check_folder(path: Folder) -> None:
    """Raises StoreError where a new store would mix with something else."""
    if path.local is not None and path.local.exists() and not path.local.is_dir():
        raise errors.StoreError(f'{path}: a file, not a folder; choose another folder')
    if not (names := path.children()):
        return
    ours = any(_SEGMENT.fullmatch(name) or _is_temporary(name) for name in names) or names <= {lock.FILE}
    with contextlib.suppress(OSError, ValueError, AttributeError):
        ours = json.loads(path.read(io_manifest.FILE)).get('format') == store_manifest.KIND.format
    if not ours:
        raise errors.StoreError(f'{path}: the folder holds something else ({min(names)}); choose an empty or a new one')


def write_segment(path: Folder, passages: Iterable[corpus_passages.Passage], tokenizers: Tokenizers | None,
                  progress: bool) -> store_manifest.Segment:
    """Writes passages into a new segment of the store folder; nobody sees it before the manifest names it.

    Raises StoreError: as PassageStore.from_passages. DiskFullError.
    """
    clean(path)
    numbers = [int(match[1]) for name in path.children() if (match := _SEGMENT.fullmatch(name))]
    name = f'segment-{max(numbers, default=-1) + 1:05d}'
    total = len(passages) if hasattr(passages, '__len__') else None
    with path.making(name) as folder:
        with _bar(total, 'Storing passages', progress) as bar:
            rows = store_text.write(folder, passages, path, bar)
        if tokenizers is not None:
            _write_tokens(folder / store_tokens.FOLDER, store_text.TextReader(folder, rows), tokenizers, progress)
        return store_manifest.Segment(name, rows, store_manifest.describe_files(folder))


def write_kept(path: Folder, passages: Iterable[corpus_passages.Passage], keep: np.ndarray,
               readers: dict[str, Sequence[store_tokens.TokenReader]]) -> store_manifest.Segment:
    """Writes the first segment of a new store: `passages`, which are the rows where `keep` [rows] is true, with their ids of `readers`.

    Raises StoreError, DiskFullError.
    """
    with path.making('segment-00000') as folder:
        rows = store_text.write(folder, passages, path)
        for side, parts in readers.items():
            store_tokens.copy(parts, keep, folder / store_tokens.FOLDER / side)
        return store_manifest.Segment('segment-00000', rows, store_manifest.describe_files(folder))


def write_tokens(path: Folder, segments: Sequence[store_manifest.Segment], tokenizers: Tokenizers,
                 progress: bool) -> tuple[store_manifest.Segment, ...]:
    """Adds token ids to segments that have none; returns their new entries. Raises DiskFullError."""
    written = []
    for segment in segments:
        folder = path / segment.name
        with folder.making(store_tokens.FOLDER) as temporary:
            _write_tokens(temporary, store_text.of_segment(path, segment.name, segment.rows, segment.files), tokenizers, progress)
            # Of the text's files the old entries stay: hashed anew, they would vouch for damage done since.
            added = {f'{store_tokens.FOLDER}/{file}': facts for file, facts in store_manifest.describe_files(temporary).items()}
        written.append(store_manifest.Segment(segment.name, segment.rows, {**segment.files, **added}))
    return tuple(written)


def clean(path: Folder) -> None:
    """Removes what the manifest does not name: older versions and what killed writers left."""
    manifest = store_manifest.Manifest(())
    with contextlib.suppress(errors.StoreError):
        manifest = store_manifest.read(path)
    if store_manifest.exists(path) and not manifest.segments:
        return  # damaged: what it named is not known
    named = {segment.name for segment in manifest.segments}
    for name in path.children():
        if _is_temporary(name) or _SEGMENT.fullmatch(name) and name not in named:
            path.remove(name)
    for segment in named:
        for name in (path / segment).children():
            if _is_temporary(name) or name == store_tokens.FOLDER and not manifest.has_tokens:
                (path / segment).remove(name)


def _write_tokens(folder: Folder, text: store_text.TextReader, tokenizers: Tokenizers, progress: bool) -> None:
    for side, tokenizer in zip(store_tokens.SIDES, tokenizers, strict=True):
        with _bar(text.rows, f'Tokenising for the {side}', progress) as bar:
            store_tokens.write(folder / side, text, tokenizer, bar)


def _bar(total: int | None, description: str, progress: bool):
    return io_progress.bar(total, description, ' passages') if progress else contextlib.nullcontext()


def _is_temporary(name: str) -> bool:
    """Whether io/atomic.py makes such names, for files and folders of a store."""
    return bool(re.fullmatch(r'\.(segment-\d+|tokens|manifest\.json)\.tmp\d+', name))
