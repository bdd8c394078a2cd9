"""Traces of killed writers in an index folder: told from damage by their names, and removed by the next writer."""

import re

from atlas_jax.index import building, index_manifest, shards
from atlas_jax.io import atomic
from atlas_jax.io.folder import Folder

_SHARD = re.compile(r'\d{12,}-[a-z]+\d{6,}')  # of building.shard_name
_VERSIONED = re.compile(r'tombstones-\d{6,}\.bits|store-r\d{6,}')
_TEMPORARY = re.compile(r'\..+\.tmp\d+')  # io/atomic.py gives such names


def is_shard(name: str) -> bool:
    """Returns whether shards of ours have such names."""
    return bool(_SHARD.fullmatch(name))


def find(folder: Folder, current: index_manifest.Manifest) -> list[str]:
    """Returns the files and folders of ours, by their names below `folder`, that neither `current` nor an unfinished build needs."""
    job = _unfinished_job(folder, current)
    named = {entry.name for entry in current.shards}
    found = [f'{shards.FOLDER}/{name}' for name in (folder / shards.FOLDER).children() - named
             if is_shard(name) and not (job and name.endswith(building.shard_suffix('build', job.revision)))]
    for name in folder.children() - {current.tombstones, current.store}:
        if _VERSIONED.fullmatch(name) or _TEMPORARY.fullmatch(name) or name == index_manifest.BUILDING_FILE and job is None:
            found.append(name)
    return sorted(found)


def remove(folder: Folder, current: index_manifest.Manifest) -> None:
    """Removes what `find` finds; the caller holds the lock. An unfinished build stays. Raises OSError, StorageError."""
    for name in find(folder, current):
        folder.remove(name)
    # Shards that stay may hold the temporary file of a list that was never finished. Nothing in a bucket is temporary.
    for name in (folder / shards.FOLDER).children():
        if (place := (folder / shards.FOLDER / name).local) is not None:
            atomic.remove_abandoned(place)


def _unfinished_job(folder: Folder, current: index_manifest.Manifest) -> building.Job | None:
    """Returns the job of an unfinished build; None for one that was killed after its commit, whose shards `current` names."""
    job = building.unfinished_job(folder)
    if job is None:
        return None
    suffix = building.shard_suffix('build', job.revision)
    return None if any(entry.name.endswith(suffix) for entry in current.shards) else job
