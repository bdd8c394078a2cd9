"""Finds damage in an index by reading every byte, and the rows that it affects."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator

import numpy as np

from atlas_jax import errors
from atlas_jax.corpus.store import PassageStore
from atlas_jax.index import embedded_by, index_manifest, shards
from atlas_jax.index.embed import PassageEmbedder
from atlas_jax.io.folder import Folder
from atlas_jax.io.versioned_folder import Damage

_DOCIDS = 3  # docids in a message; the first few tell a user which documents to look at


def verify(path: str | os.PathLike) -> list[Damage]:
    """Reads every file of an index, which may be too damaged to be opened, and returns the damage.

    Raises:
      IndexFolderError: its manifest is missing or damaged.
    """
    folder = Folder(path)
    current = index_manifest.read(folder)
    found: list[Damage] = []
    there = (folder / index_manifest.SHARDS).sizes()
    for entry in current.shards:
        found += _damage_of_shard(folder, entry, current)
    named = {entry.name for entry in current.shards}
    # Shards of ours that are not named are leftovers of a killed writer, or of a build that the
    # next one continues.
    for name in sorted({file.split('/')[0] for file in there} - named):
        if not index_manifest.is_shard(name):
            found.append(
                Damage(f'{folder / index_manifest.SHARDS}/{name}', 'does not belong to this index'))
    try:
        index_manifest.read_tombstones(folder, current)
    except errors.IndexFolderError:
        found.append(
            Damage(f'{folder}/{current.tombstones}',
                    'the list of deleted rows is missing or damaged', 0, current.rows))
    return found


def differences(current: index_manifest.Manifest, embedder: PassageEmbedder, store: PassageStore,
                limits: bool = True) -> dict[str, str]:
    """Returns {shard: how the model that embedded it differs from `embedder`}, without shards whose
    embeddings would be the same.

    `limits` also compares where passages are cut.
    """
    lengths: list[np.ndarray] = []

    def longest(entry: index_manifest.ShardEntry) -> int:
        # Read once, and only if limits differ.
        if not lengths:
            lengths.append(
                embedder.whole_lengths(store.retriever_title_lengths, store.retriever_lengths))
        return int(lengths[0][entry.first_row:entry.first_row + entry.rows].max(initial=0))

    found = {
        entry.name: embedded_by.mismatch(entry.model_fingerprint, current.models, embedder,
                                         functools.partial(longest, entry), limits)
        for entry in current.shards}
    return {name: difference for name, difference in found.items() if difference is not None}


def mismatches(path: str | os.PathLike, store: PassageStore,
               embedder: PassageEmbedder | None) -> list[Damage]:
    """Returns the rows that were embedded from other passages than the store's, or by another model
    than `embedder`.

    Args:
      path: the index folder.
      store: the passages.
      embedder: the model to compare with; None skips this comparison.

    Raises:
      IndexFolderError: the manifest is missing or damaged.
    """
    folder = Folder(path)
    current = index_manifest.read(folder)
    found = []
    if store.fingerprint_of(current.rows) != current.store_fingerprint:
        found.append(
            Damage(str(folder), 'made from other passages than those of this store', 0,
                    current.rows))
    if embedder is not None:
        different = differences(current, embedder, store)
        for entry in current.shards:
            if entry.name in different:
                what = f'embedded by another model, which differs in {different[entry.name]}'
                found.append(
                    Damage(f'{folder / index_manifest.SHARDS}/{entry.name}', what, entry.first_row,
                            entry.first_row + entry.rows, is_damage=False))
    return found


def with_docids(problem: Damage, docid: Callable[[int], str]) -> Damage:
    """Returns the problem with the docids of its first rows, if the store can still give them."""
    names: list[str] = []
    # The store may be damaged too; the docids before the damage are returned.
    with contextlib.suppress(errors.UserError, IndexError):
        for row in range(problem.first_row, min(problem.stop_row, problem.first_row + _DOCIDS)):
            names.append(docid(row))
    return dataclasses.replace(problem, docids=tuple(names))


def _damage_of_shard(folder: Folder, entry: index_manifest.ShardEntry,
                     current: index_manifest.Manifest) -> Iterator[Damage]:
    rows = entry.first_row, entry.first_row + entry.rows
    place = folder / index_manifest.SHARDS / entry.name
    try:
        shard = shards.Shard(folder, entry)
    except errors.IndexFolderError:
        is_there = place.exists(shards.FILES)
        what = 'not the shard that this index was built with' if is_there else 'missing'
        yield Damage(f'{place}/{shards.FILES}', what, *rows)
        return
    try:
        shard.check_fits(current)
    except errors.IndexFolderError:
        yield Damage(str(place), 'of another shape or type than this index', *rows)
    yield from shard.damage(place.sizes(), contents=True, owner='shard')
