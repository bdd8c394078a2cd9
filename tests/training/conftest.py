"""Fixtures of whole runs without dropout: a tiny model and its index."""

import pytest

from tests.testing import tiny_run


@pytest.fixture(scope='module')
def atlas():
    return tiny_run.atlas(dropout_rate=0.0)


@pytest.fixture(scope='module')
def index(atlas, tmp_path_factory):
    return tiny_run.index(atlas, tmp_path_factory.mktemp('knowledge'))
