"""Our own run folders, read and written one parameter at a time."""

import functools
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from atlas_jax.checkpoints import run_folder, streaming
from atlas_jax.conversion import hf_names, weights
from atlas_jax.io import contents
from atlas_jax.io.folder import Folder, Place
from atlas_jax.models import atlas
from atlas_jax.tasks import registry
from atlas_jax.tasks import task as task_lib


class Run:
    """A checkpoint of a run folder, by default the newest.

    Attributes:
      description: content of model.json.
      config: its AtlasConfig, or RetrieverConfig if the retriever was trained alone.
      step: training steps done.
      parts: 'reader', 'retriever' and perhaps 'passage_encoder'.

    Raises:
      ModelFolderError: the folder has no model or no such checkpoint.
    """

    def __init__(self, path: Place, step: int | None = None):
        self.path = Folder(path)
        self.description = run_folder.read_model_file(path)
        self.config = atlas.config_from_dict(self.description)
        self._stored = streaming.StoredParams(path, step)
        self.step = self._stored.step
        # A run has a passage encoder only if it differs from the retriever.
        found = {name.split('/')[0] for name in self._stored.shapes}
        self.parts = tuple(
            part for part in ('reader', 'retriever', 'passage_encoder') if part in found)

    def part(self, name: str) -> weights.Weights[weights.Config]:
        """Opens one part. Raises ModelFolderError if its parameters do not fit its configuration.
        """
        config: weights.Config = self.config.retriever
        if name == 'reader' and isinstance(self.config, atlas.AtlasConfig):
            config = self.config.reader
        # A checkpoint keeps layers together, Weights has them apart: path -> (path in the
        # checkpoint, layer or None).
        places: dict[str, tuple[str, int | None]] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for stored, shape in self._stored.shapes.items():
            if not stored.startswith(f'{name}/'):
                continue
            path = stored.removeprefix(f'{name}/')
            if '/layers/' not in path:
                places[path], shapes[path] = (stored, None), shape
                continue
            # [layers, ...]: our scanned modules stack on the first axis, T5X's on the second.
            for layer in range(shape[0]):
                apart = path.replace('/layers/', f'/layers_{layer}/')
                places[apart], shapes[apart] = (stored, layer), shape[1:]
        weights.check(str(self.path), shapes, weights.expected_shapes(config),
                      run_folder.MODEL_FILE)

        def read(path: str) -> np.ndarray:
            stored, layer = places[path]
            # Orbax reads whole arrays; StoredParams keeps one while its layers are read.
            array = self._stored.read(stored)
            return np.asarray(array if layer is None else array[layer], np.float32)

        return weights.Weights(config, shapes, read)


def tokenizers(path: Place) -> pathlib.Path:
    """Returns a folder on this machine with the tokenizers of a run, in reader/ and retriever/.
    Compares those in a bucket with their checksums.

    Raises ModelFolderError, StorageError.
    """
    folder = Folder(path)
    # Tokenizers on a disk are compared where they are read.
    if folder.local is None:
        contents.check(folder, ('tokenizers/',))
    return (folder / 'tokenizers').on_disk()


def describe(config: atlas.AtlasConfig | atlas.RetrieverConfig, task: task_lib.Task | None,
             has_passage_encoder: bool) -> dict[str, Any]:
    """Returns a model's content of model.json. A retriever alone has no task."""
    named = {} if task is None else registry.to_dict(task)
    return {
        **atlas.config_to_dict(config), 'task': named, 'has_passage_encoder': has_passage_encoder}


def write(path: pathlib.Path, description: dict[str, Any],
          parts: Mapping[str, weights.Weights[weights.Config]], also: Iterable[str] = ()) -> None:
    """Writes model.json and checkpoint 0 of a run folder, one parameter in memory at a time.

    The caller has written the tokenizers and the files `also`, which the checksums include.

    Raises:
      DiskFullError: the disk is full.
    """
    tree = {}
    for name, opened in parts.items():
        arrays = {}
        for stacked, paths in opened.stacked().items():
            arrays[stacked] = streaming.LazyArray(_stacked_shape(opened, stacked, paths),
                                                  functools.partial(opened.stack, stacked, paths))
        tree[name] = hf_names.nest(arrays)
    streaming.save(path, tree)
    # Last: a folder without model.json does not count as a model.
    run_folder.write_model_file(path, description, also)


def _stacked_shape(opened: weights.Weights[weights.Config], stacked: str,
                   paths: list[str]) -> tuple[int, ...]:
    shape = tuple(opened.shapes[paths[0]])
    return shape if paths == [stacked] else (len(paths), *shape)
