"""Converts a model of any kind into another kind, one parameter in memory at a time."""

import dataclasses
import os
import pathlib
from typing import Any

import numpy as np

from atlas_jax import errors
from atlas_jax.conversion import hf, hf_files, loading, original, own, t5x, weights
from atlas_jax.io import atomic, contents
from atlas_jax.io.folder import is_remote
from atlas_jax.models import atlas
from atlas_jax.options import check_options, option
from atlas_jax.runtime import progress
from atlas_jax.tasks import qa
from atlas_jax.tokenizers import bert_tokenizer, t5_tokenizer

Parts = dict[str, weights.Weights[weights.Config]]
Tokenizers = dict[str, t5_tokenizer.T5Tokenizer | bert_tokenizer.BertTokenizer]

# The original's format is read, never written.
TARGETS = ('hf', 't5x', 'atlas_jax')
PARTS = ('reader', 'retriever', 'both')
DTYPES = ('float32', 'bfloat16')
# All of an original's `opt`, for people; nothing reads it back.
OPTIONS_FILE = 'original_options.json'


@dataclasses.dataclass(frozen=True)
class Request:
    """A conversion.

    Attributes:
      source: model of any kind.
      to: kind to write, one of TARGETS.
      out: folder to write.
      part: one of PARTS; None converts all parts, to T5X only the reader.
      retriever: second source, for a `source` without retriever.
      scan: writes T5X's scanned layers.
      dtype: dtype of the written parameters, one of DTYPES.
      reader_tokenizer, retriever_tokenizer: folders of tokenizers that are not beside their models.

    Raises:
      ConfigError: an option is invalid, or two contradict each other.
    """

    source: str | os.PathLike
    to: str
    out: str | os.PathLike
    part: str | None = option(None, choices=PARTS)
    retriever: str | os.PathLike | None = None
    scan: bool = False
    dtype: str = option('float32', choices=DTYPES)
    reader_tokenizer: str | os.PathLike | None = None
    retriever_tokenizer: str | os.PathLike | None = None

    def __post_init__(self):
        if self.to not in TARGETS:
            raise errors.ConfigError(f'--to is "{self.to}"; choose one of {", ".join(TARGETS)}')
        check_options(self, '--')
        if self.scan and self.to != 't5x':
            raise errors.ConfigError(f'--scan is a layout of T5X; leave it out with --to {self.to}')
        if self.to == 't5x' and self.part in ('retriever', 'both'):
            raise errors.ConfigError(f'--part {self.part}: T5X holds a reader only; convert the '
                                     'retriever by itself with --to hf')
        # Training and answering start from a run folder, which therefore has both models, in the
        # precision of training.
        if self.to == 'atlas_jax' and (self.part not in (None, 'both') or self.dtype != 'float32'):
            raise errors.ConfigError('--to atlas_jax takes both parts, in float32; leave --part '
                                     'and --dtype out')


def convert(request: Request) -> Parts:
    """Writes the folder `out`, whole or not at all; returns the written parts.

    Raises:
      ConfigError: `out` exists, or is in a bucket.
      FolderExistsError: another process is writing `out`, or has just written it.
      ModelFolderError: the source is broken or lacks a part, or the tokenizers of a run folder are
        missing.
      DiskFullError: the disk is full.
    """
    if is_remote(request.out):
        raise errors.ConfigError(f'{request.out}: a conversion is written to a disk; give a '
                                 'folder there, and copy it with `gcloud storage cp -r`')
    out = pathlib.Path(request.out)
    # Refused before anything is read: converting the largest models takes long.
    if out.exists():
        raise errors.ConfigError(f'{out}: exists already; give a folder that does not exist yet')
    opened = loading.open_model(request.source, _folder(request.retriever_tokenizer))
    if request.retriever is not None:
        opened = loading.join(opened, loading.open_model(request.retriever))
    # Opening compares every name and shape with the configuration, and finds the tokenizers:
    # mistakes show before `out` is created.
    parts = {name: opened.part(name) for name in _wanted(request, opened)}
    tokenizers = _tokenizers(request, opened, parts)
    count = sum(len(part.shapes) for part in parts.values())
    with atomic.writing_folder(out) as folder, progress.bar(count, f'writing {out.name}',
                                                            ' parameters') as bar:
        watched = {name: _watched(part, bar) for name, part in parts.items()}
        # Only the watched parts move the bar, so that a caller may read the returned parts again.
        if request.to == 't5x':
            t5x.write(folder, weights.reader(watched['reader']), request.scan, request.dtype,
                      opened.step)
            _save(tokenizers, {'reader': folder})
            contents.write(folder)
        elif request.to == 'hf':
            # One part becomes a plain Hugging Face folder, several a pair: folders side by side.
            folders = {name: folder if len(parts) == 1 else folder / name for name in parts}
            for name, part in watched.items():
                hf.write(folders[name], part, request.dtype)
            _save(tokenizers, folders)
            for part_folder in folders.values():
                hf_files.write_checksums(part_folder)
        else:
            _save(tokenizers, {name: folder / 'tokenizers' / name for name in tokenizers})
            _write_run(folder, opened, watched)
    return parts


