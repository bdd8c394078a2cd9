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
from atlas_jax.runtime import progress
from atlas_jax.tasks import qa
from atlas_jax.tokenizers import bert as bert_tokenizer
from atlas_jax.tokenizers import t5 as t5_tokenizer

Parts = dict[str, weights.Weights[weights.Config]]
Tokenizers = dict[str, t5_tokenizer.T5Tokenizer | bert_tokenizer.BertTokenizer]

# The original's format is read only: whoever converts leaves it behind.
TARGETS = ('hf', 't5x', 'atlas_jax')
PARTS = ('reader', 'retriever', 'both')
DTYPES = ('float32', 'bfloat16')
# All of an original's `opt`, for people: nothing here reads it back.
OPTIONS_FILE = 'original_options.json'


@dataclasses.dataclass(frozen=True)
class Request:
    """A conversion.

    source: a model of any kind.
    to: one of TARGETS.
    out: folder to write.
    part: one of PARTS; None converts all parts, and only the reader to T5X.
    retriever: a second source, for a `source` without retriever.
    scan: writes T5X's scanned layers.
    dtype: one of DTYPES, for the parameters written.
    reader_tokenizer, retriever_tokenizer: folders of tokenizers that are not beside their models.

    Raises:
      ConfigError: options contradict each other.
    """

    source: str | os.PathLike
    to: str
    out: str | os.PathLike
    part: str | None = None
    retriever: str | os.PathLike | None = None
    scan: bool = False
    dtype: str = 'float32'
    reader_tokenizer: str | os.PathLike | None = None
    retriever_tokenizer: str | os.PathLike | None = None

    def __post_init__(self):
        for name, valid in (('to', TARGETS), ('part', (*PARTS, None)), ('dtype', DTYPES)):
            if getattr(self, name) not in valid:
                raise errors.ConfigError(f'--{name} is {getattr(self, name)!r}; choose one of {", ".join(filter(None, valid))}')
        if self.scan and self.to != 't5x':
            raise errors.ConfigError(f'--scan is a layout of T5X; leave it out with --to {self.to}')
        if self.to == 't5x' and self.part in ('retriever', 'both'):
            raise errors.ConfigError(f'--part {self.part}: T5X holds a reader only; convert the retriever by itself with --to hf')
        # A run folder is what training and answering start from: both models, in the precision they are trained in.
        if self.to == 'atlas_jax' and (self.part not in (None, 'both') or self.dtype != 'float32'):
            raise errors.ConfigError('--to atlas_jax takes both parts, in float32; leave --part and --dtype out')


def convert(request: Request) -> Parts:
    """Writes the folder `out`, whole or not at all; returns the parts that were written.

    Raises:
      ConfigError: `out` exists, or is in a bucket.
      FolderExistsError: another process is writing `out`, or has done so meanwhile.
      ModelFolderError: the source is broken or lacks a part, or the tokenizers of a run folder are missing.
      DiskFullError: the disk is full.
    """
    if is_remote(request.out):
        raise errors.ConfigError(f'{request.out}: a conversion is written to a disk; give a folder there, and copy it with `gcloud storage '
                                 'cp -r`')
    out = pathlib.Path(request.out)
    # Refused before anything is read, for a conversion of the largest models is long.
    if out.exists():
        raise errors.ConfigError(f'{out}: exists already; give a folder that does not exist yet')
    opened = loading.open_model(request.source, _folder(request.retriever_tokenizer))
    if request.retriever is not None:
        opened = loading.join(opened, loading.open_model(request.retriever))
    # Opening compares every name and shape with the configuration, and tokenizers are found: what can fail fails before `out` is begun.
    parts = {name: opened.part(name) for name in _wanted(request, opened)}
    tokenizers = _tokenizers(request, opened, parts)
    count = sum(len(part.shapes) for part in parts.values())
    with atomic.writing_folder(out) as folder, progress.bar(count, f'writing {out.name}', ' parameters') as bar:
        watched = {name: _watched(part, bar) for name, part in parts.items()}
        # The watched parts move the bar; those returned do not, so that a caller may read them again.
        if request.to == 't5x':
            t5x.write(folder, weights.reader(watched['reader']), request.scan, request.dtype, opened.step)
            _save(tokenizers, {'reader': folder})
            contents.write(folder)
        elif request.to == 'hf':
            # One part is a plain Hugging Face folder. Several lie side by side, a pair that is read again.
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
    """Returns the fields of DistillConfig that an original checkpoint was trained with; empty for other kinds. Raises ModelFolderError."""
    found = loading.detect(source)
    if found.kind != loading.ORIGINAL:
        return {}
    assert isinstance(found.path, pathlib.Path)  # of a bucket only run folders are found
    return original.distillation(found.path, loading.open_model(source).options)


