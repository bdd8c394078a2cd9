"""Runs tests/multidevice in its own process on 8 fake CPU devices."""

import os
import pathlib
import sys

import pytest

from tests.testing import processes

FOLDER = pathlib.Path(__file__).parent / 'multidevice'


@pytest.mark.timeout(600)
@pytest.mark.slow  # most of these tests compile a program that is partitioned over the devices
def test_on_eight_devices(request):
    environment = os.environ | {'XLA_FLAGS': '--xla_force_host_platform_device_count=8', 'JAX_PLATFORMS': 'cpu'}
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-m', request.config.option.markexpr, FOLDER]
    run = processes.run(command, env=environment, seconds=560, check=False)
    print(run.stdout[-4000:], run.stderr[-2000:])
    assert run.returncode == 0, run.stdout[-4000:]
    assert ' passed' in run.stdout and 'skipped' not in run.stdout.splitlines()[-1]
