"""The list of a checkpoint's files with their checksums: written before the checkpoint is committed, compared before it is restored.

A disk commits by renaming the checkpoint's folder, a bucket by Orbax's file commit_success.txt: it renames no folders.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Iterator

import jax
import orbax.checkpoint as ocp
import tensorstore
from etils import epath

from atlas_jax import errors
from atlas_jax.io import atomic, contents
from atlas_jax.io.folder import Folder
from atlas_jax.runtime import hosts

_BUCKET_SECONDS = 20  # until a bucket that does not answer is given up
# Orbax writes these when it commits.
_COMMIT = 'commit_success.txt'
_WRITTEN_LAST = ('_CHECKPOINT_METADATA', _COMMIT)


class _ListedPath(ocp.path.atomicity_types.TemporaryPath):
    """The place where Orbax writes a checkpoint: before it is committed, the list of its files is written.

    A committed checkpoint therefore has a list, whenever the process dies. The first process calls this, when all have written.
    """

    async def finalize(self) -> None:
        """Lists the files and commits. Raises DiskFullError, StorageError."""
        folder = Folder(str(self.get()))
        names = await asyncio.to_thread(folder.sizes)
        await asyncio.to_thread(lambda: contents.write(folder, [name for name in names if name not in _WRITTEN_LAST], _parts(folder)))
        await super().finalize()
        committed = Folder(str(self.get_final()))
        await asyncio.to_thread(lambda: contents.add(committed, [name for name in _WRITTEN_LAST if committed.exists(name)]))


class _OnDisk(_ListedPath, ocp.path.atomicity.AtomicRenameTemporaryPath):
    """A checkpoint on a disk."""


class _InBucket(_ListedPath, ocp.path.atomicity.CommitFileTemporaryPath):
    """A checkpoint in a bucket."""


def place_of(checkpoints: Folder) -> tuple[epath.Path, type[ocp.path.atomicity_types.TemporaryPath]]:
    """Returns the path that Orbax takes for a folder of checkpoints, and how it commits there.

    Raises StorageError: a bucket that Orbax cannot use: a package is missing, the bucket does not exist, or may not be looked at.
    """
    # Orbax refuses relative paths.
    if checkpoints.local is not None:
        return epath.Path(checkpoints.local.absolute()), _OnDisk
    with storage_errors(checkpoints):
        import fsspec  # not above: a disk needs no packages of buckets
        import gcsfs  # noqa: F401  Orbax's, by the path's name
        from google.cloud import storage
        # A list that is remembered would hide what other processes have written.
        fsspec.config.conf['gcs'] = {'use_listings_cache': False}
        # As Orbax does, to know whether the bucket renames folders.
        storage.Client().get_bucket(checkpoints.bucket, timeout=_BUCKET_SECONDS, retry=None)
    return epath.Path(str(checkpoints)), _InBucket


@contextlib.contextmanager
def storage_errors(checkpoints: Folder) -> Iterator[None]:
    """Turns what Orbax meets inside the block when it reads and writes into the user's errors. Raises DiskFullError, StorageError."""
    with atomic.storage_errors_are_user_errors(str(checkpoints)):
        try:
            yield
        except Exception as error:
            # Each of the bucket's three libraries has errors of its own.
            if checkpoints.local is not None or isinstance(error, errors.UserError):
                raise
            if isinstance(error, ImportError):
                raise errors.StorageError(f'{checkpoints}: a run folder in a bucket needs the package {error.name}: '
                                          "pip install 'atlas-jax[gcs]'") from error
            reason = ' '.join(str(error).split('[source')[0].split())[:200]
            raise errors.StorageError(f'{checkpoints}: cannot be used ({reason}); check the name, and that you have the roles '
                                      'storage.objectUser and storage.legacyBucketReader on the bucket') from error


def say_once() -> None:
    """Keeps Orbax from logging tracebacks of a full disk from its threads: the error is raised too, and gets its one line there."""
    logging.getLogger('absl').addFilter(_is_news)  # the same filter is added once only


def _is_news(record: logging.LogRecord) -> bool:
    problem = record.exc_info[1] if record.exc_info else None
    return not (isinstance(problem, Exception) and atomic.says_disk_full(problem))


def steps(checkpoints: Folder) -> list[int]:
    """Returns the steps of the committed checkpoints in a folder, the newest first. Raises OSError, StorageError."""
    numbers = [int(name) for name in checkpoints.children() if name.isdecimal() and name.isascii()]
    return sorted((step for step in numbers if _is_committed(checkpoints / str(step))), reverse=True)


