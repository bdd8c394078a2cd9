"""run_host.sh on a host: one run at a time, a log for each, and an end that frees the TPU."""

import subprocess
import time

import pytest


@pytest.fixture
def host(machine):
    machine.checkout()
    return machine


def _run(host, *arguments, **environment):
    return host.run(host.folder / 'atlas_jax' / 'tpu_scripts' / 'run_host.sh', *arguments, **environment)


def _until(condition):
    for _ in range(400):
        if condition():
            return
        time.sleep(0.025)
    raise AssertionError('it took too long')


def _state(host):
    return _run(host, 'state').stdout.strip().removeprefix('run: ')


def test_a_command_keeps_its_arguments_and_leaves_its_log_and_code(host):
    checkout = host.folder / 'atlas_jax'
    (checkout / '.venv' / 'bin').mkdir(parents=True)
    (checkout / '.venv' / 'bin' / 'activate').write_text('export ACTIVE=yes\n')
    assert _state(host) == 'NONE'
    assert _run(host, 'start', '--', 'sh', '-c', 'echo "a  b" $ACTIVE; exit 7').returncode == 0
    _until(lambda: _state(host) == '7')
    assert (checkout / 'run.log').read_text() == 'a  b yes\n'


def test_every_start_has_a_log_of_its_own(host):
    for word in ('one', 'two'):
        _run(host, 'start', '--', 'echo', word)
        _until(lambda: _state(host) == '0')
    logs = sorted((host.folder / 'atlas_jax' / 'logs').iterdir())
    assert [log.read_text() for log in logs] == ['one\n', 'two\n']
    assert (host.folder / 'atlas_jax' / 'run.log').resolve() == logs[-1]


def test_the_log_is_copied_to_the_bucket_meanwhile_and_before_the_code_is_there(host):
    host.program('gcloud', '[ -e "$HOME/atlas_jax/run.code" ] && echo late >> "$LOG"; echo "gcloud $* $(tr "\\n" " " < "$3")" >> "$LOG"')
    command = ('sh', '-c', 'echo x; until [ -e go ]; do sleep 0.02; done; echo last')
    _run(host, 'start', '--logs', 'gs://bucket/logs/', '--', *command, COPY_EVERY_S='0.2')
    _until(lambda: len(host.calls) > 0)
    assert _state(host) == 'RUNNING'
    (host.folder / 'atlas_jax' / 'go').touch()
    _until(lambda: _state(host) == '0')
    assert all('storage cp logs/' in call and ' gs://bucket/logs/' in call for call in host.calls)
    assert ' x last' in host.calls[-1]
    count = len(host.calls)
    time.sleep(0.4)
    assert len(host.calls) == count


def test_a_run_is_not_started_twice_and_saves_when_it_is_asked_to_stop(host):
    _run(host, 'start', '--', 'sh', '-c', 'trap "exit 75" TERM; echo up; while true; do sleep 0.02; done')
    _until(lambda: 'up' in (host.folder / 'atlas_jax' / 'run.log').read_text())
    assert 'in progress' in _run(host, 'start', '--', 'true').stdout and _state(host) == 'RUNNING'
    assert _run(host, 'stop').returncode == 0
    _until(lambda: _state(host) == '75')


def test_a_run_without_a_code_is_lost_whoever_has_its_number_now(host):
    checkout = host.folder / 'atlas_jax'
    (checkout / 'run.pid').write_text('1\n')
    assert _state(host) == 'LOST'
    assert _run(host, 'end').returncode == 0 and _state(host) == 'NONE'


def test_the_end_kills_what_does_not_end_and_what_holds_the_tpu(host):
    checkout, device, lock = host.folder / 'atlas_jax', host.folder / 'dev' / 'accel0', host.folder / 'libtpu_lockfile'
    device.parent.mkdir()
    device.touch()
    lock.touch()
    _run(host, 'start', '--', 'sh', '-c', 'trap "" TERM; echo up; while true; do sleep 0.02; done')
    _until(lambda: 'up' in (checkout / 'run.log').read_text())
    with open(device) as opened, subprocess.Popen(['sleep', '100'], stdin=opened) as holder, subprocess.Popen(['sleep', '100']) as other:
        opened.close()
        result = _run(host, 'end', END_AFTER_S='1')
        assert result.returncode == 0 and f'process {holder.pid} holds the TPU' in result.stdout and 'killing it' in result.stdout
        assert holder.wait(10) == -9 and other.poll() is None
        other.kill()
    assert not lock.exists() and _state(host) == 'NONE'
    assert not any(path.name.startswith('run.') and path.name != 'run.log' for path in checkout.iterdir())


def test_mistakes_are_one_line(host):
    for arguments in ((), ('begin',), ('start',), ('start', '--')):
        result = _run(host, *arguments)
        assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
    assert 'state' in _run(host, '--help').stdout
