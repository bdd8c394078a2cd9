"""Notices of jax's libraries on a machine without an accelerator: they are silenced unless --verbose; errors are shown."""

import os
import subprocess
import sys

import pytest

from atlas_jax.runtime import quiet
from tests.testing import tiny_run

UNSET = ('JAX_PLATFORMS', 'TF_CPP_MIN_LOG_LEVEL', 'TPU_SKIP_MDS_QUERY', 'XLA_FLAGS')
# XLA then logs an error that it cannot write there: a notice that every CPU can provoke.
NOISY = {'XLA_FLAGS': '--xla_dump_to=/dev/null/nowhere'}
on_cpu = pytest.mark.skipif(quiet.has_accelerator(), reason='this machine has an accelerator')


@pytest.mark.parametrize(('environment', 'accelerator', 'libtpu', 'added'), [
    ({}, False, True, {'TF_CPP_MIN_LOG_LEVEL': '3', 'JAX_PLATFORMS': 'cpu'}),
    ({'JAX_PLATFORMS': ''}, False, True, {'TF_CPP_MIN_LOG_LEVEL': '3', 'JAX_PLATFORMS': 'cpu'}),
    ({}, False, False, {'TF_CPP_MIN_LOG_LEVEL': '3'}),
    ({}, True, True, {}),
    ({'JAX_PLATFORMS': 'cpu'}, True, True, {'TF_CPP_MIN_LOG_LEVEL': '3'}),
    ({'JAX_PLATFORMS': 'proxy'}, False, True, {'TF_CPP_MIN_LOG_LEVEL': '3'}),
    ({'JAX_FORCE_TPU_INIT': '1'}, False, True, {'TF_CPP_MIN_LOG_LEVEL': '3'}),
    ({'TF_CPP_MIN_LOG_LEVEL': '0', 'JAX_PLATFORMS': 'cpu'}, False, True, {})])
def test_the_user_s_settings_and_accelerators_stay(environment, accelerator, libtpu, added):
    assert quiet.settings(environment, accelerator, libtpu) == added


def test_a_tpu_is_known_by_its_files_and_a_network_card_is_none(tmp_path):
    def device(name, vendor, kind):
        (tmp_path / 'pci' / name).mkdir(parents=True)
        (tmp_path / 'pci' / name / 'vendor').write_text(f'{vendor}\n')
        (tmp_path / 'pci' / name / 'class').write_text(f'{kind}\n')

    def found(*devices):
        return quiet.has_accelerator([str(tmp_path / name) for name in devices], str(tmp_path / 'pci'))

    device('0', '0x1ae0', '0x020000')
    device('1', '0x8086', '0xff0000')
    (tmp_path / 'pci' / '2').mkdir()
    assert not found('accel*')
    (tmp_path / 'accel0').touch()
    assert found('accel*') and not found('nvidia0')
    device('3', '0x1ae0', '0xff0000')
    assert found()


def run(arguments, **environment):
    kept = {name: value for name, value in os.environ.items() if name not in UNSET}
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, env=kept | environment, check=False)


@pytest.fixture(scope='module')
def search(tmp_path_factory):
    """The arguments of a search in a tiny index, which starts jax and compiles."""
    folder = tmp_path_factory.mktemp('quiet')
    atlas = tiny_run.atlas(dropout_rate=0.0)
    atlas.save(folder / 'model')
    tiny_run.index(atlas, folder)
    return ('-m', 'atlas_jax', 'index', 'search', 'thing 3', '--index', folder / 'index', '--model', folder / 'model')


@on_cpu
def test_standard_error_of_a_cpu_run_has_our_lines_alone(search):
    done = run(search, **NOISY)
    assert done.returncode == 0 and done.stdout.startswith('1. ') and done.stderr == ''


@on_cpu
def test_verbose_shows_them(search):
    done = run([*search, '--verbose'], **NOISY)
    assert done.returncode == 0 and '/dev/null/nowhere' in done.stderr


@on_cpu
def test_errors_are_shown():
    program = 'from atlas_jax.runtime import quiet; quiet.quiet(); import jax; '
    failed = run(['-c', program + 'jax.block_until_ready(jax.numpy.zeros(1 << 50, "int8"))'])
    assert failed.returncode == 1 and 'RESOURCE_EXHAUSTED' in failed.stderr
    asked = run(['-c', program + 'print(jax.default_backend())'])
    assert asked.stdout.strip() == 'cpu' and asked.stderr == ''
