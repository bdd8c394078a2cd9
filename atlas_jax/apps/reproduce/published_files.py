"""Finds the published files of a run among the given files, and reports missing ones."""

import fnmatch
import pathlib
from collections.abc import Sequence

from atlas_jax import errors
from atlas_jax.apps.reproduce.recipes import Published, Recipe
from atlas_jax.io import compressed, file_list

_MOST_SHOWN = 5


def find(run: str, recipe: Recipe, given: Sequence[str]) -> dict[Published, list[pathlib.Path]]:
    """Returns {published file: the given files of that name}. Folders are searched at any depth;
    their other files are ignored.

    Args:
      run: The name of the run, for messages.
      recipe: The recipe of the run, which names the files it needs.
      given: Files, folders and patterns.

    Raises InputFileError: a file is missing, two files have one name, or the run has no use for a
    given file.
    """
    if not recipe.files:
        if given:
            raise errors.InputFileError(given[0], f'{run} trains on the passages of the index and '
                                                  'takes no files',
                                        remedy='leave --from out')
        return {}
    found: dict[Published, list[pathlib.Path]] = {}
    for path in file_list.expanded(given) if given else ():
        for file in _files_in(path) if path.is_dir() else [path]:
            published = next((wanted for wanted in recipe.files if _fits(file, wanted)), None)
            if published is not None:
                found.setdefault(published, []).append(file)
            elif not path.is_dir():
                raise errors.InputFileError(file, f'{run} has no use for a file of this name',
                                            remedy=f'it takes {_names(recipe.files)}; give files '
                                                   'the names that they were published under')
    if missing := [file for file in recipe.files if not file.optional and file not in found]:
        # Names all missing files at once, because downloads take hours.
        raise errors.InputFileError(
            file_list.summary(given) if given else '--from', f'{run} needs {_names(missing)}',
            remedy='give these, or a folder with them; docs/reproduce.md says where '
                   f'{recipe.source} is published')
    for published, files in found.items():
        if len(files) > 1 and '*' not in published.name:
            raise errors.InputFileError(files[1], f'{files[0]} is {published.name}, too',
                                        remedy='give one of them')
    return found


def outputs_of(found: dict[Published, list[pathlib.Path]]) -> set[str]:
    """Returns the outputs that a conversion makes from the files in `found`."""
    lists = {published.output for published in found if is_list(published)}
    # With lists of the examples of a split, the conversion makes only the listed splits.
    return lists or {published.output for published in found}


def is_list(published: Published) -> bool:
    """Returns whether a published file names the examples of a split."""
    return published.name.endswith('.idx.json')


def _files_in(folder: pathlib.Path) -> list[pathlib.Path]:
    # MMLU's parquet release has each question twice: by subject, and in the folder `all`.
    folder = folder / 'all' if (folder / 'all').is_dir() else folder
    return sorted(file for file in folder.rglob('*') if file.is_file())


def _fits(file: pathlib.Path, published: Published) -> bool:
    # With the folder's name, because only that tells MMLU's auxiliary files.
    plain = compressed.plain_name(file).absolute()
    patterns = [name if '/' in name else f'*/{name}' for name in published.name.split('|')]
    return any(fnmatch.fnmatchcase(f'{plain.parent.name}/{plain.name}', pattern)
               for pattern in patterns)


def _names(files: Sequence[Published]) -> str:
    shown = [file.name.replace('|', ' or ') for file in files if not file.optional] or [
        file.name for file in files]
    more = f' and {len(shown) - _MOST_SHOWN} more' if len(shown) > _MOST_SHOWN else ''
    return ', '.join(shown[:_MOST_SHOWN]) + more
