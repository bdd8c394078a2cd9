"""Train states that T5X's Orbax manager wrote: their folder and their tree.

`checkpoint_<step>/state` has the tree in `_METADATA` and every array as zarr: all in one OCDBT
database, or in older states each in a folder. The oldest states have no `_METADATA` but a msgpack
file with the tree, whose leaves are names of arrays.
"""

import pathlib
from typing import Any

from atlas_jax import errors
from atlas_jax.conversion import hf_files, t5x_arrays

STATE, METADATA = 'state', '_METADATA'
# Orbax writes this before an array's name in a leaf of the tree.
PLACEHOLDER = 'PLACEHOLDER://'
# Orbax's types of leaves without an array.
_EMPTY = ('None', 'Dict', 'List', 'Tuple', 'NamedTuple')
_BROKEN = (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError)


def state_folder(path: pathlib.Path) -> pathlib.Path | None:
    """Returns the folder of the train state: a subfolder of `checkpoint_<step>` or that folder
    itself. None if Orbax did not write it.
    """
    inner = path / STATE
    if any((inner / file).is_file() for file in (METADATA, t5x_arrays.DATABASE, 'checkpoint')):
        return inner
    try:
        # Other programs' Orbax folders, ours too, look the same; T5X's has the parameters under
        # `target`.
        return path if (path / METADATA).is_file() and 'target' in tree(path) else None
    except errors.ModelFolderError:
        return None


def tree(folder: pathlib.Path) -> dict[str, Any]:
    """Reads the tree of a train state: nested dicts with PLACEHOLDER + array name as leaves.

    Raises ModelFolderError: `_METADATA` is broken, or names a kind of array that T5X does not
    write.
    """
    path = folder / METADATA
    try:
        metadata = hf_files.read_json(path)
        if metadata.get('use_zarr3'):
            raise errors.ModelFolderError(f'{path}: arrays in zarr version 3 (use_zarr3), which '
                                          'T5X does not write; save them with T5X')
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
        raise errors.ModelFolderError(
            f'{path}: describes no tree of arrays '
            f'({type(error).__name__}); copy the checkpoint again') from error