def distillation_hint(source: str | os.PathLike) -> dict[str, Any]:
    """Returns the fields of DistillConfig that an original checkpoint was trained with; empty for
    other kinds. Raises ModelFolderError.
    """
    found = loading.detect(source)
    if found.kind != loading.ORIGINAL:
        return {}
    assert isinstance(found.path, pathlib.Path)  # buckets only hold run folders
    return original.distillation(found.path, loading.open_model(source).options)


def _wanted(request: Request, opened: loading.Opened) -> tuple[str, ...]:
    if request.to == 't5x':
        return ('reader',)
    if request.part in ('reader', 'retriever'):
        return (request.part,)
    # Hugging Face folders stand alone, so every part of the source is written.
    if request.part is None and request.to == 'hf':
        return tuple(opened.openers)
    missing = [name for name in ('reader', 'retriever') if name not in opened.openers]
    if missing:
        hint = 'give a source that has one'
        if missing == ['retriever']:
            hint = 'give its folder by --retriever'
        raise errors.ModelFolderError(f'{request.source}: holds no {missing[0]}, only '
                                      f'{", ".join(opened.openers)}; {hint}')
    return tuple(opened.openers)


def _tokenizers(request: Request, opened: loading.Opened, parts: Parts) -> Tokenizers:
    """Finds the tokenizers of the parts. Only a run folder requires them."""
    found: Tokenizers = {}
    given_folders = {'reader': request.reader_tokenizer, 'retriever': request.retriever_tokenizer}
    for name, given in given_folders.items():
        places = opened.tokenizer_places.get(name, [])
        # The folder may hold only the config.json of an original's retriever.
        described = _folder(given)
        if name == 'retriever' and described and not loading.has_tokenizer([described]):
            given = None
        # A given tokenizer is always read, so that a wrong path is an error.
        needed = request.to == 'atlas_jax' or given is not None or loading.has_tokenizer(places)
        if name in parts and needed:
            find = loading.reader_tokenizer if name == 'reader' else loading.retriever_tokenizer
            found[name] = find(given, places, parts[name].config.vocab_size)
    return found


def _save(tokenizers: Tokenizers, folders: dict[str, pathlib.Path]) -> None:
    for name, tokenizer in tokenizers.items():
        tokenizer.save(folders[name])


def _write_run(folder: pathlib.Path, opened: loading.Opened, parts: Parts) -> None:
    # Most kinds do not state how many passages they read; the original's default is 1. 0 means
    # closed book, so only None falls back.
    config = atlas.AtlasConfig(
        weights.reader(parts['reader']).config,
        weights.retriever(parts['retriever']).config, opened.inputs or atlas.InputConfig(),
        1 if opened.n_context is None else opened.n_context)
    # Most options have no field in model.json, so this file keeps them.
    if opened.options:
        atomic.write_json(folder / OPTIONS_FILE, original.options_to_json(opened.options))
    own.write(folder, own.describe(config, opened.task or qa.QATask(), 'passage_encoder' in parts),
              parts, [OPTIONS_FILE] if opened.options else [])


def _watched(part: weights.Weights[weights.Config], bar: Any) -> weights.Weights[weights.Config]:
    """Returns the same weights; the first read of each parameter moves the bar."""
    # T5X's scanned layers read the one position bias once for each layer.
    seen: set[str] = set()

    def read(path: str) -> np.ndarray:
        bar.update(path not in seen)
        seen.add(path)
        return part.read(path)

    return dataclasses.replace(part, read=read)


def _folder(given: str | os.PathLike | None) -> pathlib.Path | None:
    """Returns the folder if it has a config.json, which describes an original's retriever."""
    folder = None if given is None else pathlib.Path(given)
    return folder if folder is not None and (folder / 'config.json').is_file() else None
