"""Verifies an index together with its passages, as `atlas-jax index verify` does."""

import dataclasses
import os
import re

from atlas_jax import errors
from atlas_jax.corpus.store import PassageStore
from atlas_jax.index import index_manifest, verification
from atlas_jax.io import versioned_folder
from atlas_jax.io.folder import Folder
from atlas_jax.io.versioned_folder import Damage
from atlas_jax.knowledge.index_with_store import EmbeddingModel
from atlas_jax.searchers import bm25, codes_files, fitting, host_searcher, scann


def leftovers(index_dir: str | os.PathLike,
              store_dir: str | os.PathLike | None = None) -> list[str]:
    """Returns the paths of leftovers of killed commands in an index and its store. They are not
    damage; the next command that writes removes them.

    Raises IndexFolderError, StoreError: a manifest is missing or damaged. StorageError.
    """
    folder = Folder(index_dir)
    current = index_manifest.read(folder)
    store_dir = index_manifest.store_path(folder, current) if store_dir is None else store_dir
    names = index_manifest.leftovers(folder, current)
    return [f'{folder}/{name}' for name in names] + PassageStore.leftovers(store_dir)


def verify(index_dir: str | os.PathLike, store_dir: str | os.PathLike | None = None,
           atlas: EmbeddingModel | None = None) -> list[Damage]:
    """Reads every byte of an index and its store, either of which may be too damaged to be opened.

    Args:
      index_dir: the index.
      store_dir: its passages; None takes the store that the index names.
      atlas: if given, also compared with the model that embedded the rows.

    Returns:
      The problems, with the affected index rows and the docids of the first few.

    Raises:
      IndexFolderError: the index's manifest is missing or damaged.
    """
    found = verification.verify(index_dir)
    try:
        fitting.read(index_dir)
    except errors.IndexFolderError as error:
        found.append(versioned_folder.as_damage(error))
    found += codes_files.problems(index_dir)
    found += _damage_of_searchers(Folder(index_dir))
    current = index_manifest.read(Folder(index_dir))
    store_dir = index_manifest.store_path(Folder(index_dir),
                                          current) if store_dir is None else store_dir
    try:
        for problem in PassageStore.problems(store_dir):
            first, stop = min(problem.first_row, current.rows), min(problem.stop_row, current.rows)
            found.append(dataclasses.replace(problem, first_row=first, stop_row=stop))
    # An unreadable store is one problem of all rows; the index's other problems are still returned.
    except errors.StoreError as error:
        return [*found, versioned_folder.as_damage(error, 0, current.rows)]
    try:
        store = PassageStore.open(store_dir)
    except errors.StoreError:
        return found  # it contains the store's problems
    embedder = None if atlas is None else atlas.embedder()
    found += verification.mismatches(index_dir, store, embedder)
    return [verification.with_docids(problem, store.docid) for problem in found]


def _damage_of_searchers(folder: Folder) -> list[Damage]:
    """Returns the damage of the searchers that are saved in an index folder."""
    found: list[Damage] = []
    for name in sorted(folder.children()):
        # Several processes save a searcher each: bm25-1-of-2.
        if re.fullmatch(rf'{bm25.FOLDER}(-\d+-of-\d+)?', name):
            found += host_searcher.saved_damage(folder / name, bm25.KIND)
        elif re.fullmatch(rf'{scann.FOLDER}(-\d+-of-\d+)?', name):
            found += host_searcher.saved_damage(folder / name, scann.KIND)
    return found
