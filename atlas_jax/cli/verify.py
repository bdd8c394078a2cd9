"""`atlas-jax verify`: reads every byte of a folder that atlas_jax wrote and compares it with the checksums."""

import argparse
import os
import pathlib
from collections.abc import Iterator

from atlas_jax import errors
from atlas_jax.cli import options as cli_options

_PURPOSE = """Read every byte of a folder that atlas_jax wrote and compare it with its checksums: a run, a saved or converted model, a \
passage store, an index, or a folder of these."""


def add_commands(commands) -> None:
    """Adds `verify`."""
    parser = cli_options.command(commands, 'verify', _verify, _PURPOSE, 'atlas-jax verify run')
    parser.add_argument('folder', metavar='FOLDER', help='folder that any command of atlas-jax wrote, or one above')


def _verify(options: argparse.Namespace) -> None:
    folder = pathlib.Path(options.folder)
    if not folder.is_dir():
        raise errors.ConfigError(f'{folder}: no such folder; give one that atlas-jax wrote')
    verified = 0
    damaged = 0
    for kind, path in _ours(folder):
        problems = list(_problems(kind, path))
        for problem in problems:
            print(problem)
        verified, damaged = verified + 1, damaged + len(problems)
        if not problems:
            print(f'{path}: {kind}, every file is as it was written')
    if damaged:
        raise errors.ModelFolderError(f'{folder}: {damaged} problems, listed above; restore the files from a copy or write them again')
    if not verified:
        raise errors.ModelFolderError(f'{folder}: nothing in it has checksums: another program wrote it, or a version of atlas_jax that '
                                      'wrote none; convert it again to have them')


def _ours(folder: pathlib.Path) -> Iterator[tuple[str, pathlib.Path]]:
    """Yields (kind, path) of the folders at and below `folder` that have checksums, those inside of such a one apart."""
    from atlas_jax.checkpoints import run_folder
    from atlas_jax.corpus import store_version
    from atlas_jax.index import index_manifest
    from atlas_jax.io import contents, manifest, untrusted
    for parent, folders, names in os.walk(folder):
        path = pathlib.Path(parent)
        folders.sort()
        kind = None
        if manifest.FILE in names:
            try:
                found = untrusted.parse_json((path / manifest.FILE).read_bytes()).get('format')
            except (OSError, ValueError, AttributeError):
                found = index_manifest.KIND.format if 'shards' in folders else store_version.KIND.format
            kind = {index_manifest.KIND.format: 'index', store_version.KIND.format: 'passage store'}.get(found)
        elif contents.FILE in names or run_folder.MODEL_FILE in names and _is_listed(path):
            kind = 'run' if run_folder.MODEL_FILE in names else 'model'
        if kind:
            folders.clear()  # in place: what lies in it belongs to it
            yield kind, path


def _is_listed(path: pathlib.Path) -> bool:
    """Returns whether a run has checksums, or has lost them."""
    from atlas_jax.checkpoints import run_folder
    try:
        return run_folder.is_listed(path)
    except errors.ModelFolderError:
        return True


def _problems(kind: str, path: pathlib.Path) -> Iterator[object]:
    """Yields the damage of one folder, to be printed."""
    from atlas_jax.checkpoints import run_folder
    from atlas_jax.corpus.store import PassageStore
    from atlas_jax.io import contents
    from atlas_jax.knowledge import verify
    try:
        if kind == 'index':
            yield from verify.verify(path)
        elif kind == 'passage store':
            yield from PassageStore.problems(path)
        elif kind == 'run':
            yield from run_folder.damage(path)
        else:
            yield from contents.damage(path) or ()
    except errors.UserError as error:  # a manifest that cannot be read is the problem
        yield error
