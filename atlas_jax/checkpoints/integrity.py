"""The list of a checkpoint's files with their checksums: written before the checkpoint is committed, compared before it is restored."""

import asyncio
import contextlib
import logging
import pathlib
from collections.abc import Iterable, Iterator

import jax
import orbax.checkpoint as ocp
import tensorstore

from atlas_jax import errors
from atlas_jax.io import atomic, contents
from atlas_jax.runtime import hosts

# Orbax writes these when it commits.
_WRITTEN_LAST = ('_CHECKPOINT_METADATA', 'commit_success.txt')


class ListedPath(ocp.path.atomicity.AtomicRenameTemporaryPath):
    """The place where Orbax writes a checkpoint: before it is renamed, which commits it, the list of its files is written.

    A committed checkpoint therefore has a list, whenever the process dies. The first process calls this, when all have written.
    """

    async def finalize(self) -> None:
        """Lists the files and commits. Raises DiskFullError."""
        folder = pathlib.Path(self.get())
        names = [path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file()]
        await asyncio.to_thread(contents.write, folder, [name for name in names if name not in _WRITTEN_LAST], _parts(folder))
        await super().finalize()
        committed = pathlib.Path(self.get_final())
        await asyncio.to_thread(contents.add, committed, [name for name in _WRITTEN_LAST if (committed / name).is_file()])


def say_once() -> None:
    """Keeps Orbax from logging tracebacks of a full disk from its threads: the error is raised too, and gets its one line there."""
    logging.getLogger('absl').addFilter(_is_news)  # the same filter is added once only


def _is_news(record: logging.LogRecord) -> bool:
    problem = record.exc_info[1] if record.exc_info else None
    return not (isinstance(problem, Exception) and atomic.says_disk_full(problem))


def steps(checkpoints: pathlib.Path) -> list[int]:
    """Returns the steps of the committed checkpoints in a folder, the newest first."""
    names = [path.name for path in checkpoints.iterdir() if path.is_dir()] if checkpoints.is_dir() else []
    return sorted((int(name) for name in names if name.isdecimal() and name.isascii()), reverse=True)


def check(checkpoints: pathlib.Path, step: int, items: Iterable[str], is_listed: bool) -> None:
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
def restoring(checkpoints: pathlib.Path, step: int, items: Iterable[str], is_listed: bool) -> Iterator[None]:
    """Checks a checkpoint, and turns Orbax's errors inside the block into the user's. Raises ModelFolderError, UserError: as `check`."""
    check(checkpoints, step, items, is_listed)
    try:
        yield
    except (ValueError, KeyError, OSError) as error:
        reason = ' '.join(f'{error}'.split('[')[0].split())[:200]
        raise errors.ModelFolderError(f'{checkpoints / str(step)}: cannot be restored ({reason}); '
                                      f'{_remedy(checkpoints, step, is_listed)}') from error


def damage(checkpoints: pathlib.Path, step: int, is_listed: bool, under: Iterable[str] = ('',),
           share: tuple[int, int] = (0, 1)) -> list[contents.Damage]:
    """Returns the damage of one checkpoint; see `check`."""
    folder = checkpoints / str(step)
    found = contents.damage(folder, under, share)
    if found is None:
        return [contents.Damage(folder / contents.FILE, 'is missing')] if is_listed else []
    return found


def _remedy(checkpoints: pathlib.Path, step: int, is_listed: bool) -> str:
    for older in steps(checkpoints):
        with contextlib.suppress(errors.ModelFolderError):
            if older < step and not damage(checkpoints, older, is_listed):
                return f'the checkpoint of step {older} is whole: delete {checkpoints / str(step)} to go on from there'
    return 'no older checkpoint is whole: restore the folder from a copy, or train again in another one; --no_verify loads it as it is'


def _parts(folder: pathlib.Path) -> dict[str, list[contents.Part]]:
    """Returns, for each data file of the items, its ranges with the names of the parameters in them."""
    found: dict[str, list[contents.Part]] = {}
    for item in folder.iterdir():
        # Small items are JSON.
        if (item / 'manifest.ocdbt').is_file():
            for file, start, length, key in _values(item):
                found.setdefault(f'{item.name}/{file}', []).append((start, start + length, key))
    return {file: sorted(set(ranges)) for file, ranges in found.items()}


def _values(item: pathlib.Path) -> Iterator[tuple[str, int, int, str]]:
    """Yields (file, first byte, bytes, parameter) of every value that an OCDBT database holds outside its tree."""
    base = tensorstore.KvStore.open({'driver': 'file', 'path': f'{item.absolute()}/'}).result()
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
