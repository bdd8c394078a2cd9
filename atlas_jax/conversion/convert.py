"""Converts a model of any kind into another kind, one parameter in memory at a time."""

import dataclasses
import os
import pathlib
from typing import Any

from atlas_jax import errors
from atlas_jax.conversion import hf, kinds, loading, original_options, own, t5x, tokenizer_files, weights
from atlas_jax.io import atomic
from atlas_jax.models import atlas
from atlas_jax.runtime import progress
from atlas_jax.tasks import qa

TARGETS = ('hf', 't5x', 'atlas_jax')
PARTS = ('reader', 'retriever', 'both')
DTYPES = ('float32', 'bfloat16')
OPTIONS_FILE = 'original_options.json'


@dataclasses.dataclass(frozen=True)
class Request:
    """What to convert, and into what.

    source: any kind of model. to: one of TARGETS. out: folder to write.
    part: one of PARTS; None is all there is, of which T5X takes the reader.
    retriever: a second source, where `source` has no retriever.
    scan: T5X's scanned layers. dtype: one of DTYPES, of the parameters written.
    reader_tokenizer, retriever_tokenizer: where they do not lie with their models.

    Raises ConfigError for options that do not go together.
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
        if self.to == 'atlas_jax' and (self.part not in (None, 'both') or self.dtype != 'float32'):
            raise errors.ConfigError('--to atlas_jax takes both parts, in float32; leave --part and --dtype out')


def convert(request: Request) -> dict[str, weights.Weights]:
    """Writes the folder `out`, which is there as a whole or not at all; returns the parts that were written.

    Raises ConfigError where `out` exists; ModelFolderError for a source that is broken or lacks a part, and for missing tokenizers of a run
    folder; DiskFullError.
    """
    out = pathlib.Path(request.out)
    if out.exists():
        raise errors.ConfigError(f'{out}: exists already; give a folder that does not exist yet')
    opened = loading.open_model(request.source, _folder(request.retriever_tokenizer))
    if request.retriever is not None:
        opened = loading.join(opened, loading.open_model(request.retriever))
    parts = {name: opened.part(name) for name in _wanted(request, opened)}
    tokenizers = _tokenizers(request, opened, parts)
    with progress.bar(sum(len(part.shapes) for part in parts.values()), f'writing {out.name}', ' parameters') as bar:
        watched = {name: _watched(part, bar) for name, part in parts.items()}
        with atomic.writing_folder(out) as folder:
            if request.to == 't5x':
                t5x.write(folder, watched['reader'], request.scan, request.dtype, opened.step)
                _save(tokenizers, {'reader': folder})
            elif request.to == 'hf':
                folders = {name: folder if len(parts) == 1 else folder / name for name in parts}
                for name, part in watched.items():
                    hf.write(folders[name], part, request.dtype)
                _save(tokenizers, folders)
            else:
                _write_run(folder, opened, watched)
                _save(tokenizers, {name: folder / 'tokenizers' / name for name in tokenizers})
    return parts


def distillation_hint(source: str | os.PathLike) -> dict[str, Any]:
    """Fields of DistillConfig that an original checkpoint was trained with; empty for other kinds."""
    found = kinds.detect(source)
    if found.kind != kinds.ORIGINAL:
        return {}
    return original_options.distillation(found.path, loading.open_model(source).options)


def _wanted(request: Request, opened: loading.Opened) -> tuple[str, ...]:
    if request.to == 't5x':
        return ('reader',)
    if request.part in ('reader', 'retriever'):
        return (request.part,)
    if request.part is None and request.to == 'hf':
        return tuple(opened.openers)
    missing = [name for name in ('reader', 'retriever') if name not in opened.openers]
    if missing:
        hint = 'give its folder by --retriever' if missing == ['retriever'] else 'give a source that has one'
        raise errors.ModelFolderError(f'{request.source}: holds no {missing[0]}, only {", ".join(opened.openers)}; {hint}')
    return tuple(opened.openers)


def _tokenizers(request: Request, opened: loading.Opened, parts: dict[str, weights.Weights]) -> dict[str, Any]:
    """Of the parts; a run folder needs them, other kinds go without where none is found."""
    finders = {'reader': (tokenizer_files.reader_tokenizer, request.reader_tokenizer),
               'retriever': (tokenizer_files.retriever_tokenizer, request.retriever_tokenizer)}
    found = {}
    for name in (name for name in finders if name in parts):
        find, given = finders[name]
        places = opened.tokenizer_places.get(name, [])
        if request.to == 'atlas_jax' or given is not None or tokenizer_files.has_tokenizer(places):
            found[name] = find(given, places, parts[name].config.vocab_size)
    return found


def _save(tokenizers: dict[str, Any], folders: dict[str, pathlib.Path]) -> None:
    for name, tokenizer in tokenizers.items():
        tokenizer.save(folders[name])


def _write_run(folder: pathlib.Path, opened: loading.Opened, parts: dict[str, weights.Weights]) -> None:
    config = atlas.AtlasConfig(parts['reader'].config, parts['retriever'].config, opened.inputs or atlas.InputConfig(),
                               1 if opened.n_context is None else opened.n_context)
    own.write(folder, own.describe(config, opened.task or qa.QATask(), 'passage_encoder' in parts), parts)
    if opened.options:
        atomic.write_json(folder / OPTIONS_FILE, original_options.to_json(opened.options))


def _watched(part: weights.Weights, bar: Any) -> weights.Weights:
    """The same weights; every parameter that is read moves the bar."""
    def read(path: str):
        bar.update()
        return part.read(path)
    return dataclasses.replace(part, read=read)


def _folder(given: str | os.PathLike | None) -> pathlib.Path | None:
    """The folder, where it has the config.json that an original's retriever is described by."""
    return pathlib.Path(given) if given is not None and (pathlib.Path(given) / 'config.json').is_file() else None
