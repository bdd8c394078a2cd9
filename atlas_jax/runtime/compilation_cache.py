"""JAX's persistent cache of compiled programs: its place, its largest size, and which folders are
trusted.
"""

import contextlib
import functools
import hashlib
import os
import pathlib
import stat
import sys
from typing import Any

import jax
from etils import epath
from jax.experimental.compilation_cache import compilation_cache

from atlas_jax import errors

AUTO = 'auto'
# Several times the size of the programs of a run with the largest reader.
MAX_BYTES = 10 * 2**30
_PROBE = '.can_be_written'
_DIGEST_BYTES = hashlib.sha256().digest_size


def switch_off() -> None:
    """Switches the cache off for this process: it neither reads nor writes compiled programs."""
    jax.config.update('jax_enable_compilation_cache', False)
    compilation_cache.reset_cache()


def use(place: str | None, default: pathlib.Path) -> None:
    """Keeps the programs that this process compiles from now on, and reuses those in the cache.

    On a disk the cache stays below MAX_BYTES by removing the least recently used programs. Nothing
    is removed from a bucket.

    Args:
      place: folder or gs://... AUTO takes `default`, unless JAX already has a cache
        (JAX_COMPILATION_CACHE_DIR) or several processes run on CPUs. None stops using `default` and
        changes nothing else.
      default: folder for AUTO. If it cannot be written, or others can write it, a line on stderr
        says so, and no program is kept.

    Raises:
      ConfigError: `place` is a folder or bucket that cannot be written.
    """
    before = jax.config.values['jax_compilation_cache_dir']
    if place is None and before == str(default):
        jax.config.update('jax_compilation_cache_dir', None)
        compilation_cache.reset_cache()
    if place is None or place == AUTO and before:
        return
    # With several processes only the first finds its programs in the cache. On CPUs it would then
    # wait for the others' compilation in a collective, which gives up after 30 seconds.
    if place == AUTO and jax.process_count() > 1 and jax.default_backend() == 'cpu':
        return
    path = str(default) if place == AUTO else place if '://' in place else str(
        pathlib.Path(place).expanduser().absolute())
    if path == before:
        return
    if problem := _problem_of(path) or (_distrust(pathlib.Path(path)) if place == AUTO else ''):
        if place != AUTO:
            raise errors.ConfigError(f'RunConfig.compilation_cache_dir is "{place}", which '
                                     f'{problem}; give another '
                                     'folder, or None to keep no compiled programs')
        print(f'{path}: {problem}, so compiled programs are not kept', file=sys.stderr, flush=True)
        return
    jax.config.update('jax_compilation_cache_dir', path)
    # JAX locks a cache with a size limit, and has no locks in buckets. A run has some twenty
    # programs, so programs that compile quickly are kept too.
    wanted = {
        'jax_compilation_cache_max_size': -1 if '://' in path else MAX_BYTES,
        'jax_persistent_cache_min_compile_time_secs': 0.0}
    for name, value in wanted.items():
        if name.upper() not in os.environ:  # the user's own setting
            jax.config.update(name, value)
    if '://' not in path:
        _date_programs(pathlib.Path(path))
    # JAX opens its cache only once.
    compilation_cache.reset_cache()
    # Other programs, which know no digests, may share a folder that the user has named.
    if place == AUTO:
        _open_checked(path)


class CheckedCache:
    """A cache of JAX whose entries begin with their SHA-256. A truncated or damaged entry is
    removed, and its program compiled again.

    JAX itself runs the machine code of an entry unchecked, and never overwrites an entry.
    """

    def __init__(self, cache: Any):
        self._cache, self._path = cache, pathlib.Path(cache.path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def get(self, key: str) -> bytes | None:
        """Returns an entry; None if it is missing or damaged."""
        entry = self._cache.get(key)
        if entry is None:
            return None
        digest, program = entry[:_DIGEST_BYTES], entry[_DIGEST_BYTES:]
        if hashlib.sha256(program).digest() == digest:
            return program
        # JAX would never overwrite it. Another process may have removed it already.
        for file in self._path.glob(f'{key}-*'):
            file.unlink(missing_ok=True)
        return None

    def put(self, key: str, value: bytes) -> None:
        """Adds an entry."""
        self._cache.put(key, hashlib.sha256(value).digest() + value)


def _open_checked(path: str) -> None:
    """Makes JAX open its cache at `path` as a CheckedCache."""
    # JAX has no public way to choose the cache object: its public module offers reset_cache and
    # set_cache_dir only (jax 0.10). Without this a damaged entry would run as machine code.
    from jax._src import compilation_cache as internal
    opened = internal.get_file_cache
    if not hasattr(opened, 'func'):  # once a process
        internal.get_file_cache = functools.partial(_checked_at, opened)
    _CHECKED.add(path)


_CHECKED: set[str] = set()  # folders that this process opens as a CheckedCache


def _checked_at(opened: Any, path: str) -> Any:
    found = opened(path)
    return (CheckedCache(found[0]), found[1]) if found is not None and path in _CHECKED else found


def _date_programs(folder: pathlib.Path) -> None:
    """Adds missing times of last use. JAX limits a cache by these times, and stops writing if one
    is missing.
    """
    # Programs that were kept without a size limit have no such time.
    for program in folder.glob('*-cache'):
        used = program.with_name(f'{program.name.removesuffix("-cache")}-atime')
        with contextlib.suppress(OSError):  # JAX warns and compiles
            if not used.exists():
                used.write_bytes(bytes(8))


def _distrust(folder: pathlib.Path) -> str:
    """Returns why the programs of a folder must not be run, in a few words; empty if only this user
    can have written them.
    """
    if not hasattr(os, 'getuid'):
        return ''
    # The folder holds machine code: everyone who can write there can run code as this user.
    status = folder.stat()
    if status.st_uid != os.getuid():
        return 'belongs to another user (set ATLAS_JAX_CACHE to a folder of your own)'
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return ('can be written by others (remove it, or `chmod go-w` it if you trust its '
                'content)')
    return ''


def _problem_of(path: str) -> str:
    """Returns why a folder or bucket cannot be used, in one line; empty if it can be written."""
    folder = epath.Path(path)
    try:
        if not folder.exists():
            folder.mkdir(parents=True, exist_ok=True)
            if '://' not in path:
                pathlib.Path(path).chmod(0o700)  # the user's umask may let others write
        (folder / _PROBE).write_text('')
        (folder / _PROBE).unlink(missing_ok=True)  # processes of one run may probe together
    except ImportError:
        return "cannot be written (buckets need the package gcsfs: pip install 'atlas-jax[gcs]')"
    except Exception as error:  # the libraries of buckets raise different errors
        return f'cannot be written ({(" ".join(str(error).split()) or type(error).__name__)[:200]})'
    return ''
