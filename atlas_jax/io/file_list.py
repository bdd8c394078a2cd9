"""Lists of input files: single files, folders and patterns become files, in the order given."""

import glob
import os
import pathlib
from collections.abc import Iterable, Sequence

from atlas_jax import errors
from atlas_jax.io import compressed

# A file, a folder or a pattern such as data/*.jsonl, or several of them. Of a bucket files alone, gs://bucket/file.
Paths = str | os.PathLike | Sequence[str | os.PathLike]


def files_of(paths: Paths) -> list[pathlib.Path]:
    """Returns the files that paths name; of a folder (not of folders in it) its JSON lines, compressed or not, sorted by name.

    Raises InputFileError: as `expanded`, or a folder without JSON lines.
    """
    return _once(file for path in expanded(paths) for file in (_json_lines_in(path) if not _is_remote(path) and path.is_dir() else [path]))


def expanded(paths: Paths) -> list[pathlib.Path]:
    """Returns files and folders in the order given; a pattern becomes what it fits, sorted. A path that exists is never a pattern.

    Raises InputFileError: nothing is given, nothing is there, a pattern that fits nothing, or a path that is named twice.
    """
    given = listed(paths)
    if not given:
        raise errors.InputFileError('[]', 'an empty list of files', remedy='name at least one')
    return _once(found for path in given for found in _fitting(path))


def listed(paths: Paths) -> list[str]:
    """Returns the paths as a list of texts, also where there is but one."""
    return [os.fspath(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]


def shown(paths: Paths) -> str:
    """Returns the paths as a message names them: the first, and how many more there are."""
    given = listed(paths)
    return given[0] + (f' and {len(given) - 1} more' if len(given) > 1 else '')


def _is_remote(path: str | os.PathLike) -> bool:
    return '://' in str(path)


def _fitting(path: str) -> list[pathlib.Path]:
    if _is_remote(path):
        from etils import epath  # a path that keeps its two slashes; it is found missing when it is read
        return [epath.Path(path)]
    one = pathlib.Path(path)
    # Pipes and devices exist; they are refused when they are read, with a message of their own.
    if one.exists():
        return [one]
    if not glob.has_magic(path):
        raise errors.InputFileError(path, 'no such file or folder', remedy='give the path of a file, a folder of them, or a pattern')
    if not (found := sorted(map(pathlib.Path, glob.glob(path, recursive=True)))):
        raise errors.InputFileError(path, 'nothing fits this pattern', remedy='give the path of a file, a folder of them, or a pattern')
    return found


def _json_lines_in(folder: pathlib.Path) -> list[pathlib.Path]:
    found = sorted(each for each in folder.iterdir() if compressed.plain_suffix(each) == '.jsonl' and not each.name.startswith('.'))
    if not found:
        raise errors.InputFileError(folder, 'no JSON lines in this folder',
                                    remedy='it needs files that end in .jsonl, or .jsonl.gz, .bz2 or .zst')
    return found


def _once(paths: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    found: dict[pathlib.Path, pathlib.Path] = {}
    for path in paths:
        # What is in it would silently count twice; a folder and a file of it are given together by mistake.
        if (real := path if _is_remote(path) else path.resolve()) in found:
            raise errors.InputFileError(path, 'named twice', remedy='name it once; copy it if it is to count twice')
        found[real] = path
    return list(found.values())
