"""`atlas-jax verify`: reads every byte of a folder that atlas_jax wrote and compares it with the
checksums.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from atlas_jax import errors
from atlas_jax.apps.cli import options as cli_options

if TYPE_CHECKING:
    from atlas_jax.io.folder import Folder

_PURPOSE = ('Read every byte of a folder that atlas_jax wrote and compare it with its checksums: a '
            'run, a saved or converted model, a passage store, an index, a project, or a folder of '
            'these.')


def add_commands(commands) -> None:
    """Adds `verify`."""
    parser = cli_options.command(commands, 'verify', _verify, _PURPOSE, 'atlas-jax verify run')
    parser.add_argument('folder', metavar='FOLDER',
                        help='folder that any command of atlas-jax wrote, or one above')


def _verify(options: argparse.Namespace) -> None:
    from atlas_jax.io.folder import Folder  # not above: help needs no tensorstore
    folder = Folder(options.folder)
    if not folder.is_folder():
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
        raise errors.ModelFolderError(f'{folder}: {damaged} problems, listed above; restore the '
                                      'files from a copy or write them again')
    if not verified:
        raise errors.ModelFolderError(f'{folder}: nothing in it has checksums: another program '
                                      'wrote it, or a version of atlas_jax that '
                                      'wrote none; convert it again to have them')


def _ours(folder: Folder) -> Iterator[tuple[str, Folder]]:
    """Yields (kind, folder) of the folders at and below `folder` that have checksums, those inside
    of such a one apart.
    """
    # Every folder with the files in it; a bucket has names of files alone.
    files: dict[str, set[str]] = {}
    for name in folder.sizes():
        above, _, file = name.rpartition('/')
        files.setdefault(above, set()).add(file)
    found: list[str] = []
    for path, names in sorted(files.items()):
        if any(path == outer or path.startswith(f'{outer}/') or not outer for outer in found):
            continue
        here = folder / path if path else folder
        if kind := _kind(here, names):
            # A project holds folders of the other kinds.
            if kind != 'project':
                found.append(path)
            yield kind, here


def _kind(folder: Folder, names: set[str]) -> str | None:
    """Returns the kind of a folder with files of these names; None for one without checksums."""
    from atlas_jax.apps.project import project_folder
    from atlas_jax.checkpoints import run_folder
    from atlas_jax.corpus import store_version
    from atlas_jax.index import index_manifest
    from atlas_jax.io import contents, versioned_folder
    if versioned_folder.FILE in names:
        try:
            found = folder.read_json(versioned_folder.FILE).get('format')
        except (OSError, ValueError, AttributeError):
            found = index_manifest.KIND.format if (
                folder / 'shards').is_folder() else store_version.KIND.format
        return {index_manifest.KIND.format: 'index',
                store_version.KIND.format: 'passage store'}.get(found)
    if project_folder.FILE in names and _is_project(folder):
        return 'project'
    if contents.FILE in names or run_folder.MODEL_FILE in names and _is_listed(folder):
        return 'run' if run_folder.MODEL_FILE in names else 'model'
    return None


def _is_project(folder: Folder) -> bool:
    """Returns whether the folder of a project.json is a project with checksums."""
    from atlas_jax.apps.project import project_folder
    try:
        body = folder.read_json(project_folder.FILE)
    except (OSError, ValueError):
        return any((folder / name).is_folder() for name in ('model', 'questions', 'store'))
    # Other programs write files of this name too.
    return isinstance(body, dict) and project_folder.is_signed(body)


def _is_listed(path: Folder) -> bool:
    """Returns whether a run has checksums, or has lost them."""
    from atlas_jax.checkpoints import run_folder
    try:
        return run_folder.is_listed(path)
    except errors.ModelFolderError:
        return True


def _problems(kind: str, path: Folder) -> Iterator[object]:
    """Yields the damage of one folder, to be printed."""
    from atlas_jax.apps.project import project_folder
    from atlas_jax.checkpoints import run_folder
    from atlas_jax.corpus.store import PassageStore
    from atlas_jax.io import contents
    from atlas_jax.knowledge import verify
    try:
        if kind == 'index':
            yield from verify.verify(path.path)
        elif kind == 'passage store':
            yield from PassageStore.problems(path.path)
        elif kind == 'project':
            yield from project_folder.open_project(str(path), check_questions=False).damage()
        elif kind == 'run':
            yield from run_folder.damage(path)
        else:
            yield from contents.damage(path) or ()
    except errors.UserError as error:  # a manifest that cannot be read is the problem
        yield error
