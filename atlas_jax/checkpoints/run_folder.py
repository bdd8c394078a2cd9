"""A run's folder: model.json, the tokenizers, and Orbax checkpoints of parameters, optimiser and
input position.

    RUN/model.json              sizes, formats, task: everything that Atlas.load needs besides the
                                parameters
    RUN/tokenizers/reader/      spiece.model
    RUN/tokenizers/retriever/   tokenizer.json or vocab.txt
    RUN/checksums.json          list of model.json and the tokenizers; model.json names it
    RUN/checkpoints/STEP/       params, optimizer, input, checksums.json. A step is whole or absent:
                                it is written under another name first, or, in a bucket, committed
                                by the file commit_success.txt
    RUN/lock                    held by the process that trains

RUN is a folder on a disk or in a bucket, gs://bucket/folder. Functions take either, as a path or an
io.folder.Folder.
"""

import contextlib
import json
import math
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp

from atlas_jax import errors, types
from atlas_jax.checkpoints import integrity
from atlas_jax.io import atomic, contents, lock, untrusted
from atlas_jax.io.folder import Folder, Place
from atlas_jax.runtime import hosts

MODEL_FILE = 'model.json'
# Version of model.json; Orbax versions its own files. Raise it when a field changes its meaning:
# other versions are refused.
FORMAT_VERSION = 1
CHECKPOINTS = 'checkpoints'  # their folder in a run folder


def write_model_file(place: Place, description: dict[str, Any], also: Iterable[str] = ()) -> None:
    """Writes the checksums of model.json, the tokenizers and the files `also`, then model.json.

    Raises DiskFullError, StorageError.
    """
    # Names the list of checksums, so that a folder that lost it differs from one written before
    # there were lists.
    body = {
        'format': 'atlas_jax', 'version': FORMAT_VERSION, 'checksums': contents.FILE, **description}
    text = json.dumps(body, indent=1, ensure_ascii=False) + '\n'
    folder = Folder(place)
    listed = [f'tokenizers/{name}' for name in (folder / 'tokenizers').sizes()]
    contents.write(folder, [*listed, *also], pending={MODEL_FILE: text.encode()})
    # Written last: a folder without model.json is not a model.
    folder.write(MODEL_FILE, text.encode())


def read_model_file(place: Place) -> dict[str, Any]:
    """Reads model.json.

    Raises:
      ModelFolderError: the folder has no model.json, or one that is broken, damaged or of another
        version. StorageError.
    """
    folder = Folder(place)
    path = (folder / MODEL_FILE).path
    if not folder.exists(MODEL_FILE):
        raise errors.ModelFolderError(f'{folder}: no {MODEL_FILE} in it, so this is not an '
                                      'atlas_jax model; give the run folder of '
                                      '`atlas-jax train`, or Hugging Face folders with --reader '
                                      'and --retriever')
    contents.check(folder, (MODEL_FILE,))
    try:
        values = folder.read_json(MODEL_FILE)
    except ValueError as error:
        raise errors.ModelFolderError(f'{path}: broken JSON: {error}') from error
    # Other programs write files of this name too.
    if not isinstance(values, dict) or values.get('format') != 'atlas_jax' or values.get(
            'version') != FORMAT_VERSION:
        raise errors.ModelFolderError(f'{path}: not a model file of format version '
                                      f'{FORMAT_VERSION}')
    # A retriever that was trained alone has no reader.
    kinds: tuple[tuple[str, type],
                 ...] = () if values.get('reader', '') is None else (('reader', dict), )
    for name, kind in (*kinds, ('retriever', dict), ('inputs', dict), ('task', dict),
                       ('has_passage_encoder', bool)):
        if not isinstance(values.get(name), kind):
            raise errors.ModelFolderError(f'{path}: {name} is '
                                          f'{untrusted.shown(values.get(name))}, expected a value '
                                          'of type '
                                          f'{kind.__name__}; copy the folder again')
    if 'checksums' in values and not folder.exists(contents.FILE) and contents.is_checking():
        raise errors.ModelFolderError(
            contents.described([contents.DamagedFile((folder / contents.FILE).path, 'is missing')]))
    return values


def is_listed(place: Place) -> bool:
    """Returns whether a run folder has checksums; False if it was written before there were any.

    Raises ModelFolderError.
    """
    return Folder(place).exists(MODEL_FILE) and 'checksums' in read_model_file(place)


def damage(place: Place) -> list[contents.DamagedFile]:
    """Returns the damage of a run folder and all its checkpoints.

    Raises ModelFolderError: a list or model.json itself is damaged.
    """
    folder = Folder(place)
    found = contents.damage(folder) or []
    listed, checkpoints = not found and is_listed(folder), folder / CHECKPOINTS
    return found + [
        problem for step in integrity.steps(checkpoints)
        for problem in integrity.damage(checkpoints, step, listed)]


