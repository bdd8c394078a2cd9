"""Writes a store's segments; the caller holds the lock and commits the manifest afterwards."""

import contextlib
import json
import pathlib
import re
import shutil
from collections.abc import Iterable, Sequence

from atlas_jax import errors
from atlas_jax.corpus import passages as corpus_passages
from atlas_jax.corpus import store_lock, store_manifest, store_text, store_tokens
from atlas_jax.io import atomic
from atlas_jax.io import progress as io_progress

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


def check_folder(path: pathlib.Path) -> None:
    """Raises StoreError where a new store would mix with something else."""
    if path.exists() and not path.is_dir():
        raise errors.StoreError(f'{path}: a file, not a folder; choose another folder')
    if not path.is_dir():
        return
    names = {entry.name for entry in path.iterdir()}
    ours = any(_SEGMENT.fullmatch(name) or _is_temporary(name) for name in names) or names <= {store_lock.FILE}
    with contextlib.suppress(OSError, ValueError, AttributeError):
        ours = json.loads((path / store_manifest.FILE).read_text(encoding='utf-8')).get('format') == store_manifest.FORMAT
    if not ours:
        raise errors.StoreError(f'{path}: the folder holds something else ({min(names)}); choose an empty or a new one')


def write_segment(path: pathlib.Path, passages: Iterable[corpus_passages.Passage], tokenizers: Tokenizers | None,
                  progress: bool) -> store_manifest.Segment:
    """Writes passages into a new segment of the store folder; nobody sees it before the manifest names it.

    Raises StoreError: as PassageStore.build. DiskFullError.
    """
    clean(path)
    numbers = [int(match[1]) for entry in path.iterdir() if (match := _SEGMENT.fullmatch(entry.name))]
    name = f'segment-{max(numbers, default=-1) + 1:05d}'
    total = len(passages) if hasattr(passages, '__len__') else None
    with atomic.writing_folder(path / name) as folder:
        with _bar(total, 'Storing passages', progress) as bar:
            rows = store_text.write(folder, passages, path, bar)
        if tokenizers is not None:
            _write_tokens(folder / store_tokens.FOLDER, store_text.TextReader(folder, rows), tokenizers, progress)
        return store_manifest.Segment(name, rows, store_manifest.describe_files(folder))


def write_tokens(path: pathlib.Path, segments: Sequence[store_manifest.Segment], tokenizers: Tokenizers,
                 progress: bool) -> tuple[store_manifest.Segment, ...]:
    """Adds token ids to segments that have none; returns their new entries. Raises DiskFullError."""
    written = []
    for segment in segments:
        folder = path / segment.name
        with atomic.writing_folder(folder / store_tokens.FOLDER) as temporary:
            _write_tokens(temporary, store_text.TextReader(folder, segment.rows), tokenizers, progress)
            # Of the text's files the old entries stay: hashed anew, they would vouch for damage done since.
            added = {f'{store_tokens.FOLDER}/{file}': facts for file, facts in store_manifest.describe_files(temporary).items()}
        written.append(store_manifest.Segment(segment.name, segment.rows, {**segment.files, **added}))
    return tuple(written)


def clean(path: pathlib.Path) -> None:
    """Removes what the manifest does not name: older versions and what killed writers left."""
    manifest = store_manifest.Manifest(())
    with contextlib.suppress(errors.StoreError):
        manifest = store_manifest.read(path)
    if store_manifest.exists(path) and not manifest.segments:
        return  # damaged: what it named is not known
    named = {segment.name for segment in manifest.segments}
    for entry in list(path.iterdir()):
        if _is_temporary(entry.name) or _SEGMENT.fullmatch(entry.name) and entry.name not in named:
            _remove(entry)
    for name in named:
        for entry in list((path / name).iterdir()):
            if _is_temporary(entry.name) or entry.name == store_tokens.FOLDER and not manifest.has_tokens:
                _remove(entry)


def _write_tokens(folder: pathlib.Path, text: store_text.TextReader, tokenizers: Tokenizers, progress: bool) -> None:
    for side, tokenizer in zip(store_tokens.SIDES, tokenizers, strict=True):
        with _bar(text.rows, f'Tokenising for the {side}', progress) as bar:
            store_tokens.write(folder / side, text, tokenizer, bar)


def _bar(total: int | None, description: str, progress: bool):
    return io_progress.bar(total, description, ' passages') if progress else contextlib.nullcontext()


def _is_temporary(name: str) -> bool:
    """Whether io/atomic.py makes such names, for files and folders of a store."""
    return bool(re.fullmatch(r'\.(segment-\d+|tokens|manifest\.json)\.tmp\d+', name))


def _remove(path: pathlib.Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
