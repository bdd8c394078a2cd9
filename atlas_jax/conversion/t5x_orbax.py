"""Train states of T5X that its Orbax manager wrote: where they lie, and their tree.

`checkpoint_<step>/state` has the tree in `_METADATA`, and every array as zarr: today in one OCDBT database, earlier in a folder each. The
oldest have no `_METADATA` but a msgpack file with the tree, whose leaves are names of arrays.
"""

import pathlib
from typing import Any

from atlas_jax import errors
from atlas_jax.conversion import hf_files, t5x_arrays

STATE, METADATA = 'state', '_METADATA'
# A leaf of the tree that stands for an array of the store; Orbax writes it before the array's name.
PLACEHOLDER = 'PLACEHOLDER://'
# Orbax's names for what has no array.
_EMPTY = ('None', 'Dict', 'List', 'Tuple', 'NamedTuple')
_BROKEN = (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError)


def state_folder(path: pathlib.Path) -> pathlib.Path | None:
    """Returns the folder of the train state in `checkpoint_<step>`, which may be that folder itself; None where Orbax wrote none."""
    inner = path / STATE
    if any((inner / file).is_file() for file in (METADATA, t5x_arrays.DATABASE, 'checkpoint')):
        return inner
    try:
        # Other programs' Orbax folders look alike, our own too: T5X's has the parameters under `target`.
        return path if (path / METADATA).is_file() and 'target' in tree(path) else None
    except errors.ModelFolderError:
        return None


def tree(folder: pathlib.Path) -> dict[str, Any]:
    """Reads the tree of a train state: nested dicts, `PLACEHOLDER` and the array's name as leaves.

    Raises ModelFolderError: `_METADATA` is broken, or says that the arrays are of a kind that T5X does not write.
    """
    path = folder / METADATA
    try:
        metadata = hf_files.read_json(path)
        if metadata.get('use_zarr3'):
            raise errors.ModelFolderError(f'{path}: arrays in zarr version 3 (use_zarr3), which T5X does not write; save them with T5X')
        found: dict[str, Any] = {}
        for entry in metadata['tree_metadata'].values():
            keys = [part['key'] for part in entry['key_metadata']]
            if entry['value_metadata']['value_type'] in _EMPTY:
                continue
            *parents, last = keys
            node = found
            for key in parents:
                node = node.setdefault(key, {})
            if node.setdefault(last, leaf := PLACEHOLDER + '.'.join(keys)) != leaf:
                raise ValueError(f'two entries for {leaf}')
        return found
    except _BROKEN as error:
        raise errors.ModelFolderError(f'{path}: describes no tree of arrays ({type(error).__name__}); copy the checkpoint again') from error