@contextlib.contextmanager
def writing(place: Place) -> Iterator[None]:
    """Holds a run folder inside the block, so that no other process can train there.

    Raises:
      ConfigError: another process holds the folder, it cannot be written, or its disk cannot rename
        folders. In a bucket it first waits for at most LEASE_SECONDS, because a killed process
        cannot give up its lock there.
      DiskFullError, StorageError.
    """
    folder = Folder(place)
    path = str(folder.path if folder.local is None else folder.local.absolute())
    # Blocks may be nested: a command writes into the folder before it trains.
    if path in _held:
        yield
        return
    with contextlib.ExitStack() as stack:
        # The first process holds it for all. If it is refused, the others must fail too.
        with hosts.together():
            if hosts.is_first():
                stack.enter_context(lock.writing(folder, 'run', errors.ConfigError, waits=True))
                if folder.local is not None:
                    _require_renames(folder.local)
            integrity.place_of(folder / CHECKPOINTS)
        _held.add(path)
        stack.callback(_held.discard, path)
        yield


def _require_renames(folder: pathlib.Path) -> None:
    """Raises ConfigError, before any long work, if no checkpoint could be committed: a mounted
    bucket may be unable to rename folders.
    """
    with atomic.storage_errors_are_user_errors(folder), tempfile.TemporaryDirectory(
            prefix='.rename', dir=folder) as scratch:
        before = pathlib.Path(scratch) / 'before'
        before.mkdir()
        (before / 'file').touch()  # an empty folder can be renamed even there
        try:
            before.rename(before.with_name('after'))
        except OSError as error:
            raise errors.ConfigError(
                f'{folder}: a folder cannot be renamed there ({error.strerror}), and that commits '
                'a checkpoint; take a disk, or name the bucket as gs://bucket/folder') from error


_held: set[str] = set()  # run folders that this process writes


def latest_step(place: Place) -> int:
    """Returns the step of the newest checkpoint of a run folder, 0 if there is none. Opens nothing.

    Raises OSError, StorageError.
    """
    return max(integrity.steps(Folder(place) / CHECKPOINTS), default=0)


def _figure(name: str) -> Callable[[dict[str, float]], float]:
    # A checkpoint without this figure is never the best.
    return lambda metrics: metrics.get(name, -math.inf)


