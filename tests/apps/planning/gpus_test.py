"""Names of GPUs, their figures, and the CPU devices that replace them."""

import os
import subprocess
import sys

import pytest

from atlas_jax import errors
from atlas_jax.apps.planning import gpus


def test_names_and_figures():
    hosts = gpus.parse('h100:16')
    assert (hosts.chips, hosts.host_chips, hosts.gpu.flops) == (16, 8, 989e12)
    assert gpus.parse('a100-40gb:1').gpu.hbm_bytes == 40e9 and gpus.parse('a100:4').host_chips == 4
    assert gpus.is_gpu('h200:8') and gpus.is_gpu('a100') and not gpus.is_gpu('v4:2x2x1') and not gpus.is_gpu('b200:8')
    # Every kind has a peak, and NVLink ends at the host.
    assert all(gpu.flops > 3e14 for gpu in gpus.GPUS.values())
    assert hosts.rate(8) == 450e9 and hosts.rate(16) == 50e9


@pytest.mark.parametrize('name', ['a100', 'a100:', 'a100:0', 'a100:3', 'a100:12', 'a100:2x2', 'h100:-8', 'h100:8x', 'h100:80000'])
def test_numbers_that_no_machine_has_are_refused(name):
    with pytest.raises(errors.ConfigError, match=f'topology "{name}": write a GPU .* 1, 2, 4 or a multiple of 8, such as h100:8'):
        gpus.parse(name)


def test_as_many_cpu_devices_stand_in_as_there_are_gpus():
    program = ('from atlas_jax.apps.planning import gpus; gpus.prepare_environment(gpus.parse("h100:16")); import jax; '
               'print(len(jax.devices()), jax.default_backend())')
    environment = os.environ | {'XLA_FLAGS': '--xla_force_host_platform_device_count=2'}
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == '16 cpu\n'


def test_too_late_is_said():
    gpus.prepare_environment(gpus.parse('h100:1'))  # jax has one device already
    with pytest.raises(RuntimeError, match='jax was imported before'):
        gpus.prepare_environment(gpus.parse('h100:4096'))
