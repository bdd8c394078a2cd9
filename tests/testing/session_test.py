"""The test session: its list of costs is up to date, and compiled programs are kept for all its processes."""

import os
import pathlib

import jax
import pytest
from jax._src import compiler

from tests.testing import session, streams


def test_costs_are_those_of_files_that_exist():
    costs = session.costs_by_file()
    assert all((session.TESTS / name).is_file() for name in costs), 'a file has moved: rename it in costs.json or use --write-costs'
    assert min(costs.values()) >= session.QUICK_SECONDS and list(costs.values()) == sorted(costs.values(), reverse=True)


def test_a_compiled_program_is_kept():
    folder = pathlib.Path(os.environ['JAX_COMPILATION_CACHE_DIR'])
    before = len(list(folder.iterdir()))
    jax.jit(lambda x: x * os.getpid() + before)(1.5)  # no other process has compiled it
    assert len(list(folder.iterdir())) > before


@pytest.mark.parametrize('platform, quick', [('cpu', True), ('tpu', False)])
def test_programs_for_a_cpu_compile_quickly(platform, quick):
    class Backend:
        pass

    Backend.platform = platform
    given = compiler.get_compile_options(1, 1, backend=Backend, env_options_overrides={'xla_dump_to': ''}).env_option_overrides
    assert set(dict(given)) == ({*streams.QUICK_TO_COMPILE} if quick else set()) | {'xla_dump_to'}


def test_exhaustive_tests_run_only_where_they_are_named(request):
    marked = [item.nodeid for item in request.session.items if item.get_closest_marker('exhaustive')]
    assert not marked or 'exhaustive' in request.config.option.markexpr