def _wanted(request: Request, opened: loading.Opened) -> tuple[str, ...]:
    if request.to == 't5x':
        return ('reader',)
    if request.part in ('reader', 'retriever'):
        return (request.part,)
    # Hugging Face folders stand alone, so whatever the source holds is written.
    if request.part is None and request.to == 'hf':
        return tuple(opened.openers)
    missing = [name for name in ('reader', 'retriever') if name not in opened.openers]
    if missing:
        hint = 'give its folder by --retriever' if missing == ['retriever'] else 'give a source that has one'
        raise errors.ModelFolderError(f'{request.source}: holds no {missing[0]}, only {", ".join(opened.openers)}; {hint}')
    return tuple(opened.openers)


def _tokenizers(request: Request, opened: loading.Opened, parts: Parts) -> Tokenizers:
    """Finds the tokenizers of the parts. A run folder needs them; other kinds do without if none is found."""
    found: Tokenizers = {}
    # A Hugging Face or T5X folder is of use without a tokenizer; a run folder is not.
    for name, given in (('reader', request.reader_tokenizer), ('retriever', request.retriever_tokenizer)):
        places = opened.tokenizer_places.get(name, [])
        # The folder may have been given for the config.json of an original's retriever, and hold nothing else.
        if name == 'retriever' and given is not None and _folder(given) is not None and not loading.has_tokenizer([pathlib.Path(given)]):
            given = None
        # A tokenizer that was named is always read, so that a wrong path is an error and not a folder without tokenizer.
        needed = request.to == 'atlas_jax' or given is not None or loading.has_tokenizer(places)
        if name in parts and needed:
            find = loading.reader_tokenizer if name == 'reader' else loading.retriever_tokenizer
            found[name] = find(given, places, parts[name].config.vocab_size)
    return found


def _save(tokenizers: Tokenizers, folders: dict[str, pathlib.Path]) -> None:
    for name, tokenizer in tokenizers.items():
        tokenizer.save(folders[name])


def _write_run(folder: pathlib.Path, opened: loading.Opened, parts: Parts) -> None:
    # Models of other kinds do not state how many passages they read; one is the least that reads any,
    # and the original's default. 0 is a closed book, so only None falls back.
    config = atlas.AtlasConfig(weights.reader(parts['reader']).config, weights.retriever(parts['retriever']).config,
                               opened.inputs or atlas.InputConfig(), 1 if opened.n_context is None else opened.n_context)
    # Most options have no field in model.json; beside it they stay readable.
    if opened.options:
        atomic.write_json(folder / OPTIONS_FILE, original.options_to_json(opened.options))
    own.write(folder, own.describe(config, opened.task or qa.QATask(), 'passage_encoder' in parts), parts,
              [OPTIONS_FILE] if opened.options else [])


def _watched(part: weights.Weights[weights.Config], bar: Any) -> weights.Weights[weights.Config]:
    """Returns the same weights; every parameter moves the bar when it is first read."""
    # T5X repeats the one position bias for each of its scanned layers.
    seen: set[str] = set()

    def read(path: str) -> np.ndarray:
        bar.update(path not in seen)
        seen.add(path)
        return part.read(path)

    return dataclasses.replace(part, read=read)


def _folder(given: str | os.PathLike | None) -> pathlib.Path | None:
    """Returns the folder if it has a config.json, which describes an original's retriever; else None."""
    return pathlib.Path(given) if given is not None and (pathlib.Path(given) / 'config.json').is_file() else None
