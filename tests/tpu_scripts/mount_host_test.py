"""mount_host.sh on a host without gcsfuse, with an old one, and with buckets that cannot be mounted or written."""

import pytest


@pytest.fixture
def host(machine):
    machine.checkout()
    machine.program('mountpoint', '[ -e "$HOME/mounted" ]')
    machine.program('findmnt', 'cat "$HOME/mounted"')
    machine.program('sudo', 'echo "sudo $*" >> "$LOG"; case "$*" in *" install "*) cp "$HOME/new_gcsfuse" "$HOME/bin/gcsfuse" ;; esac')
    _gcsfuse(machine, '3.4.1', machine.folder / 'new_gcsfuse')
    return machine


def _gcsfuse(machine, version, path=None):
    machine.program('gcsfuse', f'if [ "$1" = --version ]; then echo "gcsfuse version {version} (Go version go1.24)"; exit; fi\n'
                    'echo "gcsfuse $*" >> "$LOG"; [ ! -e "$HOME/refused" ]')
    if path is not None:
        (machine.folder / 'bin' / 'gcsfuse').rename(path)


def _run(host, *arguments):
    return host.run(host.folder / 'atlas_jax' / 'tpu_scripts' / 'mount_host.sh', *arguments)


MOUNTED = 'gcsfuse --implicit-dirs --metadata-cache-ttl-secs 0 --metadata-cache-negative-ttl-secs 0 --rename-dir-limit 0 my-bucket bucket'


@pytest.mark.parametrize('before', [None, '2.12.0'])
def test_gcsfuse_is_installed_where_it_is_missing_or_old(host, before):
    if before:
        _gcsfuse(host, before)
    result = _run(host, 'my-bucket', 'bucket')
    assert result.returncode == 0, result.stderr
    assert [call.split()[0] for call in host.calls] == ['sudo'] * 4 + ['gcsfuse'] and host.calls[-1] == MOUNTED
    assert 'gcsfuse=3.*' in host.calls[3] and 'signed-by=/usr/share/keyrings/cloud.google.asc' in host.calls[1]


def test_a_bucket_is_mounted_once(host):
    _gcsfuse(host, '3.0.0')
    assert _run(host, 'my-bucket', 'bucket').returncode == 0 and host.calls == [MOUNTED]
    (host.folder / 'mounted').write_text('my-bucket\n')
    assert _run(host, 'my-bucket', 'bucket').returncode == 0 and host.calls == [MOUNTED]
    assert list((host.folder / 'atlas_jax' / 'bucket').iterdir()) == []  # what shows that it can be written is gone
    result = _run(host, 'your-bucket', 'bucket')
    assert result.returncode == 1 and 'something else is mounted' in result.stderr


def test_a_bucket_without_rights_is_one_line(host):
    _gcsfuse(host, '3.0.0')
    (host.folder / 'refused').touch()
    result = _run(host, 'my-bucket', 'bucket')
    assert result.returncode == 1 and 'my-bucket: cannot be mounted' in result.stderr
    (host.folder / 'refused').unlink()
    (host.folder / 'atlas_jax' / 'bucket').rmdir()
    (host.folder / 'atlas_jax' / 'bucket').symlink_to('/proc/self')  # nobody writes there, root neither
    result = _run(host, 'my-bucket', 'bucket')
    assert result.returncode == 1 and 'roles/storage.objectUser' in result.stderr and len(result.stderr.splitlines()) == 1


def test_mistakes_are_one_line(host):
    for arguments in ((), ('my-bucket',), ('--fast', 'x'), ('my-bucket', 'bucket', '--fast')):
        result = _run(host, *arguments)
        assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
    assert 'tpu_scripts/mount_host.sh BUCKET FOLDER' in _run(host, '--help').stdout
