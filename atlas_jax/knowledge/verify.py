"""Verifies an index together with its passages, as `atlas-jax index verify` does."""

import os

from atlas_jax import errors
from atlas_jax.corpus.store import PassageStore
from atlas_jax.index import index_manifest, traces, verification
from atlas_jax.io.folder import Folder
from atlas_jax.knowledge.index import EmbeddingModel
from atlas_jax.searchers import codes_files, fitting


def leftovers(index_dir: str | os.PathLike, store_dir: str | os.PathLike | None = None) -> list[str]:
    """Returns the paths of what killed commands left in an index and its store: no damage, and the next command that writes removes it.

    Raises IndexFolderError, StoreError: a manifest is missing or damaged. StorageError.
    """
    folder = Folder(index_dir)
    current = index_manifest.read(folder)
    store_dir = index_manifest.store_path(folder, current) if store_dir is None else store_dir
    return [f'{folder}/{name}' for name in traces.find(folder, current)] + PassageStore.leftovers(store_dir)


def verify(index_dir: str | os.PathLike, store_dir: str | os.PathLike | None = None,
           atlas: EmbeddingModel | None = None) -> list[verification.Problem]:
    """Reads every byte of an index and its store, either of which may be too damaged to be opened.

    Args:
      index_dir: the index.
      store_dir: its passages; None for where they were when it was built.
      atlas: also compare the model that embedded the rows with this one.

    Returns:
      The problems, with the index rows they hit and the docids of the first few; empty where all is well.

    Raises:
      IndexFolderError: the index's manifest is missing or damaged.
    """
    found = verification.verify(index_dir)
    try:
        fitting.read(index_dir)
    except errors.IndexFolderError as error:
        found.append(verification.Problem(f'{index_dir}/{fitting.FILE}', str(error).split(': ', 1)[1].split(';')[0], 0, 0))
    found += [verification.Problem(*problem) for problem in codes_files.problems(index_dir)]
    current = index_manifest.read(Folder(index_dir))
    store_dir = index_manifest.store_path(Folder(index_dir), current) if store_dir is None else store_dir
    try:
        for problem in PassageStore.problems(store_dir):
            first, stop = min(problem.first_row, current.rows), min(problem.stop_row, current.rows)
            found.append(verification.Problem(problem.path, problem.what, first, stop))
    # A store that cannot be read at all is one problem of all rows, and the rest of the index is still told.
    except errors.StoreError as error:
        return [*found, verification.Problem(str(store_dir), str(error).removeprefix(f'{store_dir}: ').split(';')[0], 0, current.rows)]
    try:
        store = PassageStore.open(store_dir)
    except errors.StoreError:
        return found  # its problems are among those found
    # Only with a model: it loads weights, and most checks are for damage.
    embedder = None if atlas is None else atlas.embedder()
    found += verification.mismatches(index_dir, store, embedder)
    return [verification.with_docids(problem, store.docid) for problem in found]
