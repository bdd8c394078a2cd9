"""Writes and reads parameters one array at a time, for models larger than memory."""

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from atlas_jax import errors
from atlas_jax.checkpoints import integrity, run_folder
from atlas_jax.io import atomic
from atlas_jax.io.folder import Folder, Place


@dataclasses.dataclass(frozen=True)
class LazyArray:
    """A float32 array that is read only when it is written; a leaf of the tree for `save`."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    dtype = np.dtype(np.float32)  # without annotation, so it is not a field

    @property
    def nbytes(self) -> int:
        """Size in bytes; Orbax reads it."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.nbytes // self.dtype.itemsize


class _LazyHandler(ocp.type_handlers.NumpyHandler):
    """Writes LazyArrays as Orbax writes numpy arrays, but one after another and without copies."""

    async def serialize(self, values: Sequence[LazyArray], infos: Sequence[Any],
                        args: Sequence[Any] | None = None) -> list[Any]:
        """Writes everything before it returns, so there are no futures."""
        # NumpyHandler would copy all arrays before writing, and hold the model in memory twice.
        for i, value in enumerate(values):
            # In a thread, because reading blocks and Orbax's event loop must go on.
            array = await asyncio.to_thread(value.read)
            await self._background_serialize([array], [infos[i]],
                                             [args[i] if args else ocp.SaveArgs()])
        return []


def save(place: Place, params: Any) -> None:
    """Writes a tree of LazyArrays as checkpoint 0 of a run folder without checkpoints.

    Raises DiskFullError.
    """
    # Has its own registry, because the global one serves ordinary arrays.
    registry = ocp.type_handlers.create_type_handler_registry(
        (jax.Array, ocp.type_handlers.ArrayHandler()), (LazyArray, _LazyHandler()))
    with atomic.storage_errors_are_user_errors(str(place)), _manager(Folder(place),
                                                                     registry) as manager:
        manager.save(0, args=ocp.args.Composite(params=ocp.args.PyTreeSave(params)))
        manager.wait_until_finished()


def _manager(folder: Folder, registry: Any = None) -> ocp.CheckpointManager:
    """Returns a manager for trees of which only a part is read; see run_folder.RunCheckpoints."""
    integrity.say_once()
    path, temporary_path = integrity.place_of(folder / run_folder.CHECKPOINTS)
    # Only a writer has a registry; a reader must not create the folder.
    options = ocp.CheckpointManagerOptions(create=registry is not None,
                                           enable_async_checkpointing=False,
                                           temporary_path_class=temporary_path)
    # Without handlers for optimiser and input, Orbax warns that it cannot restore them.
    handlers = {
        'params': ocp.PyTreeCheckpointHandler(
            **({} if registry is None else {'type_handler_registry': registry})),
        'optimizer': ocp.PyTreeCheckpointHandler(), 'input': ocp.JsonCheckpointHandler()}
    return ocp.CheckpointManager(path, options=options, item_handlers=handlers)


class StoredParams:
    """The parameters of a run folder's checkpoint `step`, by default the newest, read one at a
    time. Keeps the last one read.

    step: number of training steps done.
    shapes: shape of every array, by path.

    Raises:
      ModelFolderError: there is no such checkpoint, or it is damaged.
    """

    def __init__(self, place: Place, step: int | None = None):
        folder = Folder(place)
        if not (folder / run_folder.CHECKPOINTS).is_folder():
            raise errors.ModelFolderError(f'{folder}: it has a {run_folder.MODEL_FILE} but no '
                                          'checkpoints; train it again or give another '
                                          'folder')
        self._manager = _manager(folder)
        newest = self._manager.latest_step()
        if newest is None:
            raise errors.ModelFolderError(f'{folder}: no checkpoint was saved yet; let the '
                                          'training reach its first checkpoint')
        self.step: int = newest if step is None else step
        if self.step not in (known := sorted(self._manager.all_steps())):
            raise errors.ModelFolderError(f'{folder}: no checkpoint of step {self.step}; there '
                                          f'are those of {", ".join(map(str, known))}')
        integrity.check(folder / run_folder.CHECKPOINTS, self.step, ('params', ),
                        run_folder.is_listed(folder))
        # Orbax stores shapes beside the arrays, so no array is read yet.
        self.shapes = _shapes(self._manager.item_metadata(self.step)['params'].tree, ())
        self._cached: tuple[str, np.ndarray] | None = None

    def read(self, path: str) -> np.ndarray:
        """Reads one array by its path, such as `reader/encoder/layers/mlp/wo/kernel` [layers,
        mlp_dim, emb_dim].
        """
        if self._cached is None or self._cached[0] != path:
            self._cached = None  # freed before the next array is read: two would double the memory
            # A partial restore of a tree with one leaf reads only that array. Restored as numpy:
            # otherwise Orbax would use the devices it was saved from, which may not exist here.
            item: Any = np.zeros(())
            restore: Any = ocp.RestoreArgs(restore_type=np.ndarray)
            for key in reversed(path.split('/')):
                item, restore = {key: item}, {key: restore}
            # The checkpoint gives the shape; the leaf of `item` only marks the place.
            args = ocp.args.PyTreeRestore(item=item, restore_args=restore, partial_restore=True)
            found = self._manager.restore(self.step, args=ocp.args.Composite(params=args))['params']
            for key in path.split('/'):
                found = found[key]
            self._cached = path, np.asarray(found)
        return self._cached[1]


def _shapes(node: Any, parents: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every array by path."""
    # Leaves are Orbax's metadata of arrays.
    if not isinstance(node, dict):
        return {'/'.join(parents): tuple(node.shape)}
    return {
        path: shape
        for key, child in node.items()
        for path, shape in _shapes(child, (*parents, key)).items()}
