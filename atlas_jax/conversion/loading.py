"""Opens and loads a model, a reader or a retriever of any kind: the one place that knows them all."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from atlas_jax import errors
from atlas_jax.conversion import hf, kinds, original, original_options, own, t5x, t5x_files, weights
from atlas_jax.models import atlas, contriever, t5
from atlas_jax.tasks import registry
from atlas_jax.tasks import task as task_lib


@dataclasses.dataclass(frozen=True)
class Opened:
    """A model in a folder, its parameters not read yet.

    kind, path: of kinds.detect.
    openers: 'reader', 'retriever', 'passage_encoder' (where it is not the retriever), as far as they are there -> what opens that part.
    tokenizer_places: 'reader' and 'retriever' -> folders that may have the tokenizer.
    inputs, n_context, task: None where the folder does not say.
    options: `opt` of an original checkpoint.
    step: training steps done.
    """

    kind: str
    path: pathlib.Path
    openers: Mapping[str, Callable[[], weights.Weights]]
    tokenizer_places: Mapping[str, list[pathlib.Path]]
    inputs: atlas.InputConfig | None = None
    n_context: int | None = None
    task: task_lib.Task | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    step: int = 0

    def part(self, name: str) -> weights.Weights:
        """One part. Raises ModelFolderError where it is not there or is broken."""
        if name not in self.openers:
            raise errors.ModelFolderError(f'{self.path}: holds no {name}, only {", ".join(self.openers)}; give a folder that has one')
        return self.openers[name]()


def open_model(path: str | os.PathLike, retriever_config: str | os.PathLike | None = None) -> Opened:
    """Opens a folder of any kind.

    Args:
      retriever_config: folder whose config.json describes the retriever of an original checkpoint; None looks beside it.

    Raises ModelFolderError: nothing known is there, or it is broken.
    """
    found = kinds.detect(path)
    if found.kind == kinds.PAIR:
        return _open_pair(found.path)
    if found.kind == kinds.ORIGINAL:
        return _open_original(found.path, retriever_config)
    if found.kind == kinds.ATLAS_JAX:
        return _open_own(found.path)
    if found.kind == kinds.RETRIEVER:
        return Opened(found.kind, found.path, {'retriever': lambda: hf.open_contriever(found.path)}, {'retriever': [found.path]})
    places = {'reader': [found.path, found.path.absolute().parent]}
    if found.kind == kinds.READER:
        return Opened(found.kind, found.path, {'reader': lambda: hf.open_t5(found.path)}, places)
    checkpoint = t5x_files.Checkpoint(found.path)
    return Opened(found.kind, found.path, {'reader': lambda: t5x.of_checkpoint(checkpoint)}, places, step=checkpoint.step)


def join(reader: Opened, retriever: Opened) -> Opened:
    """The reader of one model with the retriever of another; all else is the first one's."""
    openers = {name: opener for name, opener in retriever.openers.items() if name != 'reader'}
    openers = {name: opener for name, opener in reader.openers.items() if name == 'reader'} | openers
    places = {'reader': reader.tokenizer_places.get('reader', []), 'retriever': retriever.tokenizer_places.get('retriever', [])}
    return dataclasses.replace(reader, openers=openers, tokenizer_places=places)


def load_reader(path: str | os.PathLike) -> tuple[t5.T5Config, weights.Params]:
    """(config, params) of the reader in a folder of any kind; params float32, layers apart. Raises ModelFolderError."""
    opened = open_model(path).part('reader')
    return opened.config, opened.params()


def load_retriever(path: str | os.PathLike) -> tuple[contriever.ContrieverConfig, weights.Params]:
    """(config, params) of the retriever in a folder of any kind; params float32, layers apart. Raises ModelFolderError.

    Of two encoders it is the one of queries; `open_model(path).part('passage_encoder')` is the other.
    """
    opened = open_model(path).part('retriever')
    return opened.config, opened.params()


def _open_pair(path: pathlib.Path) -> Opened:
    """Folders reader/, retriever/ and perhaps passage_encoder/."""
    openers, places = {}, {}
    for name in ('reader', 'retriever', 'passage_encoder'):
        if (path / name).is_dir():
            kind = 'reader' if name == 'reader' else 'retriever'
            openers[name] = lambda name=name, kind=kind: open_model(path / name).part(kind)
            places[name] = [path / name]
    return Opened(kinds.PAIR, path, openers, places)


def _open_original(path: pathlib.Path, retriever_config: str | os.PathLike | None) -> Opened:
    checkpoint = original.Original(path)
    options = checkpoint.options
    beside = [parent / name for parent in list(path.absolute().parents)[:3] for name in ('', 'tokenizers')]
    places = {part: [folder / part for folder in beside] + original_options.folders(path, options.get(option))
              for part, option in (('reader', 'reader_model_type'), ('retriever', 'retriever_model_path'))}
    described = [pathlib.Path(retriever_config)] if retriever_config else [place for place in places['retriever']
                                                                           if (place / 'config.json').is_file()]
    config_folder = described[0] if described else None
    openers = {'reader': checkpoint.reader, 'retriever': lambda: checkpoint.retriever(config_folder),
               'passage_encoder': lambda: checkpoint.passage_encoder(config_folder)}
    return Opened(kinds.ORIGINAL, path, {part: openers[part] for part in checkpoint.parts}, places, original_options.inputs(path, options),
                  original_options.n_context(path, options), original_options.task(path, options), options, checkpoint.step)


def _open_own(path: pathlib.Path) -> Opened:
    run = own.Run(path)
    return Opened(kinds.ATLAS_JAX, path, {name: lambda name=name: run.part(name) for name in run.parts},
                  {part: [path / 'tokenizers' / part] for part in ('reader', 'retriever')}, run.config.inputs, run.config.n_context,
                  registry.from_dict(run.description['task']), step=run.step)
