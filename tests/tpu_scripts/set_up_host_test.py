"""set_up_host.sh on a host like the default image: Python 3.10, no venv; everything it fetches is checked."""

import hashlib
import sys
import zipfile

import pytest

PYTHON = f'case "$*" in "-m zipfile"*) exec {sys.executable} "$@" ;; *) echo "Python 3.10: no module named venv" >&2; exit 1 ;; esac'
UV = '''#!/usr/bin/env bash
echo "uv $*" >> "$LOG"
if [[ $1 == venv ]]; then mkdir -p .venv/bin; printf '#!/bin/sh\\necho "8 devices"; exit ${DEVICES_CODE:-0}\\n' > .venv/bin/python; chmod +x .venv/bin/python; fi
'''


@pytest.fixture
def host(machine):
    machine.checkout()
    version = _version(machine)
    wheel = machine.folder / 'uv.whl'
    with zipfile.ZipFile(wheel, 'w') as archive:
        archive.writestr(f'uv-{version}.data/scripts/uv', UV)
    machine.program('python3', PYTHON)
    machine.program('curl', f'echo "curl $*" >> "$LOG"; while [[ $1 != -o ]]; do shift; done; cp {wheel} "$2"')
    machine.environment['UV_SHA256'] = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return machine


def _version(machine):
    script = (machine.folder / 'atlas_jax' / 'tpu_scripts' / 'set_up_host.sh').read_text()
    return next(line.removeprefix('uv_version=') for line in script.splitlines() if line.startswith('uv_version='))


def _run(machine, *arguments, **environment):
    return machine.run(machine.folder / 'atlas_jax' / 'tpu_scripts' / 'set_up_host.sh', *arguments, **environment)


def test_python_comes_from_uv_at_fixed_versions(host):
    result = _run(host)
    assert result.returncode == 0 and '8 devices' in result.stdout, result.stderr
    fetched, made, installed = host.calls
    assert f'uv-{_version(host)}-py3-none-manylinux' in fetched and fetched.split()[-1].startswith('https://files.pythonhosted.org/')
    assert made.startswith('uv venv --clear --managed-python --python 3.1') and made.count('.') >= 3
    assert installed == 'uv pip install --python .venv/bin/python .[tpu]'
    assert _run(host).returncode == 0 and sum('curl' in call for call in host.calls) == 1


def test_another_file_is_not_installed(host):
    result = _run(host, UV_SHA256='0' * 64)
    assert result.returncode == 1 and 'SHA-256' in result.stderr and len(result.stderr.splitlines()) == 1
    assert len(host.calls) == 1 and not (host.folder / 'atlas_jax' / '.venv').exists()
    # Nor is it taken for checked the next time.
    assert _run(host, UV_SHA256='0' * 64).returncode == 1


def test_no_network_and_no_devices_are_one_line(host):
    result = _run(host, DEVICES_CODE='1')
    assert result.returncode == 1 and 'TPU does not answer' in result.stderr
    (host.folder / 'atlas_jax' / '.uv').rename(host.folder / 'old')
    host.program('curl', 'exit 6')
    result = _run(host)
    assert result.returncode == 1 and 'Cloud NAT' in result.stderr and len(result.stderr.splitlines()) == 1


def test_what_an_earlier_try_left_is_ended_and_a_run_is_not(host):
    (host.folder / 'libtpu_lockfile').touch()
    assert _run(host).returncode == 0 and not (host.folder / 'libtpu_lockfile').exists()
    scripts = host.folder / 'atlas_jax' / 'tpu_scripts'
    host.run(scripts / 'run_host.sh', 'start', '--', 'sleep', '100')
    result = _run(host)
    assert result.returncode == 2 and 'a run is going on' in result.stderr
    host.run(scripts / 'run_host.sh', 'end', END_AFTER_S='1')


def test_dry_run_prints_the_commands_and_runs_none(host):
    result = _run(host, '--dry-run')
    assert result.returncode == 0 and host.calls == [] and not (host.folder / 'atlas_jax' / '.uv').exists()
    for part in ('curl', 'venv --clear', 'pip install', 'jax.devices'):
        assert part in result.stdout.replace('\\', '')


def test_unknown_option(host):
    result = _run(host, '--fast')
    assert result.returncode == 2 and '--dry-run' in result.stderr and len(result.stderr.splitlines()) == 1
