"""The list of a checkpoint's files with their checksums: written before the checkpoint is
committed, and compared before it is restored.

On a disk, renaming the checkpoint's folder commits it. A bucket cannot rename folders; there
Orbax's file commit_success.txt commits.
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

_BUCKET_SECONDS = 20  # gives up on a bucket that does not answer
# Orbax writes these when it commits.
_COMMIT = 'commit_success.txt'
_WRITTEN_LAST = ('_CHECKPOINT_METADATA', _COMMIT)


class _ListedPath(ocp.path.atomicity_types.TemporaryPath):
    """The place where Orbax writes a checkpoint. Writes the list of files before the commit, so
    that every committed checkpoint has a list.

    The first process calls it after all have written.
    """

    async def finalize(self) -> None:
        """Lists the files and commits. Raises DiskFullError, StorageError."""
        folder = Folder(str(self.get()))
        names = await asyncio.to_thread(folder.sizes)
        await asyncio.to_thread(lambda: contents.write(folder, [
            name for name in names if name not in _WRITTEN_LAST], _parts(folder)))
        await super().finalize()
        committed = Folder(str(self.get_final()))
        await asyncio.to_thread(lambda: contents.add(committed, [
            name for name in _WRITTEN_LAST if committed.exists(name)]))


class _OnDisk(_ListedPath, ocp.path.atomicity.AtomicRenameTemporaryPath):
    """A checkpoint on a disk."""


class _InBucket(_ListedPath, ocp.path.atomicity.CommitFileTemporaryPath):
    """A checkpoint in a bucket."""


def place_of(
        checkpoints: Folder) -> tuple[epath.Path, type[ocp.path.atomicity_types.TemporaryPath]]:
    """Returns Orbax's path for a folder of checkpoints, and the class that commits there.

    Raises StorageError: Orbax cannot use the bucket: a package is missing, or the bucket does not
    exist or may not be read.
    """
    # Orbax refuses relative paths.
    if checkpoints.local is not None:
        return epath.Path(checkpoints.local.absolute()), _OnDisk
    with storage_errors(checkpoints):
        import fsspec  # imported here: a disk needs no packages for buckets
        import gcsfs  # noqa: F401  Orbax finds it by the path's name
        from google.cloud import storage
        # A cached listing would hide files of other processes.
        fsspec.config.conf['gcs'] = {'use_listings_cache': False}
        # Orbax does the same, to learn whether the bucket renames folders.
        storage.Client().get_bucket(checkpoints.bucket, timeout=_BUCKET_SECONDS, retry=None)
    return epath.Path(str(checkpoints)), _InBucket


@contextlib.contextmanager
def storage_errors(checkpoints: Folder) -> Iterator[None]:
    """Turns Orbax's storage errors inside the block into UserErrors.

    Raises DiskFullError, StorageError.
    """
    with atomic.storage_errors_are_user_errors(str(checkpoints)):
        try:
            yield
        except Exception as error:
            # The three libraries for buckets have their own errors.
            if checkpoints.local is not None or isinstance(error, errors.UserError):
                raise
            if isinstance(error, ImportError):
                raise errors.StorageError(f'{checkpoints}: a run folder in a bucket needs the '
                                          f'package {error.name}: '
                                          "pip install 'atlas-jax[gcs]'") from error
            reason = ' '.join(str(error).split('[source')[0].split())[:200]
            raise errors.StorageError(f'{checkpoints}: cannot be used ({reason}); check the name, '
                                      'and that you have the roles '
                                      'storage.objectUser and storage.legacyBucketReader on the '
                                      'bucket') from error


def say_once() -> None:
    """Keeps Orbax from logging tracebacks of a full disk from its threads. The error is also
    raised, and that prints one line.
    """
    logging.getLogger('absl').addFilter(_is_news)  # the same filter is added once only


def _is_news(record: logging.LogRecord) -> bool:
    problem = record.exc_info[1] if record.exc_info else None
    return not (isinstance(problem, Exception) and atomic.says_disk_full(problem))


def steps(checkpoints: Folder) -> list[int]:
    """Returns the steps of the committed checkpoints in a folder, the newest first.

    Raises OSError, StorageError.
    """
    numbers = [int(name) for name in checkpoints.children() if name.isdecimal() and name.isascii()]
    return sorted((step for step in numbers if _is_committed(checkpoints / str(step))),
                  reverse=True)


def _is_committed(checkpoint: Folder) -> bool:
    # A folder on a disk has its name once all of it is written.
    return checkpoint.exists(_COMMIT) if checkpoint.local is None else checkpoint.is_folder()


def uncommit(checkpoints: Folder, step: int) -> None:
    """Marks a bucket's checkpoint as not committed. Removing it takes a while, and a partial
    checkpoint must not be restored.
    """
    if checkpoints.local is None:
        (checkpoints / str(step)).remove(_COMMIT)


def check(checkpoints: Folder, step: int, items: Iterable[str], is_listed: bool) -> None:
    """Compares one checkpoint with its list; each process reads its share. Does nothing inside
    contents.unchecked.

    Args:
      items: items that will be read: params, optimizer, input, index.
      is_listed: True if a checkpoint without a list is damaged; False if it may have been written
        before there were lists.

    Raises:
      ModelFolderError: names file and parameter, the newest older checkpoint that is whole, and how
        to continue from it.
      UserError: another process found damage.
    """
    if not contents.is_checking():
        return
    with hosts.together():
        under = [*(f'{item}/' for item in items), *_WRITTEN_LAST]
        found = damage(checkpoints, step, is_listed, under,
                       (jax.process_index(), jax.process_count()))
        if found:
            raise errors.ModelFolderError(
                contents.described(found, _remedy(checkpoints, step, is_listed)))


@contextlib.contextmanager
def restoring(checkpoints: Folder, step: int, items: Iterable[str],
              is_listed: bool) -> Iterator[None]:
    """Checks a checkpoint, and turns Orbax's errors inside the block into UserErrors.

    Raises ModelFolderError and the other errors of `check`.
    """
    check(checkpoints, step, items, is_listed)
    try:
        yield
    except (ValueError, KeyError, OSError) as error:
        reason = ' '.join(f'{error}'.split('[')[0].split())[:200]
        raise errors.ModelFolderError(f'{checkpoints}/{step}: cannot be restored ({reason}); '
                                      f'{_remedy(checkpoints, step, is_listed)}') from error


def damage(checkpoints: Folder, step: int, is_listed: bool, under: Iterable[str] = ('',),
           share: tuple[int, int] = (0, 1)) -> list[contents.DamagedFile]:
    """Returns the damage of one checkpoint; see `check`."""
    folder = checkpoints / str(step)
    found = contents.damage(folder, under, share)
    if found is None:
        missing = contents.DamagedFile((folder / contents.FILE).path, 'is missing')
        return [missing] if is_listed else []
    return found


def _remedy(checkpoints: Folder, step: int, is_listed: bool) -> str:
    for older in steps(checkpoints):
        with contextlib.suppress(errors.ModelFolderError):
            if older < step and not damage(checkpoints, older, is_listed):
                return (f'the checkpoint of step {older} is whole: delete {checkpoints}/{step} to '
                        'go on from there')
    return ('no older checkpoint is whole: restore the folder from a copy, or train again in '
            'another one; --no_verify loads it as it is')


def _parts(folder: Folder) -> dict[str, list[contents.Part]]:
    """Returns the ranges of each data file of the items, with the parameters in them."""
    found: dict[str, list[contents.Part]] = {}
    for item in folder.children():
        # Items without this file are JSON.
        if (folder / item).exists('manifest.ocdbt'):
            for file, start, length, key in _values(folder / item):
                found.setdefault(f'{item}/{file}', []).append((start, start + length, key))
    return {file: sorted(set(ranges)) for file, ranges in found.items()}


def _values(item: Folder) -> Iterator[tuple[str, int, int, str]]:
    """Yields (file, first byte, bytes, parameter) of every value that an OCDBT database holds
    outside its tree.
    """
    base = item.open()
    nodes = [(version['root']['location'], '')
             for version in tensorstore.ocdbt.dump(base).result()['versions'][-1:]]
    while nodes:
        location, prefix = nodes.pop()
        for entry in tensorstore.ocdbt.dump(base, location).result()['entries']:
            if 'indirect_value' in entry:
                # value:FOLDER:FILE:OFFSET:LENGTH; the key is PARAMETER/CHUNK, with dots in the
                # parameter's path.
                _, parent, file, start, length = entry['indirect_value'].split(':')
                name = (prefix + entry['key'].decode()).split('/')[0]
                yield parent + file, int(start), int(length), name.replace('.', '/')
            elif 'location' in entry:  # a child node: its keys lack their common prefix
                nodes.append((entry['location'], prefix + entry['subtree_common_prefix'].decode()))
