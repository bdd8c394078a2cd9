"""Fixtures of the scripts."""

import pytest

from tests.tpu_scripts import fakes


@pytest.fixture
def cloud(tmp_path):
    return fakes.Cloud(tmp_path)


@pytest.fixture
def machine(tmp_path):
    return fakes.Machine(tmp_path)
