"""set_up_host.sh on a host like the default image: Python 3.10, no venv; what it fetches is compared with its checksum."""

import fcntl
import hashlib
import sys
import zipfile

import pytest

PYTHON = f"""echo "python3 $*" >> "$LOG"
case "$*" in "-m pip "*) exec {sys.executable} "$@" ;; *) echo "Python 3.10: no module named venv" >&2; exit 1 ;; esac"""
UV = """#!/usr/bin/env bash
echo "uv $*" >> "$LOG"
[[ $1 == venv ]] || exit 0
mkdir -p .venv/bin
printf '#!/bin/sh\\necho "8 devices"; exit ${DEVICES_CODE:-0}\\n' > .venv/bin/python
chmod +x .venv/bin/python
"""


@pytest.fixture
def host(machine):
    """A host whose package index is a folder with a wheel of uv that only records."""
    machine.checkout()
    version = _version(machine)
    wheel, info = machine.folder / 'wheels' / f'uv-{version}-py3-none-any.whl', f'uv-{version}.dist-info'
    wheel.parent.mkdir()
    files = {f'uv-{version}.data/scripts/uv': UV, f'{info}/METADATA': f'Metadata-Version: 2.1\nName: uv\nVersion: {version}\n',
             f'{info}/WHEEL': 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n'}
    with zipfile.ZipFile(wheel, 'w') as archive:
        for name, text in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o100755 << 16
            archive.writestr(entry, text)
        archive.writestr(f'{info}/RECORD', ''.join(f'{name},,\n' for name in (*files, f'{info}/RECORD')))
    machine.program('python3', PYTHON)
    machine.environment |= {'PIP_NO_INDEX': '1', 'PIP_FIND_LINKS': str(wheel.parent), 'PIP_DISABLE_PIP_VERSION_CHECK': '1',
                            'UV_SHA256': hashlib.sha256(wheel.read_bytes()).hexdigest()}
    return machine


def _version(machine):
    script = (machine.folder / 'atlas_jax' / 'tpu_scripts' / 'set_up_host.sh').read_text()
    return next(line.removeprefix('uv_version=') for line in script.splitlines() if line.startswith('uv_version='))


def _run(machine, *arguments, **environment):
    return machine.run(machine.folder / 'atlas_jax' / 'tpu_scripts' / 'set_up_host.sh', *arguments, **environment)


def test_python_comes_from_uv_at_fixed_versions(host):
    result = _run(host)
    assert result.returncode == 0 and '8 devices' in result.stdout, result.stderr
    made, installed = (call for call in host.calls if call.startswith('uv '))
    assert made.startswith('uv venv --clear --managed-python --python 3.1') and made.count('.') == 3
    assert installed == 'uv pip install --python .venv/bin/python .[tpu,gcs]'
    # A second time it fetches nothing.
    before = len(host.calls)
    assert _run(host).returncode == 0 and [call.split()[0] for call in host.calls[before:]] == ['uv', 'uv']


def test_another_file_is_not_installed(host):
    result = _run(host, UV_SHA256='0' * 64)
    assert result.returncode == 1 and 'DO NOT MATCH THE HASHES' in result.stderr and 'uv was not installed' in result.stderr
    assert not (host.folder / 'atlas_jax' / '.uv').exists()
    assert not (host.folder / 'atlas_jax' / '.venv').exists() and not any(call.startswith('uv ') for call in host.calls)


def test_no_network_no_pip_and_no_devices_are_told(host):
    result = _run(host, PIP_FIND_LINKS=str(host.folder))
    assert result.returncode == 1 and result.stderr.splitlines()[-1].endswith('a host without an external address needs Cloud NAT')
    host.program('apt-get', 'echo "apt-get $*" >> "$LOG"; exit 100')
    host.program('sudo', 'shift; exec "$@"')
    host.program('python3', 'exit 1')
    result = _run(host)
    assert result.returncode == 1 and 'pip cannot be installed' in result.stderr and host.calls[-1].endswith('install -y python3-pip')
    host.program('python3', PYTHON)
    result = _run(host, DEVICES_CODE='1')
    assert result.returncode == 1 and 'TPU does not answer' in result.stderr


def test_what_an_earlier_try_left_is_ended_and_a_run_is_not(host):
    (host.folder / 'libtpu_lockfile').touch()
    assert _run(host).returncode == 0 and not (host.folder / 'libtpu_lockfile').exists()
    scripts = host.folder / 'atlas_jax' / 'tpu_scripts'
    host.run(scripts / 'run_host.sh', 'start', '--', 'sleep', '100')
    result = _run(host)
    assert result.returncode == 2 and 'a run is in progress' in result.stderr
    host.run(scripts / 'run_host.sh', 'end', END_AFTER_S='1')


def test_two_do_not_install_at_once(host):
    with open(host.folder / 'atlas_jax' / '.set_up.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = _run(host, LOCK_WAIT_S='0.1')
    assert result.returncode == 1 and 'still installing' in result.stderr and host.calls == []


def test_dry_run_prints_the_commands_and_runs_none(host):
    result = _run(host, '--dry-run')
    assert result.returncode == 0 and host.calls == [] and not (host.folder / 'atlas_jax' / '.uv').exists()
    for part in ('pip install --quiet --target .uv', 'venv --clear', 'pip install', 'jax.devices'):
        assert part in result.stdout.replace('\\', '')


def test_unknown_option(host):
    result = _run(host, '--fast')
    assert result.returncode == 2 and '--dry-run' in result.stderr and len(result.stderr.splitlines()) == 1
    assert 'tpu_scripts/set_up_host.sh [--dry-run]' in _run(host, '--help').stdout
