"""Expands files, folders and patterns to lists of input files, in the order given."""

import glob
import os
import pathlib
from collections.abc import Iterable, Sequence

from atlas_jax import errors
from atlas_jax.io import compressed

# A file, a folder or a pattern such as data/*.jsonl, or several of them. In buckets, files only:
# gs://bucket/file.
Paths = str | os.PathLike | Sequence[str | os.PathLike]


def files_of(paths: Paths) -> list[pathlib.Path]:
    """Returns the files that paths name.

    A folder stands for its JSON-lines files, compressed or not, sorted by name; subfolders are not
    searched.

    Raises InputFileError: the same errors as `expanded`, or a folder without JSON lines.
    """
    return _once(
        file for path in expanded(paths)
        for file in (_json_lines_in(path) if not _is_remote(path) and path.is_dir() else [path]))


def expanded(paths: Paths) -> list[pathlib.Path]:
    """Returns files and folders in the order given; a pattern becomes its matches, sorted.

    A path that exists is never a pattern.

    Raises InputFileError: an empty list, a missing path, a pattern without a match, or a path that
    is named twice.
    """
    given = listed(paths)
    if not given:
        raise errors.InputFileError('[]', 'an empty list of files', remedy='name at least one')
    return _once(found for path in given for found in _fitting(path))


def listed(paths: Paths) -> list[str]:
    """Returns the paths as a list of texts."""
    given = [paths] if isinstance(paths, str | os.PathLike) else paths
    return [os.fspath(path) for path in given]


def summary(paths: Paths) -> str:
    """Returns the paths for a message: the first, and how many more there are."""
    given = listed(paths)
    return given[0] + (f' and {len(given) - 1} more' if len(given) > 1 else '')


def _is_remote(path: str | os.PathLike) -> bool:
    return '://' in str(path)


def _fitting(path: str) -> list[pathlib.Path]:
    if _is_remote(path):
        # epath keeps the two slashes. Whether the file exists shows when it is read.
        from etils import epath
        return [epath.Path(path)]
    one = pathlib.Path(path)
    # Pipes and devices exist too; they are refused when they are read.
    if one.exists():
        return [one]
    if not glob.has_magic(path):
        raise errors.InputFileError(
            path, 'no such file or folder',
            remedy='give the path of a file, a folder of them, or a pattern')
    if not (found := sorted(map(pathlib.Path, glob.glob(path, recursive=True)))):
        raise errors.InputFileError(
            path, 'nothing fits this pattern',
            remedy='give the path of a file, a folder of them, or a pattern')
    return found


def _json_lines_in(folder: pathlib.Path) -> list[pathlib.Path]:
    found = sorted(each for each in folder.iterdir()
                   if compressed.plain_suffix(each) == '.jsonl' and not each.name.startswith('.'))
    if not found:
        raise errors.InputFileError(
            folder, 'no JSON lines in this folder',
            remedy='it needs files that end in .jsonl, or .jsonl.gz, .bz2 or .zst')
    return found


def _once(paths: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    found: dict[pathlib.Path, pathlib.Path] = {}
    for path in paths:
        # A folder and a file of it are given together by mistake: it would count twice.
        if (real := path if _is_remote(path) else path.resolve()) in found:
            raise errors.InputFileError(path, 'named twice',
                                        remedy='name it once; copy it if it is to count twice')
        found[real] = path
    return list(found.values())
