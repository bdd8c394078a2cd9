"""JAX's persistent cache of compiled programs: where it lies, and how large it may grow."""

import contextlib
import os
import pathlib
import sys

import jax
from etils import epath
from jax.experimental.compilation_cache import compilation_cache

from atlas_jax import errors

AUTO = 'auto'
# The programs of a run of the largest reader, several times over.
MAX_BYTES = 10 * 2**30
_PROBE = '.can_be_written'


def use(place: str | None, default: pathlib.Path) -> None:
    """Keeps the programs that this process compiles from now on, and takes those that are there.

    On a disk the cache stays below MAX_BYTES: what was not used for longest goes. In a bucket nothing is removed.

    Args:
      place: folder or gs://...; AUTO is `default`, unless JAX has a cache already (JAX_COMPILATION_CACHE_DIR), and nothing for several
        processes on CPUs; None changes nothing.
      default: folder that AUTO stands for. If it cannot be written a line on stderr says so, and nothing is kept.

    Raises:
      ConfigError: a folder or bucket that was asked for cannot be written.
    """
    before = jax.config.values['jax_compilation_cache_dir']
    if place is None or place == AUTO and before:
        return
    # Of several processes JAX lets the first alone find its programs. On CPUs it would run ahead and wait for the others' compilation in a
    # collective that gives up after 30 seconds.
    if place == AUTO and jax.process_count() > 1 and jax.default_backend() == 'cpu':
        return
    path = str(default) if place == AUTO else place if '://' in place else str(pathlib.Path(place).expanduser().absolute())
    if path == before:
        return
    if problem := _problem_of(path):
        if place != AUTO:
            raise errors.ConfigError(f'RunConfig.compilation_cache_dir is "{place}", which cannot be written ({problem}); give another '
                                     'folder, or None to keep no compiled programs')
        print(f'{path}: cannot be written ({problem}), so compiled programs are not kept', file=sys.stderr, flush=True)
        return
    jax.config.update('jax_compilation_cache_dir', path)
    # JAX locks a cache that it bounds, and knows no locks in buckets. A run has some twenty programs, so the quick ones are kept too.
    wanted = {'jax_compilation_cache_max_size': -1 if '://' in path else MAX_BYTES, 'jax_persistent_cache_min_compile_time_secs': 0.0}
    for name, value in wanted.items():
        if name.upper() not in os.environ:  # the user's own setting
            jax.config.update(name, value)
    # JAX bounds a cache by the times that it has written beside the programs, and writes nothing where one is missing: programs that were
    # kept without a bound have none.
    if '://' not in path:
        for program in pathlib.Path(path).glob('*-cache'):
            used = program.with_name(f'{program.name.removesuffix("-cache")}-atime')
            with contextlib.suppress(OSError):  # JAX warns, and compiles
                if not used.exists():
                    used.write_bytes(bytes(8))
    # JAX opens its cache once.
    compilation_cache.reset_cache()


def _problem_of(path: str) -> str:
    """Returns why a folder or bucket cannot be written, in one line; empty if it can."""
    folder = epath.Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _PROBE).write_text('')
        (folder / _PROBE).unlink(missing_ok=True)  # processes of one run look together
    except ImportError:
        return 'buckets need the package gcsfs: pip install gcsfs'
    except Exception as error:  # each bucket's library has its own
        return (' '.join(str(error).split()) or type(error).__name__)[:200]
    return ''
