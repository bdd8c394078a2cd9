"""The test session: one compilation cache, quick compilation, the dearest files first, and what each worker used.

Compiling is most of what these tests cost. All workers and the processes that tests start share one cache of compiled programs. It is
a folder of this session, or $ATLAS_JAX_TESTS_CACHE, which is kept. Programs are compiled with few optimisations, except in modules that
are marked `optimized`: they compare numbers with other implementations, or run real models.
"""

import contextlib
import ctypes
import gc
import json
import os
import pathlib
import resource
import shutil
import tempfile

import jax
import pytest
from jax._src import compiler

from tests.testing import streams

TESTS = pathlib.Path(__file__).resolve().parents[1]
COSTS_FILE = TESTS / 'costs.json'  # {test file: CPU seconds}, of files that take more than QUICK_SECONDS; see --write-costs
QUICK_SECONDS = 2
# Resident bytes of a test process above which its programs are dropped. What follows is traced, lowered and loaded anew, so: not often.
_PROGRAMS_BYTES = 5 * 2**29
_MORE_BYTES = 2**30  # by which it grows before that happens again: much of what it holds is not given back
_kept_bytes = 0  # after the last time
_OPTIMIZED_OPTIONS = compiler.get_compile_options  # JAX's own
_OWN_CACHE = pytest.StashKey[str]()
_PEAKS: list[list[float]] = []  # of each worker and the largest process that it started, GB


def _peak_gigabytes(who: int) -> float:
    return resource.getrusage(who).ru_maxrss * 1024 / 1e9  # Linux counts KiB


def pytest_addoption(parser: pytest.Parser) -> None:
    """--write-costs."""
    parser.addoption('--write-costs', action='store_true', help=f'enter the CPU seconds of each test file in {COSTS_FILE.name}')


def pytest_configure(config: pytest.Config) -> None:
    """Sets, before any program is compiled, what this process and all that it starts compile with."""
    if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
        folder = os.environ.get('ATLAS_JAX_TESTS_CACHE')
        if not folder:
            folder = config.stash[_OWN_CACHE] = tempfile.mkdtemp(prefix='atlas_jax_tests_cache_')
        os.environ['JAX_COMPILATION_CACHE_DIR'] = folder
    os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
    os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')
    os.environ.setdefault('MALLOC_ARENA_MAX', '2')  # one arena for each of many threads keeps gigabytes that are free
    # JAX has read the environment when it was imported, perhaps before now.
    jax.config.update('jax_compilation_cache_dir', os.environ['JAX_COMPILATION_CACHE_DIR'])
    jax.config.update('jax_persistent_cache_min_compile_time_secs', float(os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS']))
    jax.config.update('jax_persistent_cache_min_entry_size_bytes', int(os.environ['JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES']))
    compiler.get_compile_options = _quick_options


def _quick_options(*arguments, backend=None, env_options_overrides: dict | None = None, **options):
    """JAX's own options, with streams.QUICK_TO_COMPILE on a CPU. JAX has no setting for all of it."""
    quick = streams.QUICK_TO_COMPILE if getattr(backend, 'platform', '') == 'cpu' else {}
    return _OPTIMIZED_OPTIONS(*arguments, backend=backend, env_options_overrides=quick | (env_options_overrides or {}), **options)


def pytest_collection_finish() -> None:
    """Leaves what collecting has made to no collector of garbage: JAX's traces call it often, and each time it would walk all modules."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Removes the session's own cache."""
    if _OWN_CACHE in config.stash:
        shutil.rmtree(config.stash[_OWN_CACHE], ignore_errors=True)


def costs_by_file() -> dict[str, int]:
    """CPU seconds of the files that are not quick."""
    return json.loads(COSTS_FILE.read_text())


def pytest_ignore_collect(collection_path: pathlib.Path, config: pytest.Config) -> bool | None:
    """With `-m quick`, does not import what is not quick: PyTorch and large modules take as long as the tests."""
    if config.option.markexpr != 'quick' or not collection_path.is_relative_to(TESTS):
        return None
    return True if collection_path.relative_to(TESTS).as_posix() in costs_by_file() else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Puts the dearest files first, so that no worker is left with one at the end; marks what is quick, leaves out what is exhaustive.

    Optimized ones come before the others: between the two kinds a process drops its programs.
    """
    costs = costs_by_file()
    if 'exhaustive' not in config.option.markexpr:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker('exhaustive')])
        items[:] = [item for item in items if not item.get_closest_marker('exhaustive')]
    items.sort(key=lambda item: (not _is_optimized(item), -costs.get(_file_of(item), 0)))
    for item in items:
        if _file_of(item) not in costs and item.get_closest_marker('slow') is None:
            item.add_marker(pytest.mark.quick)


def _is_optimized(node: pytest.Item | pytest.Module) -> bool:
    return node.getparent(pytest.Module).get_closest_marker('optimized') is not None


def _file_of(item: pytest.Item) -> str:
    return item.path.relative_to(TESTS).as_posix()


@pytest.fixture(scope='module', autouse=True)
def _compilation(request: pytest.FixtureRequest):
    """Compiles quickly, but for modules marked `optimized`; drops compiled programs where the process has grown large."""
    options = _OPTIMIZED_OPTIONS if _is_optimized(request.node) else _quick_options
    if compiler.get_compile_options is not options:
        jax.clear_caches()  # or a program that an earlier module compiled would be taken
        compiler.get_compile_options = options
    yield
    global _kept_bytes
    if _resident_bytes() > max(_PROGRAMS_BYTES, _kept_bytes + _MORE_BYTES):
        jax.clear_caches()
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL('libc.so.6').malloc_trim(0)  # gives back what was freed
        _kept_bytes = _resident_bytes()


def _resident_bytes() -> int:
    with contextlib.suppress(OSError):
        return int(pathlib.Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')
    return 0


def _peaks() -> list[float]:
    return [_peak_gigabytes(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hands a worker's peaks to the process that began the session."""
    if hasattr(session.config, 'workeroutput'):
        session.config.workeroutput['peaks'] = _peaks()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node) -> None:
    """Receives a worker's peaks."""
    if 'peaks' in getattr(node, 'workeroutput', {}):
        _PEAKS.append(node.workeroutput['peaks'])


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    """Prints what was used; with --write-costs, writes each file's cost."""
    session = config.pluginmanager.getplugin('atlas_jax_session')
    peaks = ', '.join(f'{own:.1f} GB (a process it started: {started:.1f} GB)' for own, started in _PEAKS or [_peaks()])
    minutes = sum(cpu for _, cpu in session.took.values()) / 60
    terminalreporter.write_line(f'CPU minutes: {minutes:.1f}; largest resident size of each worker: {peaks}')
    if config.option.write_costs:
        write_costs(session.costs())


def write_costs(measured: dict[str, float]) -> None:
    """Enters these files' CPU seconds in costs.json, dearest first; quick files and those that are gone leave it."""
    costs = costs_by_file() | {name: round(seconds) for name, seconds in measured.items()}
    dear = [name for name in costs if costs[name] >= QUICK_SECONDS and (TESTS / name).is_file()]
    COSTS_FILE.write_text(json.dumps({name: costs[name] for name in sorted(dear, key=lambda name: -costs[name])}, indent=1) + '\n')
