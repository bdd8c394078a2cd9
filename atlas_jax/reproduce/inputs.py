"""Finds the published files of a run among those that a user gives, and says which are missing."""

import fnmatch
import pathlib
from collections.abc import Sequence

from atlas_jax import errors
from atlas_jax.io import compressed, file_list
from atlas_jax.reproduce.recipes import Published, Recipe

_MOST_SHOWN = 5


def find(run: str, recipe: Recipe, given: Sequence[str]) -> dict[Published, list[pathlib.Path]]:
    """Returns the files of each published one that is there; of folders, what is in them and the folders in them, others left alone.

    Args:
      run: name of the run, for messages.
      recipe: says which files it needs.
      given: files, folders and patterns.

    Raises InputFileError: one is missing, two fit one name, or a file that was named is none of the run's.
    """
    if not recipe.files:
        if given:
            raise errors.InputFileError(given[0], f'{run} trains on the passages of the index and takes no files',
                                        remedy='leave --from out')
        return {}
    found: dict[Published, list[pathlib.Path]] = {}
    for path in file_list.expanded(given) if given else ():
        for file in _files_in(path) if path.is_dir() else [path]:
            published = next((each for each in recipe.files if _fits(file, each)), None)
            if published is not None:
                found.setdefault(published, []).append(file)
            elif not path.is_dir():
                raise errors.InputFileError(file, f'{run} has no use for a file of this name',
                                            remedy=f'it takes {_names(recipe.files)}; give files the names that they were published under')
    if missing := [each for each in recipe.files if not each.optional and each not in found]:
        # All of them at once: downloads take hours.
        raise errors.InputFileError(file_list.shown(given) if given else '--from', f'{run} needs {_names(missing)}',
                                    remedy=f'give these, or a folder with them; docs/reproduce.md says where {recipe.source} is published')
    for published, files in found.items():
        if len(files) > 1 and '*' not in published.name:
            raise errors.InputFileError(files[1], f'{files[0]} is {published.name}, too', remedy='give one of them')
    return found


def outputs_of(found: dict[Published, list[pathlib.Path]]) -> set[str]:
    """Returns the outputs that a conversion makes of the files that were found."""
    lists = {published.output for published in found if is_list(published)}
    # With lists of the examples of a split, the conversion makes these splits and no others.
    return lists or {published.output for published in found}


def is_list(published: Published) -> bool:
    """Returns whether a published file names the examples of a split."""
    return published.name.endswith('.idx.json')


def _files_in(folder: pathlib.Path) -> list[pathlib.Path]:
    # MMLU's parquet files are published once by subject and once all together.
    folder = folder / 'all' if (folder / 'all').is_dir() else folder
    return sorted(file for file in folder.rglob('*') if file.is_file())


def _fits(file: pathlib.Path, published: Published) -> bool:
    # With its folder: MMLU's auxiliary files are known by that alone.
    plain = compressed.plain_name(file).absolute()
    return any(fnmatch.fnmatchcase(f'{plain.parent.name}/{plain.name}', name if '/' in name else f'*/{name}')
               for name in published.name.split('|'))


def _names(files: Sequence[Published]) -> str:
    shown = [each.name.replace('|', ' or ') for each in files if not each.optional] or [each.name for each in files]
    return ', '.join(shown[:_MOST_SHOWN]) + (f' and {len(shown) - _MOST_SHOWN} more' if len(shown) > _MOST_SHOWN else '')