class RunCheckpoints:
    """The numbered checkpoints of a run. As a context manager it waits for pending writes.

    A checkpoint has the items `params` and `optimizer` (trees of arrays), `input` (JSON) and, if
    the index is refreshed, `index` (arrays).
    """

    def __init__(self, place: Place, keep: int | None = 2, *, create: bool = False,
                 keep_best: int = 0, best_by: str = 'score', asynchronous: bool | None = None):
        """Opens the checkpoints of a run.

        Args:
          place: the run's folder.
          keep: number of newest checkpoints to keep; None keeps all. During the run one more is
            kept.
          create: creates the folder.
          keep_best: number of checkpoints with the highest figure to keep besides.
          best_by: name of that figure, one of the figures given to `save`.
          asynchronous: writes in the background; None does so on accelerators.

        Raises:
          ModelFolderError: there are no checkpoints, and `create` is off.
          StorageError: a bucket that cannot be used.
        """
        folder = Folder(place)
        self._path = folder / CHECKPOINTS
        self._folder, self._keep, self._keep_best = folder, keep, keep_best
        self._saved: int | None = None  # the last step that this object saved
        path, temporary_path = integrity.place_of(self._path)
        # Reading must not create a run.
        if not create and not self._path.is_folder():
            raise errors.ModelFolderError(f'{folder}: it has a {MODEL_FILE} but no checkpoints; '
                                          'train it again or give another folder')
        integrity.say_once()
        # On a CPU the donated state lies in host memory: the next step would overwrite it while it
        # is written.
        self._asynchronous = jax.default_backend(
        ) != 'cpu' if asynchronous is None else asynchronous
        # The newest checkpoints continue the run; the best ones answer.
        policies = ocp.checkpoint_managers
        # One more, because the newest parameters may turn out to give no finite loss.
        kept: list[Any] = [policies.LatestN(keep if keep is None else keep + 1)]
        if keep_best:
            # By default BestN never removes checkpoints that were saved without a score.
            kept.append(
                policies.BestN(n=keep_best, get_metric_fn=_figure(best_by),
                               keep_checkpoints_without_metrics=False))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(kept), create=create,
            best_fn=_figure(best_by) if keep_best else None, temporary_path_class=temporary_path,
            cleanup_tmp_directories=create, enable_async_checkpointing=self._asynchronous)
        # Only runs with a refreshed index have the item `index`; a named item may be missing.
        self._manager = ocp.CheckpointManager(path, options=options,
                                              item_names=('params', 'optimizer', 'input', 'index'))

    def __enter__(self) -> 'RunCheckpoints':
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_) -> None:
        with integrity.storage_errors(self._path):
            if error_type is None and self._saved is not None:
                self._remove_old()
            # Closing waits for pending writes, so a full disk may appear only here.
            self._manager.close()

    @property
    def latest_step(self) -> int | None:
        """The step of the newest whole checkpoint, or None."""
        return self._manager.latest_step()

    @property
    def best_step(self) -> int | None:
        """The step of the checkpoint saved with the highest figure, or None; needs keep_best."""
        return self._manager.best_step()

    def save(self, step: int, params: Any, optimizer: Any = None, input_position: Any = None,
             figures: Mapping[str, float] | None = None,
             index: Mapping[str, object] | None = None) -> None:
        """Saves a checkpoint. Every process of a run calls it and writes its own shards.

        Args:
          params, optimizer: trees of arrays; without an optimiser only the parameters are saved.
          input_position: the input iterator's position, JSON.
          figures: figures of an evaluation by name; keep_best keeps the highest.
          index: a tree of arrays, for a refreshed index.

        Raises:
          DiskFullError: the earlier checkpoints stay whole.
        """
        items = {'params': ocp.args.StandardSave(params)}
        # A converted or manually saved model has only parameters.
        if optimizer is not None:
            # Saved together: a run that restores the optimiser without its input position would
            # repeat or skip examples.
            items |= {
                'optimizer': ocp.args.StandardSave(optimizer),
                'input': ocp.args.JsonSave({'position': input_position})}
        if index is not None:
            items['index'] = ocp.args.StandardSave(index)
        with integrity.storage_errors(self._path):
            # In a bucket another process may have taken over while this one slept.
            with hosts.together():
                lock.confirm(self._folder)
            # Removed before saving: the space is needed now, and by now the newest checkpoint has
            # given a finite loss.
            self._remove_old()
            self._saved = step
            self._manager.save(step, args=ocp.args.Composite(**items),
                               metrics=None if figures is None else dict(figures))
            # The caller's next step overwrites the arrays.
            if not self._asynchronous:
                self._manager.wait_until_finished()

    def raise_problems(self) -> None:
        """Raises the error of a failed background save, if there is one. Does not wait.

        Raises DiskFullError, StorageError.
        """
        with integrity.storage_errors(self._path):
            self._manager.check_for_errors()

    def discard(self, step: int) -> bool:
        """Removes the checkpoint of `step` if this object saved it last; returns whether it did.
        Every process of a run calls it.
        """
        self._manager.wait_until_finished()
        if self._saved != step:
            return False
        self._delete(step)
        return True

    def restore(self, params: Any, optimizer: Any, step: int | None = None) -> tuple[Any, Any, Any]:
        """Restores (params, optimizer, input position) of `step`, by default the newest. The
        arguments give shapes and shardings.

        Raises ModelFolderError: the checkpoint is damaged. The message names file, parameter, and
        the newest whole checkpoint.
        """
        restored = self._restore(
            step, {
                'params': ocp.args.StandardRestore(params),
                'optimizer': ocp.args.StandardRestore(optimizer), 'input': ocp.args.JsonRestore()})
        return restored['params'], restored['optimizer'], restored['input']['position']

    def restore_params(self, params: Any, step: int | None = None) -> Any:
        """Restores only the params item of `step`, by default the newest. `params` gives shapes and
        shardings. Raises the same errors as `restore`.
        """
        return self._restore(step, {'params': ocp.args.StandardRestore(params)})['params']

    def restore_index(self, index: Mapping[str, object]) -> Any:
        """Restores the index item of the newest checkpoint. `index` gives shapes and shardings.
        Raises the same errors as `restore`.
        """
        return self._restore(None, {'index': ocp.args.StandardRestore(index)})['index']

    def _restore(self, step: int | None, items: dict[str, Any]) -> Mapping[str, Any]:
        step = types.required(self.latest_step if step is None else step)
        with integrity.restoring(self._path, step, items, is_listed(self._folder)):
            # With shardings each process reads only its own shards, even on another topology.
            return self._manager.restore(step, args=ocp.args.Composite(**items))

    def _remove_old(self) -> None:
        """Removes all checkpoints except the newest `keep` and the best."""
        self._manager.wait_until_finished()
        kept = {self.best_step} if self._keep_best else set()
        for step in sorted(self._manager.all_steps(),
                           reverse=True)[self._keep:] if self._keep is not None else ():
            if step not in kept:
                self._delete(step)

    def _delete(self, step: int) -> None:
        if hosts.is_first():
            integrity.uncommit(self._path, step)
        self._manager.delete(step)
