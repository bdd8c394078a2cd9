"""The test session: one compilation cache, quick compilation, the slowest files first, and the resources each worker used.

Compiling is most of what these tests cost. All workers and the processes that tests start share one cache of compiled programs. It is
a folder of this session, or $ATLAS_JAX_TESTS_CACHE, which is kept. Programs are compiled with few optimisations, except in modules that
are marked `optimized`: they compare numbers with other implementations, or run real models.
"""

import collections
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
_PROGRAMS_BYTES = 3 * 2**29  # resident bytes of a test process above which its compiled programs are dropped
_OPTIMIZED_OPTIONS = compiler.get_compile_options  # JAX's own
_OWN_CACHE = pytest.StashKey[str]()
_USED: collections.Counter[str] = collections.Counter()  # CPU seconds by test file, of this process and those it has waited for
_RUN: set[str] = set()  # test files with a test that ran to its end and was not skipped
_OF_WORKERS: list[dict] = []


def _cpu_seconds() -> float:
    own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


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
    os.makedirs(os.environ['JAX_COMPILATION_CACHE_DIR'], exist_ok=True)
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


def pytest_unconfigure(config: pytest.Config) -> None:
    """Removes the session's own cache."""
    if _OWN_CACHE in config.stash:
        shutil.rmtree(config.stash[_OWN_CACHE], ignore_errors=True)


def costs_by_file() -> dict[str, int]:
    """CPU seconds of the files that are not quick."""
    return json.loads(COSTS_FILE.read_text())


def pytest_ignore_collect(collection_path: pathlib.Path, config: pytest.Config) -> bool | None:
    """With `-m quick`, imports quick files only: importing PyTorch and large modules takes as long as the tests."""
    if config.option.markexpr != 'quick' or not collection_path.is_relative_to(TESTS):
        return None
    return True if collection_path.relative_to(TESTS).as_posix() in costs_by_file() else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Puts the slowest files first, so that no worker is left with one at the end; marks quick tests, leaves exhaustive ones out."""
    costs = costs_by_file()
    if 'exhaustive' not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker('exhaustive')]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker('exhaustive')]
    items.sort(key=lambda item: -costs.get(_file_of(item), 0))
    for item in items:
        if _file_of(item) not in costs and item.get_closest_marker('slow') is None:
            item.add_marker(pytest.mark.quick)


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Notes which files were not skipped: the cost of one that was is not known."""
    if report.when == 'call' and report.passed:
        _RUN.add(report.nodeid.split('::')[0])


def _file_of(item: pytest.Item) -> str:
    return item.path.relative_to(TESTS).as_posix()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item):
    """Counts what each file costs."""
    before = _cpu_seconds()
    result = yield
    _USED[_file_of(item)] += _cpu_seconds() - before
    return result


@pytest.fixture(scope='module', autouse=True)
def _compilation(request: pytest.FixtureRequest):
    """Compiles quickly, except in modules marked `optimized`; drops compiled programs where the process has grown large."""
    optimized = request.node.get_closest_marker('optimized') is not None
    with pytest.MonkeyPatch.context() as patch:
        if optimized:
            jax.clear_caches()  # or a program that an earlier module compiled would be taken
            patch.setattr(compiler, 'get_compile_options', _OPTIMIZED_OPTIONS)
        yield
    if optimized or _resident_bytes() > _PROGRAMS_BYTES:
        jax.clear_caches()
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL('libc.so.6').malloc_trim(0)  # gives freed memory back to the system


def _resident_bytes() -> int:
    with contextlib.suppress(OSError):
        return int(pathlib.Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')
    return 0


def _usage() -> dict:
    own, started = (_peak_gigabytes(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {'costs': dict(_USED), 'run': sorted(_RUN), 'peak': own, 'peak_of_started': started}


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hands a worker's usage to the process that began the session."""
    if hasattr(session.config, 'workeroutput'):
        session.config.workeroutput['usage'] = _usage()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node) -> None:
    """Receives a worker's usage."""
    if 'usage' in getattr(node, 'workeroutput', {}):
        _OF_WORKERS.append(node.workeroutput['usage'])


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    """Prints the resources used; with --write-costs, writes each file's cost."""
    usages, costs = _OF_WORKERS or [_usage()], collections.Counter()
    for usage in usages:
        costs.update(usage['costs'])
    peaks = ', '.join(f'{usage["peak"]:.1f} GB (a process it started: {usage["peak_of_started"]:.1f} GB)' for usage in usages)
    terminalreporter.write_line(f'CPU minutes: {sum(costs.values()) / 60:.1f}; largest resident size of each worker: {peaks}')
    if config.option.write_costs:
        run = {name for usage in usages for name in usage['run']}
        write_costs({name: seconds for name, seconds in costs.items() if name in run})


def write_costs(measured: dict[str, float]) -> None:
    """Enters these files' CPU seconds in costs.json, slowest first; removes quick files and missing ones."""
    costs = costs_by_file() | {name: round(seconds) for name, seconds in measured.items()}
    dear = [name for name in costs if costs[name] >= QUICK_SECONDS and (TESTS / name).is_file()]
    COSTS_FILE.write_text(json.dumps({name: costs[name] for name in sorted(dear, key=lambda name: -costs[name])}, indent=1) + '\n')
