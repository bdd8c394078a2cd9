"""Our own run folders as weights that are read, and written, one parameter at a time."""

import pathlib
from typing import Any

import numpy as np

from atlas_jax.checkpoints import run_folder, streaming
from atlas_jax.conversion import hf_names, weights
from atlas_jax.models import atlas
from atlas_jax.tasks import registry
from atlas_jax.tasks import task as task_lib


class Run:
    """The newest checkpoint of a run folder.

    description: model.json. config: the AtlasConfig in it. parts: 'reader', 'retriever' and perhaps 'passage_encoder'.

    Raises ModelFolderError for a folder without model or checkpoint.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.description = run_folder.read_model_file(path)
        self.config = atlas.config_from_dict(self.description)
        self._stored = streaming.StoredParams(path)
        self.step = self._stored.step
        found = {name.split('/')[0] for name in self._stored.shapes}
        self.parts = tuple(part for part in ('reader', 'retriever', 'passage_encoder') if part in found)

    def part(self, name: str) -> weights.Weights:
        """Weights of one part. Raises ModelFolderError where its parameters are not those of its configuration."""
        config = self.config.reader if name == 'reader' else self.config.retriever
        # path with layers apart -> (path in the checkpoint, layer or None), shape
        places: dict[str, tuple[str, int | None]] = {}
        shapes = {}
        for stored, shape in self._stored.shapes.items():
            if not stored.startswith(f'{name}/'):
                continue
            path = stored.removeprefix(f'{name}/')
            for layer in range(shape[0]) if '/layers/' in path else (None,):
                own = path if layer is None else path.replace('/layers/', f'/layers_{layer}/')
                places[own], shapes[own] = (stored, layer), shape if layer is None else shape[1:]
        weights.check(self.path, shapes, weights.expected_shapes(config), run_folder.MODEL_FILE)

        def read(path: str) -> np.ndarray:
            stored, layer = places[path]
            array = self._stored.read(stored)
            return np.asarray(array if layer is None else array[layer], np.float32)

        return weights.Weights(config, shapes, read)


def describe(config: atlas.AtlasConfig, task: task_lib.Task, has_passage_encoder: bool) -> dict[str, Any]:
    """What model.json says of a model."""
    return {**atlas.config_to_dict(config), 'task': registry.to_dict(task), 'has_passage_encoder': has_passage_encoder}


def write(path: pathlib.Path, description: dict[str, Any], parts: dict[str, weights.Weights]) -> None:
    """Writes model.json and checkpoint 0 of a run folder, one parameter in memory at a time; the tokenizers are the caller's.

    Raises DiskFullError.
    """
    tree = {}
    for name, opened in parts.items():
        flat = {stacked: streaming.LazyArray(_stacked_shape(opened, stacked, paths), lambda opened=opened, stacked=stacked, paths=paths:
                                             opened.stack(stacked, paths)) for stacked, paths in opened.stacked().items()}
        tree[name] = hf_names.nest(flat)
    streaming.save(path, tree)
    run_folder.write_model_file(path, description)


def _stacked_shape(opened: weights.Weights, stacked: str, paths: list[str]) -> tuple[int, ...]:
    shape = tuple(opened.shapes[paths[0]])
    return shape if paths == [stacked] else (len(paths), *shape)