def _is_committed(checkpoint: Folder) -> bool:
    # A folder on a disk has its name once all of it is written.
    return checkpoint.exists(_COMMIT) if checkpoint.local is None else checkpoint.is_folder()


def uncommit(checkpoints: Folder, step: int) -> None:
    """Takes a bucket's checkpoint for one that was never committed: removing it takes a while, and half of one must not be restored."""
    if checkpoints.local is None:
        (checkpoints / str(step)).remove(_COMMIT)


def check(checkpoints: Folder, step: int, items: Iterable[str], is_listed: bool) -> None:
    """Compares one checkpoint with its list; each of several processes reads its share. Does nothing in contents.unchecked.

    Args:
      items: what will be read: params, optimizer, input, index.
      is_listed: a checkpoint without a list is damaged; else it was written before there were lists.

    Raises:
      ModelFolderError: names file and parameter, the newest older checkpoint that is whole, and how to go on from it.
      UserError: another process found damage.
    """
    if not contents.is_checking():
        return
    with hosts.together():
        under = [*(f'{item}/' for item in items), *_WRITTEN_LAST]
        found = damage(checkpoints, step, is_listed, under, (jax.process_index(), jax.process_count()))
        if found:
            raise errors.ModelFolderError(contents.described(found, _remedy(checkpoints, step, is_listed)))


@contextlib.contextmanager
def restoring(checkpoints: Folder, step: int, items: Iterable[str], is_listed: bool) -> Iterator[None]:
    """Checks a checkpoint, and turns Orbax's errors inside the block into the user's. Raises ModelFolderError, UserError: as `check`."""
    check(checkpoints, step, items, is_listed)
    try:
        yield
    except (ValueError, KeyError, OSError) as error:
        reason = ' '.join(f'{error}'.split('[')[0].split())[:200]
        raise errors.ModelFolderError(f'{checkpoints}/{step}: cannot be restored ({reason}); '
                                      f'{_remedy(checkpoints, step, is_listed)}') from error


def damage(checkpoints: Folder, step: int, is_listed: bool, under: Iterable[str] = ('',),
           share: tuple[int, int] = (0, 1)) -> list[contents.Damage]:
    """Returns the damage of one checkpoint; see `check`."""
    folder = checkpoints / str(step)
    found = contents.damage(folder, under, share)
    if found is None:
        return [contents.Damage((folder / contents.FILE).path, 'is missing')] if is_listed else []
    return found


def _remedy(checkpoints: Folder, step: int, is_listed: bool) -> str:
    for older in steps(checkpoints):
        with contextlib.suppress(errors.ModelFolderError):
            if older < step and not damage(checkpoints, older, is_listed):
                return f'the checkpoint of step {older} is whole: delete {checkpoints}/{step} to go on from there'
    return 'no older checkpoint is whole: restore the folder from a copy, or train again in another one; --no_verify loads it as it is'


def _parts(folder: Folder) -> dict[str, list[contents.Part]]:
    """Returns, for each data file of the items, its ranges with the names of the parameters in them."""
    found: dict[str, list[contents.Part]] = {}
    for item in folder.children():
        # Small items are JSON.
        if (folder / item).exists('manifest.ocdbt'):
            for file, start, length, key in _values(folder / item):
                found.setdefault(f'{item}/{file}', []).append((start, start + length, key))
    return {file: sorted(set(ranges)) for file, ranges in found.items()}


def _values(item: Folder) -> Iterator[tuple[str, int, int, str]]:
    """Yields (file, first byte, bytes, parameter) of every value that an OCDBT database holds outside its tree."""
    base = item.open()
    nodes = [(version['root']['location'], '') for version in tensorstore.ocdbt.dump(base).result()['versions'][-1:]]
    while nodes:
        location, prefix = nodes.pop()
        for entry in tensorstore.ocdbt.dump(base, location).result()['entries']:
            if 'indirect_value' in entry:
                # value:FOLDER:FILE:OFFSET:LENGTH; the key is PARAMETER/CHUNK, with dots between the parameter's names
                _, parent, file, start, length = entry['indirect_value'].split(':')
                name = (prefix + entry['key'].decode()).split('/')[0]
                yield parent + file, int(start), int(length), name.replace('.', '/')
            elif 'location' in entry:  # a node below: its keys lack what they begin with
                nodes.append((entry['location'], prefix + entry['subtree_common_prefix'].decode()))
