"""A run's folder: model.json, the tokenizers, and Orbax checkpoints of parameters, optimiser and input position.

    RUN/model.json            sizes, formats, task: everything that Atlas.load needs besides the parameters
    RUN/tokenizers/reader/    spiece.model;  RUN/tokenizers/retriever/  tokenizer.json or vocab.txt
    RUN/checkpoints/STEP/     params, optimizer, input; written under another name first, so a step is whole or absent
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp

from atlas_jax import errors
from atlas_jax.io import atomic, untrusted

MODEL_FILE = 'model.json'
# Of model.json; Orbax versions its own files. Raise it when a field changes its meaning: another version is refused, not guessed at.
FORMAT_VERSION = 1


def write_model_file(folder: pathlib.Path, description: dict[str, Any]) -> None:
    """Writes model.json atomically. Raises DiskFullError."""
    atomic.write_json(folder / MODEL_FILE, {'format': 'atlas_jax', 'version': FORMAT_VERSION, **description})


def read_model_file(folder: pathlib.Path) -> dict[str, Any]:
    """Reads model.json.

    Raises:
      ModelFolderError: the folder has no model.json, or one that is broken or of another version.
    """
    path = folder / MODEL_FILE
    if not path.is_file():
        raise errors.ModelFolderError(f'{folder}: no {MODEL_FILE} in it, so this is not an atlas_jax model; give the run folder of '
                                      '`atlas-jax train`, or Hugging Face folders with --reader and --retriever')
    try:
        values = untrusted.read_json(path)
    except ValueError as error:
        raise errors.ModelFolderError(f'{path}: broken JSON: {error}') from error
    # Other programs write files of this name too.
    if not isinstance(values, dict) or values.get('format') != 'atlas_jax' or values.get('version') != FORMAT_VERSION:
        raise errors.ModelFolderError(f'{path}: not a model file of format version {FORMAT_VERSION}')
    for name, kind in (('reader', dict), ('retriever', dict), ('inputs', dict), ('task', dict), ('has_passage_encoder', bool)):
        if not isinstance(values.get(name), kind):
            raise errors.ModelFolderError(f'{path}: {name} is {untrusted.shown(values.get(name))}, expected a value of type '
                                          f'{kind.__name__}; copy the folder again')
    return values


def _score(metrics: dict[str, float]) -> float:
    return metrics['score']


class RunCheckpoints:
    """The numbered checkpoints of a run; a context manager, so that pending writes finish.

    A checkpoint has the items `params` and `optimizer` (trees of arrays), `input` (JSON) and, if the index is refreshed, `index` (arrays).
    """

    def __init__(self, folder: pathlib.Path, keep: int | None = 2, *, create: bool = False, keep_best: int = 0,
                 asynchronous: bool | None = None):
        """Opens the checkpoints of a run.

        Args:
          folder: the run's folder.
          keep: number of the newest checkpoints that stay; None keeps all.
          create: makes the folder.
          keep_best: number of checkpoints with the highest `score` that stay besides.
          asynchronous: writes while the run goes on; None does so on accelerators.

        Raises:
          ModelFolderError: there are no checkpoints, and `create` is off.
        """
        # Orbax refuses relative paths.
        path = (folder / 'checkpoints').absolute()
        # Looking into a folder must not make it a run.
        if not create and not path.is_dir():
            raise errors.ModelFolderError(f'{folder}: it has a {MODEL_FILE} but no checkpoints; train it again or give another folder')
        # On a CPU the donated state lies in host memory: the next step would overwrite it while it is being written.
        self._asynchronous = jax.default_backend() != 'cpu' if asynchronous is None else asynchronous
        # The newest to go on from, the best to answer with.
        policies = ocp.checkpoint_managers
        kept: list[Any] = [policies.LatestN(keep)]
        if keep_best:
            # By default BestN keeps every checkpoint that was saved without a score, for good.
            kept.append(policies.BestN(n=keep_best, get_metric_fn=_score, keep_checkpoints_without_metrics=False))
        options = ocp.CheckpointManagerOptions(preservation_policy=policies.AnyPreservationPolicy(kept), create=create,
                                               best_fn=_score if keep_best else None,
                                               enable_async_checkpointing=self._asynchronous)
        # `index` is in the checkpoints of refreshed runs only; naming an item does not demand it.
        # Orbax commits by renaming a folder, so a killed save leaves no half checkpoint.
        self._manager = ocp.CheckpointManager(path, options=options, item_names=('params', 'optimizer', 'input', 'index'))

    def __enter__(self) -> 'RunCheckpoints':
        return self

    def __exit__(self, *_) -> None:
        with atomic.disk_full_is_a_user_error(self._manager.directory):
            # Closing waits for pending writes, so a full disk may show only here.
            self._manager.close()

    @property
    def latest_step(self) -> int | None:
        """The step of the newest whole checkpoint, or None."""
        return self._manager.latest_step()

    @property
    def best_step(self) -> int | None:
        """The step of the checkpoint saved with the highest score, or None; needs keep_best."""
        return self._manager.best_step()

    def save(self, step: int, params: Any, optimizer: Any = None, input_position: Any = None, score: float | None = None,
             index: Mapping[str, object] | None = None) -> None:
        """Saves a checkpoint. Every process of a run calls it and writes its own shards.

        Args:
          params, optimizer: trees of arrays; without an optimiser only the parameters are saved.
          input_position: the input iterator's position, JSON.
          score: keep_best keeps the highest.
          index: a tree of arrays, for a refreshed index.

        Raises:
          DiskFullError: the disk is full; the checkpoints before stay whole.
        """
        items = {'params': ocp.args.StandardSave(params)}
        # A model that was converted or saved by hand has parameters alone.
        if optimizer is not None:
            # Saved together: a run that restores the optimiser without its input position would repeat or skip examples.
            items |= {'optimizer': ocp.args.StandardSave(optimizer), 'input': ocp.args.JsonSave({'position': input_position})}
        if index is not None:
            items['index'] = ocp.args.StandardSave(index)
        with atomic.disk_full_is_a_user_error(self._manager.directory):
            self._manager.save(step, args=ocp.args.Composite(**items), metrics=None if score is None else {'score': score})
            # The caller's next step overwrites the arrays.
            if not self._asynchronous:
                self._manager.wait_until_finished()

    def restore(self, params: Any, optimizer: Any, step: int | None = None) -> tuple[Any, Any, Any]:
        """Restores (params, optimizer, input position) of `step`, by default the newest; the arguments give shapes and shardings."""
        # Given shardings, each process reads only its own shards, also on another topology than the one that saved.
        restored = self._manager.restore(self.latest_step if step is None else step, args=ocp.args.Composite(
            params=ocp.args.StandardRestore(params), optimizer=ocp.args.StandardRestore(optimizer), input=ocp.args.JsonRestore()))
        return restored['params'], restored['optimizer'], restored['input']['position']

    def restore_params(self, params: Any, step: int | None = None) -> Any:
        """Restores only the params item of `step`, by default the newest; `params` gives shapes and shardings."""
        step = self.latest_step if step is None else step
        return self._manager.restore(step, args=ocp.args.Composite(params=ocp.args.StandardRestore(params)))['params']

    def restore_index(self, index: Mapping[str, object]) -> Any:
        """Restores the index item of the newest checkpoint; `index` gives shapes and shardings."""
        return self._manager.restore(self.latest_step, args=ocp.args.Composite(index=ocp.args.StandardRestore(index)))['index']
