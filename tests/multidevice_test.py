"""Runs tests/multidevice in its own process on 8 fake CPU devices."""

import os
import pathlib
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parent / 'multidevice'


@pytest.mark.slow  # most of these tests compile a program that is partitioned over the devices
@pytest.mark.parametrize('which', ['not exhaustive', pytest.param('exhaustive', marks=pytest.mark.exhaustive)])
def test_on_eight_devices(which):
    environment = os.environ | {'XLA_FLAGS': '--xla_force_host_platform_device_count=8', 'JAX_PLATFORMS': 'cpu'}
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-m', which, str(FOLDER)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200, check=False)
    print(run.stdout[-4000:], run.stderr[-2000:])
    assert run.returncode == 0, run.stdout[-4000:]
    assert ' passed' in run.stdout and 'skipped' not in run.stdout.splitlines()[-1]
