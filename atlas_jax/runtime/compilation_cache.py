"""JAX's persistent cache of compiled programs: where it lies, how large it may grow, and whom it trusts."""

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
# The programs of a run of the largest reader, several times over.
MAX_BYTES = 10 * 2**30
_PROBE = '.can_be_written'
_DIGEST_BYTES = hashlib.sha256().digest_size


def switch_off() -> None:
    """Makes this process compile everything anew: programs are neither kept nor looked for, wherever the cache lies."""
    jax.config.update('jax_enable_compilation_cache', False)
    compilation_cache.reset_cache()


def use(place: str | None, default: pathlib.Path) -> None:
    """Keeps the programs that this process compiles from now on, and takes those that are there.

    On a disk the cache stays below MAX_BYTES: what was not used for longest goes. In a bucket nothing is removed.

    Args:
      place: folder or gs://...; AUTO is `default`, unless JAX has a cache already (JAX_COMPILATION_CACHE_DIR), and nothing for several
        processes on CPUs; None changes nothing but leaves `default`.
      default: folder that AUTO stands for. If it cannot be written, or is not this user's alone, a line on stderr says so, and nothing is
        kept.

    Raises:
      ConfigError: a folder or bucket that was asked for cannot be written.
    """
    before = jax.config.values['jax_compilation_cache_dir']
    if place is None and before == str(default):
        jax.config.update('jax_compilation_cache_dir', None)
        compilation_cache.reset_cache()
    if place is None or place == AUTO and before:
        return
    # Of several processes JAX lets the first alone find its programs. On CPUs it would run ahead and wait for the others' compilation in a
    # collective that gives up after 30 seconds.
    if place == AUTO and jax.process_count() > 1 and jax.default_backend() == 'cpu':
        return
    path = str(default) if place == AUTO else place if '://' in place else str(pathlib.Path(place).expanduser().absolute())
    if path == before:
        return
    if problem := _problem_of(path) or (_distrust(pathlib.Path(path)) if place == AUTO else ''):
        if place != AUTO:
            raise errors.ConfigError(f'RunConfig.compilation_cache_dir is "{place}", which {problem}; give another '
                                     'folder, or None to keep no compiled programs')
        print(f'{path}: {problem}, so compiled programs are not kept', file=sys.stderr, flush=True)
        return
    jax.config.update('jax_compilation_cache_dir', path)
    # JAX locks a cache that it bounds, and knows no locks in buckets. A run has some twenty programs, so the quick ones are kept too.
    wanted = {'jax_compilation_cache_max_size': -1 if '://' in path else MAX_BYTES, 'jax_persistent_cache_min_compile_time_secs': 0.0}
    for name, value in wanted.items():
        if name.upper() not in os.environ:  # the user's own setting
            jax.config.update(name, value)
    if '://' not in path:
        _date_programs(pathlib.Path(path))
    # JAX opens its cache once.
    compilation_cache.reset_cache()
    # A folder that was named may be shared with programs that know no digests.
    if place == AUTO:
        _open_checked(path)


class CheckedCache:
    """A cache of JAX whose entries begin with their SHA-256: one that was cut or damaged is removed and compiled again.

    JAX hands machine code to the process as it finds it, and never writes an entry that is there a second time.
    """

    def __init__(self, cache: Any):
        self._cache, self._path = cache, pathlib.Path(cache.path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def get(self, key: str) -> bytes | None:
        """Returns an entry; None where there is none, or a damaged one."""
        entry = self._cache.get(key)
        if entry is None:
            return None
        digest, program = entry[:_DIGEST_BYTES], entry[_DIGEST_BYTES:]
        if hashlib.sha256(program).digest() == digest:
            return program
        # Removed, or JAX would leave it there and meet it again. Another process may have done so already.
        for file in self._path.glob(f'{key}-*'):
            file.unlink(missing_ok=True)
        return None

    def put(self, key: str, value: bytes) -> None:
        """Adds an entry."""
        self._cache.put(key, hashlib.sha256(value).digest() + value)


def _open_checked(path: str) -> None:
    """Lets JAX open its cache at `path` as a CheckedCache."""
    from jax._src import compilation_cache as internal  # no public name leads to where the cache is opened
    opened = internal.get_file_cache
    if not hasattr(opened, 'func'):  # once a process
        internal.get_file_cache = functools.partial(_checked_at, opened)
    _CHECKED.add(path)


_CHECKED: set[str] = set()  # folders that this process opens so


def _checked_at(opened: Any, path: str) -> Any:
    found = opened(path)
    return (CheckedCache(found[0]), found[1]) if found is not None and path in _CHECKED else found


def _date_programs(folder: pathlib.Path) -> None:
    """Gives every program a time of its last use: JAX bounds a cache by these, and writes nothing where one is missing."""
    # Programs that were kept without a bound have none.
    for program in folder.glob('*-cache'):
        used = program.with_name(f'{program.name.removesuffix("-cache")}-atime')
        with contextlib.suppress(OSError):  # JAX warns, and compiles
            if not used.exists():
                used.write_bytes(bytes(8))


def _distrust(folder: pathlib.Path) -> str:
    """Returns why the programs of a folder must not be run, in a few words; empty if they may: nobody else can have put them there."""
    if not hasattr(os, 'getuid'):
        return ''
    # Machine code comes from there: whoever can write the folder runs what they like as this user.
    found = folder.stat()
    if found.st_uid != os.getuid():
        return 'belongs to another user (set ATLAS_JAX_CACHE to a folder of your own)'
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return 'can be written by others (remove it, or `chmod go-w` it if you trust what lies there)'
    return ''


def _problem_of(path: str) -> str:
    """Returns why a folder or bucket cannot be used, in one line; empty if it can be written."""
    folder = epath.Path(path)
    try:
        if not folder.exists():
            folder.mkdir(parents=True, exist_ok=True)
            if '://' not in path:
                pathlib.Path(path).chmod(0o700)  # whatever the user's umask leaves to others
        (folder / _PROBE).write_text('')
        (folder / _PROBE).unlink(missing_ok=True)  # processes of one run look together
    except ImportError:
        return "cannot be written (buckets need the package gcsfs: pip install 'atlas-jax[gcs]')"
    except Exception as error:  # each bucket's library has its own
        return f'cannot be written ({(" ".join(str(error).split()) or type(error).__name__)[:200]})'
    return ''
